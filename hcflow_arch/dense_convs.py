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
        ends = [weight.shape[1] for weight in weights]  # convolution i reads the channels before ends[i]
        starts = [0, *ends[:-1]]  # part i of the buffer, starts[i] to ends[i]: what convolution i - 1 wrote, first x
        # Gradients of the outputs of all convolutions side by side, so that the gradient of each part is a single
        # convolution over those of all that read it: 1.9 times as fast at 80x80 on a CPU as adding up five.
        grads = grad.new_empty(len(grad), ends[-1] - ends[0] + grad.shape[1], *grad.shape[2:])
        grads[:, -grad.shape[1]:] = grad
        parameter_grads = []
        for i in reversed(range(len(weights))):
            begin, end = (channel - ends[0] for channel in (ends[i], (*ends, grads.shape[1] + ends[0])[i + 1]))
            mask = (False, *ctx.needs_input_grad[2 + 2 * i:4 + 2 * i])
            if any(mask):
                own = _conv_backward(grads[:, begin:end], buffer[:, :ends[i]], weights[i], mask)[1:]
            else:
                own = (None, None)
            parameter_grads = [*own, *parameter_grads]
            if i == 0 and not ctx.needs_input_grad[0]:
                break
            part = slice(starts[i], ends[i])
            readers = torch.cat([weight[:, part] for weight in weights[i:]])
            grad = _conv_backward(grads[:, begin:], buffer[:, part], readers, (True, False, False))[0]
            if i > 0:
                torch.ops.aten.leaky_relu_backward.grad_input(
                    grad, buffer[:, part], NEGATIVE_SLOPE, True, grad_input=grads[:, part.start - ends[0]:begin])
        return grad if ctx.needs_input_grad[0] else None, None, *parameter_grads


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
