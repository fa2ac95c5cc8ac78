"""Dense blocks with few kernels: each writes its features side by side into one buffer, and nothing is concatenated.

For GPUs, where a step otherwise waits for thousands of small kernels, and for CPUs with channels first. With channels
last on a CPU, where a convolution would copy a slice of a buffer, `dense_block.py` is faster.
"""
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .direct import conv_backward
from .layout import is_channels_last, layout_like
from .modes import in_autocast_type, is_traced

NEGATIVE_SLOPE = 0.2  # of the LeakyReLU after the first four convolutions
RESIDUAL = 0.2  # a block of a residual chain is added to its input times this


class BufferedBlocks(torch.autograd.Function):
    """Dense blocks of five conv3x3: RRDBs of `group` blocks each, one after another, or a single block (group 0).

    Stores the buffers, C + 4G channels a block; with `recompute` the inputs of the blocks, C channels.
    """

    @staticmethod
    def forward(ctx, x, group, recompute, *parameters):
        """x: (N, C, H, W); parameters: weight and bias of each convolution in turn. Returns (N, num_out_ch, H, W)."""
        kept = []
        out = _run(x, group, parameters, kept, recompute)
        ctx.group, ctx.recompute, ctx.in_ch = group, recompute, x.shape[1]
        ctx.save_for_backward(*parameters, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):  # all tensors already have the type to compute in
            return _backward(ctx, grad)


def _run(x, group, parameters, kept=None, recompute=False):
    """Run the blocks. Appends what backward needs to `kept`; without it, all blocks use one buffer."""
    blocks, y = _blocks(parameters), None
    keeps_buffers = kept is not None and not recompute
    buffer, place = _new_buffer(x, blocks[0])  # place: its first channels, where the input of a block is
    outer = place.copy_(x) if keeps_buffers else x  # the input of the RRDB
    for i, of_block in enumerate(blocks):
        if i > 0:
            before = place
            if keeps_buffers:
                buffer, place = _new_buffer(x, of_block)
            _add_residual(before, y, outer, i % group == 0, out=place)
            if i % group == 0:
                outer = place if keeps_buffers else place.clone()
        elif not keeps_buffers:
            place.copy_(x)
        if kept is not None:
            kept.append(buffer if keeps_buffers else outer if i == 0 or i % group == 0 else place.clone())
        _grow(buffer, x.shape[1], of_block)
        y = F.conv2d(buffer, *of_block[-2:], padding=1)
    return _add_residual(place, y, outer, True) if group else y


def _add_residual(x, y, outer, ends, out=None):
    """x + 0.2 * y, y the output of a block and x its input; at the end of an RRDB its own residual, too."""
    if not ends:
        return torch.add(x, y, alpha=RESIDUAL, out=out)
    return torch.add(outer, torch.add(x, y, alpha=RESIDUAL), alpha=RESIDUAL, out=out)


def _blocks(parameters):
    return [parameters[i:i + 10] for i in range(0, len(parameters), 10)]


def _new_buffer(x, parameters):
    size = (x.shape[0], parameters[-2].shape[1], *x.shape[2:])
    buffer = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout_like(parameters[0]))
    return buffer, buffer[:, :x.shape[1]]


def _grow(buffer, end, parameters):
    """Fill a buffer, of which the first `end` channels are the input, with the outputs of all but the last."""
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        start, end = end, end + len(bias)
        y = F.conv2d(buffer[:, :start], weight, bias, padding=1)
        torch.ops.aten.leaky_relu.out(y, NEGATIVE_SLOPE, out=buffer[:, start:end])


def _backward(ctx, grad):
    blocks = _blocks(ctx.saved_tensors[:len(ctx.needs_input_grad) - 3])
    kept, grads = list(ctx.saved_tensors[10 * len(blocks):]), []
    inner = grad  # gradient of the output of a block, in an RRDB divided by RESIDUAL**2
    for i in reversed(range(len(blocks))):
        buffer = kept.pop()
        if ctx.recompute:
            x, (buffer, place) = buffer, _new_buffer(buffer, blocks[i])
            place.copy_(x)
            _grow(buffer, ctx.in_ch, blocks[i])
        of_x, of_parameters = _block_backward(inner, buffer, ctx.in_ch, blocks[i],
                                              ctx.needs_input_grad[3 + 10 * i:][:10])
        grads = of_parameters + grads
        inner = inner.add(of_x, alpha=RESIDUAL) if ctx.group else of_x
        if ctx.group and i % ctx.group == 0:  # the input of an RRDB
            grad = inner = grad.add(inner, alpha=RESIDUAL)
    wanted = [of_parameter for of_parameter in grads if of_parameter is not None]
    if ctx.group and wanted:
        torch._foreach_mul_(wanted, RESIDUAL**2)
    return inner, None, None, *grads


def _block_backward(grad, buffer, in_ch, parameters, wanted):
    """Gradients of the input and of the parameters of a block, from that of its output (N, num_out_ch, H, W)."""
    end, grads = buffer.shape[1], []
    of_buffer = None
    for i in reversed(range(len(parameters) // 2)):
        weight = parameters[2 * i]
        of_inputs, of_weight, of_bias = conv_backward(grad, buffer[:, :end], weight, (True, *wanted[2 * i:2 * i + 2]))
        grads = [of_weight, of_bias, *grads]
        if of_buffer is None:
            of_buffer = of_inputs
        else:
            of_buffer[:, :end].add_(of_inputs)
        if i > 0:
            start = end - len(parameters[2 * i - 1])
            grad = torch.ops.aten.leaky_relu_backward(of_buffer[:, start:end], buffer[:, start:end], NEGATIVE_SLOPE,
                                                      True)
            end = start
    return of_buffer[:, :in_ch], grads


def buffers_pay(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a dense block with this weight runs with few kernels; not where compilers and tracers read the code."""
    return not is_traced() and not (x.device.type == 'cpu' and is_channels_last(weight))


def buffered_blocks(x: torch.Tensor, blocks, group: int = 0, recompute: bool = False) -> torch.Tensor:
    """Run dense blocks; under autocast in its type, as PyTorch's convolutions do.

    Args:
        x: (N, C, H, W).
        blocks: For each block its five nn.Conv2d.
        group: Blocks of each RRDB: x <- x + 0.2 * block(x) for each of them, then x_0 + 0.2 * x. Default: 0, a single
            block without residual connection.
        recompute: Store only the inputs of blocks for backward. Default: False.
    """
    x, *parameters = in_autocast_type(x, *(parameter for convs in blocks for conv in convs
                                           for parameter in (conv.weight, conv.bias)))
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled():
            return BufferedBlocks.apply(x, group, recompute, *parameters)
        return _run(x, group, parameters)
