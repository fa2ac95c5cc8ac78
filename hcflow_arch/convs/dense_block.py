"""Five densely connected convolutions as one autograd function: they need most of the memory of an RRDB network."""
import itertools

import torch
from torch.autograd.function import once_differentiable

from .buffered_blocks import NEGATIVE_SLOPE, buffered_blocks, buffers_pay
from .compiled import compiled
from .direct import DirectConvs
from .layout import layout_like
from .modes import in_autocast_type
from .winograd import WinogradConvs


class DenseConvs(torch.autograd.Function):
    """conv3x3 five times, each reading the input and all earlier outputs, LeakyReLU after the first four.

    Plain autograd stores every concatenation: C + (C + G) + ... + (C + 4G) channels. This function stores the input and
    each output once, C + 4G channels. With `recompute` it stores only the input, C channels, and backward runs the
    first four convolutions again.
    """

    @staticmethod
    def forward(ctx, x, recompute, *parameters):
        """x: (N, C, H, W); parameters: weight and bias of each convolution in turn. Returns (N, num_out_ch, H, W)."""
        convs = _fastest(x, parameters[::2])
        grown, last = _grow(convs, x, parameters)
        beside = grown.add(last)
        ctx.recompute = recompute
        ctx.save_for_backward(*parameters, *([x] if recompute else grown.parts))
        ctx.convs = convs
        return convs.image(convs.conv(beside, *parameters[-2:]))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):  # all tensors already have the type to compute in
            return _backward(ctx, grad)


def _backward(ctx, grad):
    num_parameters, convs, saved = len(ctx.needs_input_grad) - 2, ctx.convs, ctx.saved_tensors
    parameters, parts = saved[:num_parameters], saved[num_parameters:]
    if ctx.recompute:
        grown, last_part = _grow(convs, *parts, parameters)
        parts = [*grown.parts, last_part]
        del grown  # the inputs of the convolutions
    weights, last = parameters[::2], num_parameters // 2 - 1
    starts = [0, *(weight.shape[1] for weight in weights)]  # first channel of x and of each output
    outputs = [weight.shape[0] for weight in weights]
    grads, grad = convs.gradients_beside(sum(outputs)), convs.gradient(grad)
    weight_grads = [[None] * (i + 1) for i in range(last + 1)]
    wants_weights, wants_biases = any(ctx.needs_input_grad[2::2]), any(ctx.needs_input_grad[3::2])
    for i in reversed(range(last + 1)):  # x (i = 0) or an output: all convolutions that read it, as one
        weight = torch.cat([later[:, starts[i]:starts[i + 1]] for later in weights[i:]])
        mask = (i > 0 or ctx.needs_input_grad[0], wants_weights, wants_biases and i == 0)
        grad_part, weight_grad, bias_grad = convs.conv_backward(grads.add(grad), parts[i], weight, mask)
        if wants_weights:
            for later, piece in zip(weight_grads[i:], weight_grad.split(outputs[i:]), strict=True):
                later[i] = piece
        if i > 0:
            grad = convs.leaky_relu_backward(grad_part, parts[i], NEGATIVE_SLOPE)
    bias_grads = bias_grad.split(outputs) if wants_biases else [None] * len(weights)
    weight_grads = [torch.cat(pieces, dim=1) if wants_weights else None for pieces in weight_grads]
    return (None if grad_part is None else convs.image(grad_part), None,
            *itertools.chain.from_iterable(zip(weight_grads, bias_grads, strict=True)))


def _grow(convs, x, parameters):
    """(N, C, H, W) -> x and all outputs but the last, side by side; and the last output."""
    weights, biases = parameters[:-2:2], parameters[1:-2:2]
    grown, part = convs.parts_beside(parameters[-2].shape[1]), convs.part(x)
    for weight, bias in zip(weights, biases, strict=True):
        part = convs.leaky_relu(convs.conv(grown.add(part), weight, bias), NEGATIVE_SLOPE)
    return grown, part


def _fastest(x, weights):
    """The faster of the two ways to convolve."""
    return WinogradConvs(x) if WinogradConvs.pays(x, weights) else DirectConvs(weights[0])


def dense_convs(x: torch.Tensor, convs, recompute: bool = False, compile: bool = False) -> torch.Tensor:
    """Run five densely connected conv3x3; under autocast in its type, as PyTorch's convolutions do.

    Args:
        x: (N, C, H, W).
        convs: The five nn.Conv2d, all but the last with the same number of outputs.
        recompute: Store only x for backward. Default: False, store the outputs as well.
        compile: Use torch.compile when gradients are disabled. Default: False.
    """
    compile = compile and not torch.is_grad_enabled()
    if not compile and buffers_pay(x, convs[0].weight):
        return buffered_blocks(x, [convs], recompute=recompute)
    x, *parameters = in_autocast_type(x, *(parameter for conv in convs for parameter in (conv.weight, conv.bias)))
    # cache disabled as in the recording of a CUDA graph: compiled code depends on it, and must not be compiled there
    with torch.autocast(x.device.type, enabled=False, cache_enabled=False):
        if compile:
            x = x.contiguous(memory_format=layout_like(parameters[0]))
            return compiled(x, parameters[::2], parameters[1::2], NEGATIVE_SLOPE)
        return DenseConvs.apply(x, recompute, *parameters)
