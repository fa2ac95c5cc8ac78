"""The backward pass of a convolution, for functions that call it themselves."""
import torch


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
