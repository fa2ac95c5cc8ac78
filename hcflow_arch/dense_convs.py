"""Five densely connected convolutions as one autograd function: the memory of a network of RRDBs is theirs."""
import itertools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .compiled_convs import compiled
from .conv_gradients import conv_backward
from .memory_layout import layout_like
from .precision import in_autocast_type

NEGATIVE_SLOPE = 0.2  # of the LeakyReLU after the first four convolutions


class DenseConvs(torch.autograd.Function):
    """conv3x3 five times, each reading the input and all earlier outputs, LeakyReLU after the first four.

    Plain autograd keeps every concatenation: C + (C + G) + ... + (C + 4G) channels. Here the input and each output
    are kept once, C + 4G channels; or, with `recompute`, only the input of C channels, and backward runs the first
    four convolutions again.
    """

    @staticmethod
    def forward(ctx, x, recompute, *parameters):
        """x: (N, C, H, W); parameters: weight and bias of every convolution in turn. Returns (N, num_out_ch, H, W)."""
        grown = _grow(x, parameters)
        ctx.recompute = recompute
        ctx.save_for_backward(*parameters, *([x] if recompute else grown.parts))
        return F.conv2d(grown.read(), parameters[-2], parameters[-1], padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        num_parameters = len(ctx.needs_input_grad) - 2
        parameters, kept = ctx.saved_tensors[:num_parameters], ctx.saved_tensors[num_parameters:]
        parts = _grow(*kept, parameters).parts if ctx.recompute else kept
        weights, last = parameters[::2], num_parameters // 2 - 1
        starts = [0, *(weight.shape[1] for weight in weights)]  # the first channel of x and of each output
        outputs = [weight.shape[0] for weight in weights]
        grads = SideBySide(grad, outputs, weights[0])  # of the outputs of all convolutions
        grads.write(last, grad)
        weight_grads = [[None] * (i + 1) for i in range(last + 1)]
        wants_weights, wants_biases = any(ctx.needs_input_grad[2::2]), any(ctx.needs_input_grad[3::2])
        for i in reversed(range(last + 1)):  # x (i = 0) and outputs: all that reads one of them, as one convolution
            weight = torch.cat([later[:, starts[i]:starts[i + 1]] for later in weights[i:]])
            mask = (i > 0 or ctx.needs_input_grad[0], wants_weights, wants_biases and i == 0)
            grad_part, weight_grad, bias_grad = conv_backward(grads.read(i), parts[i], weight, mask)
            if wants_weights:
                for later, piece in zip(weight_grads[i:], weight_grad.split(outputs[i:]), strict=True):
                    later[i] = piece
            if i > 0:
                grads.write(i - 1, torch.ops.aten.leaky_relu_backward(grad_part, parts[i], NEGATIVE_SLOPE, True))
        bias_grads = bias_grad.split(outputs) if wants_biases else [None] * len(weights)
        weight_grads = [torch.cat(pieces, dim=1) if wants_weights else None for pieces in weight_grads]
        return grad_part, None, *itertools.chain.from_iterable(zip(weight_grads, bias_grads, strict=True))


class SideBySide:
    """Tensors that come one by one and are read in runs, as one tensor with the channels of all.

    In planes on a CPU they are written into one tensor whose slices are read: of a single image without a copy.
    Elsewhere, where a convolution copies every slice, they stay apart and are concatenated, which is the faster copy.

    Args:
        like: A tensor of their N, H, W, type and device.
        channels: Of each of them.
        weight: Of a convolution that reads them; it says in which layout.

    Attributes:
        parts: What was written.
    """

    def __init__(self, like: torch.Tensor, channels: list[int], weight: torch.Tensor):
        self.parts, self.starts, self.buffer = [None] * len(channels), [0, *itertools.accumulate(channels)], None
        self.layout = layout_like(weight)
        if like.device.type == 'cpu' and self.layout == torch.contiguous_format:
            n, _, h, w = like.shape
            self.buffer = like.new_empty((n, self.starts[-1], h, w))
            self.parts = list(self.buffer.split(channels, dim=1))

    def write(self, i: int, part: torch.Tensor) -> None:
        """Set the i-th. One in another layout, as what comes from the flow, would make every concatenation slow."""
        if self.buffer is None:
            self.parts[i] = part.contiguous(memory_format=self.layout)
        else:
            self.parts[i].copy_(part)

    def read(self, first: int = 0, end: int | None = None) -> torch.Tensor:
        """The first-th to the one before the end-th as one tensor; end: None, all to the last."""
        if self.buffer is not None:
            return self.buffer[:, self.starts[first]:None if end is None else self.starts[end]]
        parts = self.parts[first:end]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _grow(x, parameters):
    """(N, C, H, W) -> x and the outputs of all convolutions but the last."""
    weights, biases = parameters[:-2:2], parameters[1:-2:2]
    with torch.autocast(x.device.type, enabled=False):  # x and parameters have the type to compute in
        grown = SideBySide(x, [x.shape[1], *(len(bias) for bias in biases)], weights[0])
        grown.write(0, x)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            grown.write(i + 1, F.leaky_relu_(F.conv2d(grown.read(0, i + 1), weight, bias, padding=1), NEGATIVE_SLOPE))
    return grown


def dense_convs(x: torch.Tensor, convs, recompute: bool = False, compile: bool = False) -> torch.Tensor:
    """Run five conv3x3 densely connected; under autocast in its type, as convolutions are.

    Args:
        x: (N, C, H, W).
        convs: The five nn.Conv2d, all but the last with the same number of outputs.
        recompute: Keep only x for backward. Default: False, keep the outputs as well.
        compile: Compile what runs without gradients. Default: False.
    """
    x, *parameters = in_autocast_type(x, *(parameter for conv in convs for parameter in (conv.weight, conv.bias)))
    # the cache off as while a CUDA graph is recorded, for what is compiled depends on that and cannot be compiled then
    with torch.autocast(x.device.type, enabled=False, cache_enabled=False):
        if compile and not torch.is_grad_enabled():
            x = x.contiguous(memory_format=layout_like(parameters[0]))
            return compiled(x, parameters[::2], parameters[1::2], NEGATIVE_SLOPE)
        return DenseConvs.apply(x, recompute, *parameters)
