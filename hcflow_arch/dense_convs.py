"""Five densely connected convolutions as one autograd function: the memory of a network of RRDBs is theirs."""
import itertools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .memory_layout import layout_like

NEGATIVE_SLOPE = 0.2  # of the LeakyReLU after the first four convolutions


class DenseConvs(torch.autograd.Function):
    """conv3x3 five times, each reading the input and all earlier outputs, LeakyReLU after the first four.

    Plain autograd keeps every concatenation: C + (C + G) + ... + (C + 4G) channels. Here all outputs are written into
    one buffer of C + 4G channels of which each convolution reads the first, and only that buffer is kept; or, with
    `recompute`, only the input of C channels, and backward runs the first four convolutions again.
    """

    @staticmethod
    def forward(ctx, x, recompute, *parameters):
        """x: (N, C, H, W); parameters: weight and bias of every convolution in turn. Returns (N, num_out_ch, H, W)."""
        buffer = _grow(x, parameters[:-2])
        ctx.recompute = recompute
        ctx.save_for_backward(x if recompute else buffer, *parameters)
        return F.conv2d(buffer, *parameters[-2:], padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        kept, *parameters = ctx.saved_tensors
        buffer = _grow(kept, parameters[:-2]) if ctx.recompute else kept
        weights, last = parameters[::2], len(parameters) // 2 - 1
        starts = [0, *(weight.shape[1] for weight in weights)]  # where in the buffer x and each output begin
        outputs = [weight.shape[0] for weight in weights]
        ends = list(itertools.accumulate(outputs, initial=0))  # where in grad_buffer the gradient of each output begins
        grad_buffer = _empty(grad, ends[-1], weights[0])
        grad_buffer[:, ends[last]:] = grad
        weight_grads = [[None] * (i + 1) for i in range(last + 1)]
        wants_weights, wants_biases = any(ctx.needs_input_grad[2::2]), any(ctx.needs_input_grad[3::2])
        for i in reversed(range(last + 1)):  # x (i = 0) and outputs: all that reads one of them, as one convolution
            part = buffer[:, starts[i]:starts[i + 1]]
            weight = torch.cat([later[:, starts[i]:starts[i + 1]] for later in weights[i:]])
            mask = (i > 0 or ctx.needs_input_grad[0], wants_weights, wants_biases and i == 0)
            grad_read = grad_buffer[:, ends[i]:] if i < last else grad  # without a copy
            grad_part, weight_grad, bias_grad = _conv_backward(grad_read, part, weight, mask)
            if wants_weights:
                for later, piece in zip(weight_grads[i:], weight_grad.split(outputs[i:]), strict=True):
                    later[i] = piece
            if i > 0:
                grad_buffer[:, ends[i - 1]:ends[i]] = torch.ops.aten.leaky_relu_backward(
                    grad_part, part, NEGATIVE_SLOPE, True)
        bias_grads = bias_grad.split(outputs) if wants_biases else [None] * len(weights)
        weight_grads = [torch.cat(pieces, dim=1) if wants_weights else None for pieces in weight_grads]
        return grad_part, None, *itertools.chain.from_iterable(zip(weight_grads, bias_grads, strict=True))


def _empty(like, num_ch, weight):
    """A tensor of num_ch channels, of like's other sizes, type and device, laid out as the weight is."""
    n, _, h, w = like.shape
    return torch.empty((n, num_ch, h, w), dtype=like.dtype, device=like.device, memory_format=layout_like(weight))


def _grow(x, parameters):
    """(N, C, H, W) -> x and the outputs of all convolutions but the last in one tensor."""
    num_in_ch, num_grow_ch = parameters[0].shape[1], parameters[0].shape[0]
    buffer = _empty(x, num_in_ch + len(parameters) // 2 * num_grow_ch, parameters[0])
    buffer[:, :num_in_ch] = x
    with torch.autocast(x.device.type, enabled=False):  # x and parameters have the type to compute in
        for i in range(len(parameters) // 2):
            end = num_in_ch + i * num_grow_ch
            out = F.conv2d(buffer[:, :end], *parameters[2 * i:2 * i + 2], padding=1)
            torch.ops.aten.leaky_relu.out(out, NEGATIVE_SLOPE, out=buffer[:, end:end + num_grow_ch])
    return buffer


def _conv_backward(grad, x, weight, mask):
    """Gradients of conv3x3 in (x, weight, bias), None where the mask is False."""
    return torch.ops.aten.convolution_backward(
        grad, x, weight, [weight.shape[0]], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)


def dense_convs(x: torch.Tensor, convs, recompute: bool = False) -> torch.Tensor:
    """Run five conv3x3 densely connected; under autocast in its type, as convolutions are.

    Args:
        x: (N, C, H, W).
        convs: The five nn.Conv2d, all but the last with the same number of outputs.
        recompute: Keep only x for backward. Default: False, keep the outputs as well.
    """
    parameters = [parameter for conv in convs for parameter in (conv.weight, conv.bias)]
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x, *parameters = (tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, *parameters))
    with torch.autocast(device, enabled=False):
        return DenseConvs.apply(x, recompute, *parameters)
