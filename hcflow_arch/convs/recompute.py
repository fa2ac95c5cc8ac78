"""Trading time for memory in training."""
import torch
import torch.nn as nn
from torch.autograd.function import once_differentiable


def recomputed(function, module: nn.Module, *args):
    """`function(*args)`, of which only the arguments are kept; backward runs it again to get what it needs.

    As `torch.utils.checkpoint`, without its hooks, whose time shows where there are a hundred calls. Parameters are
    handed to autograd, so gradients come as usual under DistributedDataParallel and in repeated use.

    Args:
        function: Draws no random numbers, and does the same both times: what starts from data, the first run starts.
        module: Holds all parameters that the function uses.
        args: Tensors and plain values.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return _Recomputed.apply(function, len(args), *args, *module.parameters())


class _Recomputed(torch.autograd.Function):

    @staticmethod
    def forward(ctx, function, num_args, *args):
        ctx.function, ctx.num_args = function, num_args
        ctx.values = [None if torch.is_tensor(arg) else arg for arg in args]
        ctx.places = [place for place, arg in enumerate(args) if torch.is_tensor(arg)]
        ctx.save_for_backward(*(args[place] for place in ctx.places))
        device = args[0].device.type
        # no cache of cast weights: those made here, without gradients, must not be found by others
        ctx.autocast = {'device_type': device, 'dtype': torch.get_autocast_dtype(device),
                        'enabled': torch.is_autocast_enabled(device), 'cache_enabled': False}
        with torch.autocast(**ctx.autocast):
            return function(*args[:num_args])

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        args = list(ctx.values)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            is_input = place < ctx.num_args  # parameters stay what they are: the function uses them itself
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
