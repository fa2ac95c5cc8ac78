"""Gradients of updates by CUDA graphs (`train.cuda_graph`)."""
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist

from hcflow_arch import InputError

from .cuda_graph import CudaGraph


class Kept(NamedTuple):
    """What a graph writes: losses by name, values that are only logged, images for the discriminator, gradients of the
    optimizer's parameters (None where there is none)."""
    losses: dict[str, torch.Tensor]
    log_only: dict[str, torch.Tensor]
    fakes: list[torch.Tensor]
    grads: list[torch.Tensor | None]


class GraphedGradients:
    """Adds gradients to those of the parameters as a given function does, from its fourth iteration on by graphs, one
    for every kind of update and size of a part of the batch.

    The first iterations run as usual: they start actnorms from data and make libraries ready. Several processes average
    the gradients after the last part, without DistributedDataParallel, whose messages cannot be recorded. Numbers are
    the same but for the order in which random numbers are drawn.

    Args:
        gradients: Function of (model, losses_of, lq, gt, share) that returns {log name: detached loss}.
    """

    NUM_EAGER = 3  # iterations of an update that run as usual after actnorms have started

    def __init__(self, gradients: Callable[..., dict[str, torch.Tensor]]):
        self._gradients = gradients
        self._graphs, self._counts, self._pool = {}, {}, None
        self._sums = None  # gradients of the parts of a batch

    def begin(self, model, losses_of) -> bool:
        """Whether the update that begins runs by graphs."""
        name = losses_of.__name__
        if self._counts.get(name, 0) == self.NUM_EAGER:
            return True
        if model.get_bare_model(model.net_g).is_initialized():
            self._counts[name] = self._counts.get(name, 0) + 1
        return False

    def as_usual(self, *args) -> dict[str, torch.Tensor]:
        """`gradients(*args)` on a stream of its own, as recording needs it to have run before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._gradients(*args)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def by_graph(self, model, losses_of, lq, gt, share) -> dict[str, torch.Tensor]:
        """`gradients(model, losses_of, lq, gt, share)`, but not yet averaged over processes."""
        key = losses_of.__name__, lq.shape, gt.shape, share
        if key not in self._graphs:
            self._graphs[key] = self._record(model, losses_of, lq, gt, share)
        kept = self._graphs[key](lq, gt)
        self._hand_on(model, kept.grads)
        model.log_only.update({name: value.clone() for name, value in kept.log_only.items()})
        model.fakes += [fake.clone() for fake in kept.fakes]
        return {name: loss.clone() for name, loss in kept.losses.items()}

    def _record(self, model, losses_of, lq, gt, share):
        parameters = _parameters(model)
        before = [parameter.grad for parameter in parameters], model.log_only, model.fakes, model.net_g

        def function(lq, gt):
            losses = self._gradients(model, losses_of, lq, gt, share)
            return Kept(losses, model.log_only, model.fakes, [parameter.grad for parameter in parameters])

        for parameter in parameters:
            parameter.grad = None
        model.log_only, model.fakes, model.net_g = {}, [], model.get_bare_model(model.net_g)
        try:
            graph = CudaGraph(function, lq, gt, pool=self._pool)
        except torch.OutOfMemoryError as error:
            raise InputError('train.cuda_graph: the GPU has not enough memory to record a graph, which keeps its own. '
                             'Set train.cuda_graph: false, or split batches by train.accumulate.') from error
        except RuntimeError as error:
            reason = str(error).strip().split('\n')[0]
            raise InputError(f'train.cuda_graph: the update by {losses_of.__name__.strip("_")} cannot be recorded '
                             f'({reason}); a loss or network of it may look at values. Set train.cuda_graph: false.'
                             ) from error
        finally:
            grads, model.log_only, model.fakes, model.net_g = before
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
        self._pool = graph.pool()
        return graph

    def _hand_on(self, model, grads):
        """Set the gradients of the parameters, or add to those of earlier parts of the batch."""
        parameters = [parameter for parameter, grad in zip(_parameters(model), grads, strict=True) if grad is not None]
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


def average_gradients(model) -> None:
    """Over all processes, in one message."""
    grads = [parameter.grad for parameter in _parameters(model) if parameter.grad is not None]
    values = [grad.as_strided((grad.numel(),), (1,)) for grad in grads]  # in either layout without a copy
    message = torch.cat(values)
    dist.all_reduce(message)
    message /= dist.get_world_size()
    torch._foreach_copy_(values, list(message.split([len(value) for value in values])))


def _parameters(model):
    return model.optimizer_g.param_groups[0]['params']
