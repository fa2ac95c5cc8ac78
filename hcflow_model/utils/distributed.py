"""Work that the processes of a distributed run share: what one of them raises, all raise, so that none waits."""
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from hcflow_arch import InputError

from .errors import LostProcessError

SETTLING = 0.1  # seconds, of which the thread needs microseconds


def settle() -> None:
    """To be called before a process ends. Nothing is waited for without distributed processes.

    A thread of gloo drops the tensors of the last message a moment after it was received, and needs Python's lock for
    it. An interpreter that is ending gives no lock any more, and the process would abort with all its work done.
    """
    if dist.is_available() and dist.is_initialized():
        time.sleep(SETTLING)  # gives the lock away


def together(opt: dict, function: Callable, *args: object) -> list:
    """Call a function on every rank and wait for all.

    Args:
        opt (dict): All options: `dist` says whether there is more than one process.
        function: What to call; its result must be picklable.
        args: Its arguments.

    Returns:
        list: The results of all ranks, in their order; the same on every rank.

    Raises:
        InputError: One rank raised it: all raise it.
        LostProcessError: Another rank raised something else; that rank raises it itself.
    """
    if not opt['dist']:
        return [function(*args)]
    result = own_error = None
    try:
        result = function(*args)
    except Exception as error:  # of any kind: the other processes must know before it is raised
        own_error = error
    outcomes = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, isinstance(own_error, InputError), own_error and repr(own_error),
                                      own_error and str(own_error)))
    if own_error is not None:
        raise own_error
    for rank, (_, over_input, name, message) in enumerate(outcomes):
        if over_input:
            raise InputError(message)
        if name is not None:
            raise LostProcessError(f'Rank {rank} failed: {name}')
    return [outcome[0] for outcome in outcomes]


@torch.no_grad()
def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Give every rank the values of rank 0, as DistributedDataParallel does with parameters, once, and buffers."""
    for tensor in tensors:
        values = tensor.contiguous()  # backends send no other
        dist.broadcast(values, 0)
        tensor.copy_(values)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """The mean over all ranks of every gradient that there is, in one message; all ranks have the same ones."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    means = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(means)
    means /= dist.get_world_size()
    means = means.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [mean.view_as(grad) for mean, grad in zip(means, grads, strict=True)])


def average_values(values: dict[str, torch.Tensor], opt: dict) -> dict[str, torch.Tensor]:
    """The mean over all ranks of every scalar, still on its device. Nothing is sent where there is one process.

    Args:
        values: Scalars by name; all ranks have the same names.
        opt: All options: `dist` and `world_size`.
    """
    if not opt['dist'] or not values:
        return values
    sums = torch.stack(list(values.values()))
    dist.all_reduce(sums)
    return dict(zip(values, sums / opt['world_size'], strict=True))


def float_buffers(net: torch.nn.Module) -> list[torch.Tensor]:
    """Buffers that training may change by what a rank has seen, such as batch norm's of a feature net."""
    return [buffer for buffer in net.buffers() if buffer.is_floating_point()]
