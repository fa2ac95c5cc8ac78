"""One update of the flow: sums gradients of the parts of a batch, clips them, and applies them if they are finite."""
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from basicsr.models.lr_scheduler import MultiStepRestartLR
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from hcflow_model.utils.distributed import average_gradients, broadcast, float_buffers


class Losses(NamedTuple):
    """What the losses of an update return.

    Attributes:
        terms: Scalars by their name in the log; the update minimizes their sum.
        log_only: Scalars that are only logged.
        fakes: Generated images for the discriminator.
    """
    terms: dict[str, torch.Tensor]
    log_only: dict[str, torch.Tensor] = {}
    fakes: Sequence[torch.Tensor] = ()


def update_generator(model, losses_of: Callable[..., Losses]) -> Losses:
    """Update the flow once.

    Args:
        model (FlowModel): Its batch, network and optimizer are used.
        losses_of: Function of (lq, gt).

    Returns:
        The losses' values over the batch.
    """
    net_g = model.get_bare_model(model.net_g)
    if model.accumulate > 1 and model.starts_from_data() and not net_g.is_initialized():
        with torch.no_grad():  # statistics of the whole batch, not of its first part
            model.net_g(model.lq if model.task == 'sr' else None, gt=model.gt)
    model.optimizer_g.zero_grad()
    totals = Losses({}, {}, [])
    parts = list(zip(model.lq.chunk(model.accumulate), model.gt.chunk(model.accumulate), strict=True))
    for index, (lq, gt) in enumerate(parts):
        # processes average their gradients once, with the last part
        waits = index < len(parts) - 1 and isinstance(model.net_g, DistributedDataParallel)
        share = len(gt) / len(model.gt)
        with model.net_g.no_sync() if waits else nullcontext():
            losses = (model.graphs or gradients)(model, losses_of, lq, gt, share)
        for sums, values in zip(totals[:2], losses[:2], strict=True):
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value * share
        totals.fakes.extend(losses.fakes)
    model.start_ema()
    parameters = optimized(model.optimizer_g)
    if model.averages_gradients():
        average_gradients(parameters)
        broadcast(float_buffers(net_g))
    skip = model.guard.check(parameters, totals.terms)  # clipping would hide infinities
    if model.grad_clip_value:
        torch.nn.utils.clip_grad_value_(parameters, model.grad_clip_value)
    if model.grad_clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, model.grad_clip_norm)
    model.guard.step(model.optimizer_g, skip)
    return totals


def optimized(optimizer: Optimizer) -> list[torch.nn.Parameter]:
    """All parameters that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group['params']]


def gradients(model, losses_of, lq: torch.Tensor, gt: torch.Tensor, share: float) -> Losses:
    """Add the gradients of a part of a batch to the parameters' gradients, weighted by its share of the batch.

    Returns:
        The losses, detached.
    """
    with model.autocast('train'):
        losses = losses_of(lq, gt)
    (sum(losses.terms.values()) * share).backward()
    return losses._replace(terms={name: loss.detach() for name, loss in losses.terms.items()})


def end_warm_up(optimizers: list[Optimizer], scheduler: LRScheduler, warmup_iter: int) -> None:
    """Set the full learning rate in iteration `warmup_iter`, after BasicSR has updated it.

    BasicSR (models/base_model.py, update_learning_rate) omits the last step of its linear warm-up. MultiStepRestartLR
    only multiplies the current rate, so it would never reach the full rate; other schedules compute each rate anew.
    """
    if isinstance(scheduler, MultiStepRestartLR) and warmup_iter > 1 and scheduler.last_epoch not in scheduler.restarts:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group['lr'] *= warmup_iter / (warmup_iter - 1)


@torch.no_grad()
def average_weights(net: torch.nn.Module, average: torch.nn.Module, decay: float) -> None:
    """Update an exponential moving average of the weights of a network. Buffers (flags and counts) are copied.

    Same numbers as BasicSR's `model_ema`, but with a few kernels for all weights instead of thousands.
    """
    weights, buffers = dict(net.named_parameters()), dict(net.named_buffers())
    averages, copies = dict(average.named_parameters()), dict(average.named_buffers())
    torch._foreach_mul_(list(averages.values()), decay)
    torch._foreach_add_(list(averages.values()), [weights[name] for name in averages], alpha=1 - decay)
    if copies:
        torch._foreach_copy_(list(copies.values()), [buffers[name] for name in copies])
