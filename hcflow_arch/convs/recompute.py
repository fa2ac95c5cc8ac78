"""Trading time for memory in training."""
import torch
import torch.nn as nn
from torch.autograd.function import once_differentiable


def recomputed(function, module: nn.Module | None, *args):
    """Run `function(*args)` and store only its arguments; backward runs it again.

    Like `torch.utils.checkpoint`, but without its hooks, whose time adds up over a hundred calls. Autograd gets the
    parameters as inputs, so their gradients work with DistributedDataParallel and with repeated use.

    Args:
        function: Must be deterministic and draw no random numbers; data-dependent initialization happens in the first
            run only.
        module: Must hold all parameters that the function uses. None if it uses its arguments alone.
        args: Tensors and plain values.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return _Recomputed.apply(function, len(args), *args, *(module.parameters() if module else ()))


class _Recomputed(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function, num_args, *args):
        ctx.function, ctx.num_args = function, num_args
        ctx.values = [None if torch.is_tensor(arg) else arg for arg in args]
        ctx.places = [place for place, arg in enumerate(args) if torch.is_tensor(arg)]
        ctx.save_for_backward(*(args[place] for place in ctx.places))
        device = args[0].device.type
        # no cache of cast weights: the ones made here have no gradients and must not be reused elsewhere
        ctx.autocast = {'device_type': device, 'dtype': torch.get_autocast_dtype(device),
                        'enabled': torch.is_autocast_enabled(device), 'cache_enabled': False}
        with torch.autocast(**ctx.autocast):
            return function(*args[:num_args])

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        args = list(ctx.values)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            is_input = place < ctx.num_args  # parameters are not copied: the function uses them itself
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad) if is_input else tensor
        with torch.enable_grad(), torch.autocast(**ctx.autocast):
            outputs = ctx.function(*args[:ctx.num_args])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if out.requires_grad]
        wanted = [place for place in ctx.places if ctx.needs_input_grad[2 + place]]
        found = torch.autograd.grad([out for out, _ in pairs], [args[place] for place in wanted],
                                    [grad for _, grad in pairs], allow_unused=True)
        result = [None] * len(args)
        for place, grad in zip(wanted, found, strict=True):
            result[place] = grad
        return None, None, *result
