"""The convolutions of a dense block by PyTorch's own functions."""
import torch
import torch.nn.functional as F

from .layout import layout_like


def conv_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]):
    """Gradients of (x, weight, bias) of a convolution that keeps the size; None for those that are not wanted.

    Args:
        grad: Gradient of the output, (N, K, H, W).
        x: Input, (N, C, H, W).
        weight: (K, C, k, k), k odd.
        wanted: Which of the three to compute.
    """
    padding = weight.shape[2] // 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, wanted)


class DirectConvs:
    """conv3x3 and LeakyReLU, forward and backward, for any device, type and layout.

    :class:`WinogradConvs` has the same methods. Each class may store features in its own form: a *part* is the input or
    an output, and convolutions read parts *beside* each other, which `add` of :meth:`parts_beside` and
    :meth:`gradients_beside` returns.

    Args:
        weight: Weight of one of the convolutions; features get its memory layout.
    """

    def __init__(self, weight: torch.Tensor):
        self.layout = layout_like(weight)

    def part(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> part; here the image itself."""
        return x

    gradient = part  # the gradient of an output, in the form of a part

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """An output, or the gradient of a part -> (N, K, H, W)."""
        return x

    def parts_beside(self, channels: int) -> 'SideBySide':
        """Collects parts with `channels` channels in total, each after the one before."""
        return SideBySide(self.layout)

    def gradients_beside(self, channels: int) -> 'SideBySide':
        """Collects gradients of outputs, each before the previous one."""
        return SideBySide(self.layout, in_front=True)

    def conv(self, beside: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """The output of a convolution of the collected parts."""
        return F.conv2d(beside, weight, bias, padding=1)

    def leaky_relu(self, y: torch.Tensor, slope: float) -> torch.Tensor:
        """LeakyReLU of an output, in place; the result is a part."""
        return F.leaky_relu_(y, slope)

    def conv_backward(self, beside, part, weight, wanted: tuple[bool, bool, bool]):
        """Gradients of (part, weight, bias), or None; beside: gradients of all outputs that read the part."""
        return conv_backward(beside, part, weight, wanted)

    def leaky_relu_backward(self, grad: torch.Tensor, part: torch.Tensor, slope: float) -> torch.Tensor:
        """Gradient of the output before its LeakyReLU."""
        return torch.ops.aten.leaky_relu_backward(grad, part, slope, True)


class SideBySide:
    """Concatenates tensors that are added one by one.

    Attributes:
        parts: The added tensors, in the order of their channels.
    """

    def __init__(self, layout: torch.memory_format, in_front: bool = False):
        self.parts, self.in_front, self.layout = [], in_front, layout

    def add(self, part: torch.Tensor) -> torch.Tensor:
        """All tensors so far as one."""
        part = part.contiguous(memory_format=self.layout)  # the flow's are channels first: slow to copy
        self.parts.insert(0 if self.in_front else len(self.parts), part)
        return part if len(self.parts) == 1 else torch.cat(self.parts, dim=1)
