"""One update of the flow: gradients of the parts of a batch, summed, clipped, applied where they are finite."""
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel

from hcflow_arch import InputError

from .cuda_graph import CudaGraph


def update_generator(model, losses_of: Callable[..., dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One step of the flow.

    Args:
        model (HCFlowModel): Whose batch, network and optimizer are used.
        losses_of: Function of (lq, gt) that returns {log name: loss}.

    Returns:
        The losses' values over the batch.
    """
    net_g = model.get_bare_model(model.net_g)
    if model.accumulate > 1 and model.starts_from_data() and not net_g.is_initialized():
        with torch.no_grad():  # statistics of the whole batch, not of its first part
            model.net_g(model.lq if model.task == 'sr' else None, gt=model.gt)
    model.optimizer_g.zero_grad()
    totals = {}
    parts = list(zip(model.lq.chunk(model.accumulate), model.gt.chunk(model.accumulate), strict=True))
    for index, (lq, gt) in enumerate(parts):
        # gradients of all processes are averaged once, with the last part
        waits = index < len(parts) - 1 and isinstance(model.net_g, DistributedDataParallel)
        share = len(gt) / len(model.gt)
        with model.net_g.no_sync() if waits else nullcontext():
            losses = (model.graphs or backward)(model, losses_of, lq, gt, share)
        for name, loss in losses.items():
            totals[name] = totals.get(name, 0) + loss * share
    model.start_ema()
    parameters = model.optimizer_g.param_groups[0]['params']
    skip = model.guard.check(parameters, totals)  # clipping would hide infinities
    if model.grad_clip_value:
        torch.nn.utils.clip_grad_value_(parameters, model.grad_clip_value)
    if model.grad_clip_norm:
        torch.nn.utils.clip_grad_norm_(parameters, model.grad_clip_norm)
    model.guard.step(model.optimizer_g, skip)
    return totals


def backward(model, losses_of, lq: torch.Tensor, gt: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
    """Add the gradients of a part of a batch, weighted by its share of it, to those of the parameters.

    Returns:
        The losses, detached.
    """
    with model.autocast('train'):
        losses = losses_of(lq, gt)
    (sum(losses.values()) * share).backward()
    return {name: loss.detach() for name, loss in losses.items()}


class GraphedBackward:
    """:func:`backward` as CUDA graphs (`train.cuda_graph`), one for every kind of update and size of batch.

    The first iterations run as usual: they start actnorms from data and make libraries ready. Numbers are the same but
    for the order in which random numbers are drawn.
    """

    NUM_EAGER = 3  # times that an update runs as usual, after actnorms have started
    NEEDS = 'Set train.cuda_graph: false.'

    def __init__(self):
        self._graphs, self._counts, self._pool = {}, {}, None
        self._sums = None  # gradients of the parts of a batch

    def __call__(self, model, losses_of, lq, gt, share):
        key = losses_of.__name__, lq.shape, gt.shape, share
        graph = self._graphs.get(key)
        if graph is None:
            if self._counts.get(key, 0) < self.NUM_EAGER or not model.get_bare_model(model.net_g).is_initialized():
                self._counts[key] = self._counts.get(key, 0) + 1
                return self._eager(model, losses_of, lq, gt, share)
            graph = self._graphs[key] = self._record(model, losses_of, lq, gt, share)
        losses, log_only, fakes, grads = graph(lq, gt)
        self._hand_on(model, grads)
        model.log_only.update({name: value.clone() for name, value in log_only.items()})
        model.fakes += [fake.clone() for fake in fakes]
        return {name: loss.clone() for name, loss in losses.items()}

    @staticmethod
    def _eager(*args):
        """On a stream of its own, as recording will be."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = backward(*args)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _record(self, model, losses_of, lq, gt, share):
        parameters = model.optimizer_g.param_groups[0]['params']
        before = [parameter.grad for parameter in parameters], model.log_only, model.fakes

        def function(lq, gt):
            losses = backward(model, losses_of, lq, gt, share)
            return losses, model.log_only, model.fakes, [parameter.grad for parameter in parameters]

        for parameter in parameters:
            parameter.grad = None
        model.log_only, model.fakes = {}, []
        try:
            graph = CudaGraph(function, lq, gt, pool=self._pool)
        except torch.OutOfMemoryError as error:
            raise InputError('There is not enough memory on the GPU to record train.cuda_graph, which keeps its own. '
                             f'{self.NEEDS[:-1]}, or train smaller batches (train.accumulate).') from error
        except RuntimeError as error:
            reason = str(error).strip().split('\n')[0]
            raise InputError(f'train.cuda_graph: the update by {losses_of.__name__.strip("_")} cannot be recorded '
                             f'({reason}); a loss or network of it may look at values. {self.NEEDS}') from error
        grads, model.log_only, model.fakes = before
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        self._pool = graph.pool()
        return graph

    def _hand_on(self, model, grads):
        """Set the gradients of the parameters, or add to those of earlier parts of the batch."""
        parameters = [parameter for parameter, grad in
                      zip(model.optimizer_g.param_groups[0]['params'], grads, strict=True) if grad is not None]
        grads = [grad for grad in grads if grad is not None]
        if model.accumulate > 1:  # the next part overwrites those of this one
            if parameters[0].grad is not None:
                torch._foreach_add_([parameter.grad for parameter in parameters], grads)
                return
            if self._sums is None:
                self._sums = [torch.empty_like(grad) for grad in grads]
            torch._foreach_copy_(self._sums, grads)
            grads = self._sums
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
