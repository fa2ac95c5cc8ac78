"""Five densely connected convolutions as one autograd function: the memory of a network of RRDBs is theirs."""
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

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
        weights = parameters[::2]
        starts = [0, *(weight.shape[1] for weight in weights[:-1])]  # where in the buffer x and each output begin
        grad_buffer, parameter_grads = None, []
        for i in reversed(range(len(weights))):
            end = weights[i].shape[1]  # this convolution reads the channels before
            mask = (i > 0 or ctx.needs_input_grad[0], *ctx.needs_input_grad[2 + 2 * i:4 + 2 * i])
            grad_read, *own = _conv_backward(grad, buffer[:, :end], weights[i], mask)
            parameter_grads = [*own, *parameter_grads]
            if grad_buffer is None:
                grad_buffer = grad_read
            elif mask[0]:
                grad_buffer[:, :end] += grad_read
            if i > 0:
                part = slice(starts[i], end)
                grad = torch.ops.aten.leaky_relu_backward(grad_buffer[:, part], buffer[:, part], NEGATIVE_SLOPE, True)
        return grad_buffer[:, :end] if ctx.needs_input_grad[0] else None, None, *parameter_grads


def _grow(x, parameters):
    """(N, C, H, W) -> x and the outputs of all convolutions but the last in one tensor."""
    num_in_ch, num_grow_ch = parameters[0].shape[1], parameters[0].shape[0]
    n, _, h, w = x.shape
    buffer = x.new_empty(n, num_in_ch + len(parameters) // 2 * num_grow_ch, h, w)
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
