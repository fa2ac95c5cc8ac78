"""Convolutions of a dense block by PyTorch's own, and what they read put side by side."""
import torch
import torch.nn.functional as F

from .layout import layout_like


def conv_backward(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]):
    """Gradients in (x, weight, bias) of a convolution that keeps the size, None where not wanted.

    Args:
        grad: (N, K, H, W), of the output.
        x: (N, C, H, W), the input.
        weight: (K, C, k, k), k odd.
        wanted: Which of the three.
    """
    padding = weight.shape[2] // 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], [padding, padding], [1, 1], False, [0, 0], 1, wanted)


class DirectConvs:
    """conv3x3 and LeakyReLU, forward and backward; for any device, type and layout.

    Another way to convolve has the same methods, and may keep features in forms of its own: a *part*, of the input or
    of an output, and what its convolutions read, parts *beside* each other, which only `add` of :meth:`parts_beside`
    and :meth:`gradients_beside` gives.

    Args:
        weight: Of one of the convolutions; it says in which layout.
    """

    def __init__(self, weight: torch.Tensor):
        self.layout = layout_like(weight)

    def part(self, x: torch.Tensor) -> torch.Tensor:
        """Of an image (N, C, H, W): itself."""
        return x

    gradient = part  # the same for the gradient of an output

    def image(self, x: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W), of an output or of the gradient of a part."""
        return x

    def parts_beside(self, channels: int) -> 'SideBySide':
        """For parts of so many channels in all, each put behind the one before."""
        return SideBySide(channels, self.layout)

    def gradients_beside(self, channels: int) -> 'SideBySide':
        """For gradients of outputs, each put in front of the one before."""
        return SideBySide(channels, self.layout, in_front=True)

    def conv(self, beside: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Output of a convolution that reads the parts that lie side by side."""
        return F.conv2d(beside, weight, bias, padding=1)

    def leaky_relu(self, y: torch.Tensor, slope: float) -> torch.Tensor:
        """The part that an output becomes, in its place."""
        return F.leaky_relu_(y, slope)

    def conv_backward(self, beside, part, weight, wanted: tuple[bool, bool, bool]):
        """Gradients in (part, weight, bias), None where not wanted; beside: of all outputs that read the part."""
        return conv_backward(beside, part, weight, wanted)

    def leaky_relu_backward(self, grad: torch.Tensor, part: torch.Tensor, slope: float) -> torch.Tensor:
        """Gradient of the output that became a part."""
        return torch.ops.aten.leaky_relu_backward(grad, part, slope, True)


class SideBySide:
    """Tensors that come one by one and are read together, as one tensor with the channels of all.

    In planes on a CPU they are written into one tensor whose slices are read: of a single image without a copy.
    Elsewhere, where a convolution copies every slice, they stay apart and are concatenated, which is the faster copy.

    Attributes:
        parts: What was added, in order of channels; `in_front` of use here alone.
    """

    def __init__(self, channels: int, layout: torch.memory_format, in_front: bool = False):
        self.parts, self.in_front, self.layout = [], in_front, layout
        self.channels, self.filled, self.buffer = channels, 0, None

    def add(self, part: torch.Tensor) -> torch.Tensor:
        """All so far as one tensor."""
        if part.device.type == 'cpu' and self.layout == torch.contiguous_format:
            return self._into_buffer(part)
        part = part.contiguous(memory_format=self.layout)  # planes, as the flow has them, would slow down every copy
        self.parts.insert(0 if self.in_front else len(self.parts), part)
        return part if len(self.parts) == 1 else torch.cat(self.parts, dim=1)

    def _into_buffer(self, part):
        n, c, h, w = part.shape
        if self.buffer is None:
            self.buffer = part.new_empty((n, self.channels, h, w))
        start, self.filled = self.filled, self.filled + c
        if self.in_front:
            first = self.channels - self.filled
            self.buffer[:, first:first + c].copy_(part)
            return self.buffer[:, first:]
        self.parts.append(self.buffer[:, start:self.filled].copy_(part))
        return self.buffer[:, :self.filled]
