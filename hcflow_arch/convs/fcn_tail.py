"""The last two convolutions of an FCN as one autograd function: a flow step stores most of its features there."""
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .direct import conv_backward
from .layout import is_channels_last
from .modes import in_autocast_type


class HiddenConvs(torch.autograd.Function):
    """conv1x1, ReLU, conv3x3; stores only the input, and backward runs the 1x1 convolution again.

    That costs little and halves the memory of a subnet. The 3x3 convolution is not run again, because backward does not
    need its result.
    """

    @staticmethod
    def forward(ctx, x, weight1x1, bias1x1, weight3x3, bias3x3):
        """x: (N, C, H, W); weights (D, C, 1, 1) and (K, D, 3, 3). Returns (N, K, H, W)."""
        ctx.save_for_backward(x, weight1x1, bias1x1, weight3x3)
        return F.conv2d(conv1x1_relu(x, weight1x1, bias1x1), weight3x3, bias3x3, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1x1, bias1x1, weight3x3 = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):  # x and parameters already have the type to compute in
            hidden = conv1x1_relu(x, weight1x1, bias1x1)
        return hidden_convs_backward(grad, x, hidden, weight1x1, weight3x3, ctx.needs_input_grad)


def hidden_convs_backward(grad: torch.Tensor, x: torch.Tensor, hidden: torch.Tensor, weight1x1: torch.Tensor,
                          weight3x3: torch.Tensor, wants: tuple[bool, ...]) -> tuple[torch.Tensor | None, ...]:
    """Gradients of (x, weight1x1, bias1x1, weight3x3, bias3x3), None for those that are not wanted.

    Args:
        grad: Gradient of the output, (N, K, H, W).
        x: Input, (N, C, H, W).
        hidden: What :func:`conv1x1_relu` gives for it.
        weight1x1: (D, C, 1, 1).
        weight3x3: (K, D, 3, 3).
        wants: Which of the five to compute.
    """
    of_hidden, *of_conv3x3 = conv_backward(grad, hidden, weight3x3, (any(wants[:3]), *wants[3:]))
    if of_hidden is None:
        return None, None, None, *of_conv3x3
    of_hidden = torch.ops.aten.threshold_backward(of_hidden, hidden, 0)
    if not _prefers_rows(x):
        return *conv_backward(of_hidden, x, weight1x1, wants[:3]), *of_conv3x3
    of_x, *of_conv1x1 = conv_backward(_as_rows(of_hidden), _as_rows(x), weight1x1, wants[:3])
    return None if of_x is None else _from_rows(of_x, x.shape[2]), *of_conv1x1, *of_conv3x3


def hidden_convs(x: torch.Tensor, weight1x1: torch.Tensor, bias1x1: torch.Tensor, weight3x3: torch.Tensor,
                 bias3x3: torch.Tensor, recompute: bool = False) -> torch.Tensor:
    """conv1x1, ReLU, conv3x3; under autocast in its type, as PyTorch's convolutions do.

    Args:
        x: (N, C, H, W).
        weight1x1: (D, C, 1, 1); bias1x1: (D,).
        weight3x3: (K, D, 3, 3); bias3x3: (K,).
        recompute: Store only x for backward. Default: False, store the hidden features as well.

    Returns:
        torch.Tensor: (N, K, H, W).
    """
    weight1x1 = weight1x1.flatten(1)[..., None, None]  # so that its gradient has the strides that DDP expects
    x, *parameters = in_autocast_type(x, weight1x1, bias1x1, weight3x3, bias3x3)
    with torch.autocast(x.device.type, enabled=False):
        if recompute:
            return HiddenConvs.apply(x, *parameters)
        return F.conv2d(conv1x1_relu(x, *parameters[:2]), *parameters[2:], padding=1)


def conv1x1_relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) -> (N, D, H, W), with a weight (D, C, 1, 1)."""
    if not _prefers_rows(x):
        return F.relu_(F.conv2d(x, weight, bias))
    return _from_rows(F.relu_(F.conv2d(_as_rows(x), weight, bias)), x.shape[2])


def _prefers_rows(x):
    """Whether to convolve each row as an image of its own; with channels last that needs no copy.

    On one thread PyTorch runs a 1x1 convolution of fewer than 16 images as a matrix product. On some CPUs that product
    has half the speed of the convolution.
    """
    return x.device.type == 'cpu' and is_channels_last(x)


def _as_rows(x):
    """(N, C, H, W) -> (N * H, C, 1, W)."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n * h, 1, w, c).permute(0, 3, 1, 2)


def _from_rows(rows, h):
    """(N * H, C, 1, W) -> (N, C, H, W)."""
    _, c, _, w = rows.shape
    return rows.permute(0, 2, 3, 1).reshape(-1, h, w, c).permute(0, 3, 1, 2)
