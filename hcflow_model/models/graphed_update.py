"""Gradients of updates by CUDA graphs (`train.cuda_graph`)."""
from collections.abc import Callable

import torch

from hcflow_arch import InputError
from hcflow_model.inference.cuda_graph import CudaGraph

from .update import Losses, optimized


class GraphedGradients:
    """Computes gradients as a given function does, from the fourth call on by replaying a CUDA graph.

    There is one graph for each kind of update and size of a part of the batch. The first calls run without a graph:
    they initialize actnorms from data and warm up libraries. Numbers are the same, except that random numbers are drawn
    in another order.

    Args:
        gradients: Function of (model, losses_of, lq, gt, share) that returns detached losses.
    """

    NUM_EAGER = 3  # calls without a graph, after actnorms are initialized
    MAX_GRAPHS = 8  # patches of more sizes run without one

    def __init__(self, gradients: Callable[..., Losses]):
        self._gradients = gradients
        self._graphs, self._counts, self._pool, self._stream = {}, {}, None, None
        self._sums = None  # gradients of the parts of a batch

    def __call__(self, model, losses_of, lq, gt, share) -> Losses:
        """`gradients(model, losses_of, lq, gt, share)`."""
        key = losses_of.__name__, lq.shape, gt.shape, share
        if key not in self._graphs:
            if self._counts.get(key, 0) < self.NUM_EAGER or len(self._graphs) == self.MAX_GRAPHS:
                if model.net_g.is_initialized():
                    self._counts[key] = self._counts.get(key, 0) + 1
                return self._as_usual(model, losses_of, lq, gt, share)
            self._graphs[key] = self._record(model, losses_of, lq, gt, share)
        losses, grads = self._graphs[key](lq, gt)
        self._hand_on(model, grads)
        terms, log_only = ({name: value.clone() for name, value in values.items()} for values in losses[:2])
        return Losses(terms, log_only, [fake.clone() for fake in losses.fakes])

    def _as_usual(self, *args):
        """On a side stream, as CUDA requires before a graph is captured."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self._gradients(*args)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def _record(self, model, losses_of, lq, gt, share):
        parameters = optimized(model.optimizer_g)
        before = [parameter.grad for parameter in parameters]

        def function(lq, gt):
            losses = self._gradients(model, losses_of, lq, gt, share)
            return losses, [parameter.grad for parameter in parameters]

        for parameter in parameters:
            parameter.grad = None
        try:
            graph = CudaGraph(function, lq, gt, device=lq.device, pool=self._pool)
        except torch.OutOfMemoryError as error:
            raise InputError('train.cuda_graph: the GPU has not enough memory to record a graph, which keeps its own. '
                             'Set train.cuda_graph: false, or split batches by train.accumulate.') from error
        except RuntimeError as error:
            reason = str(error).strip().split('\n')[0]
            raise InputError(f'train.cuda_graph: the update by {losses_of.__name__.strip("_")} cannot be recorded '
                             f'({reason}); a loss or network of it may look at values. Set train.cuda_graph: false.'
                             ) from error
        finally:
            for parameter, grad in zip(parameters, before, strict=True):
                parameter.grad = grad
        self._pool = graph.pool()
        return graph

    def _hand_on(self, model, grads):
        """Set the parameters' gradients, or add to those of earlier parts of the batch."""
        parameters = [parameter for parameter, grad in zip(optimized(model.optimizer_g), grads, strict=True)
                      if grad is not None]
        grads = [grad for grad in grads if grad is not None]
        if model.accumulate > 1:  # the next replay overwrites the graph's gradients
            if parameters[0].grad is not None:
                torch._foreach_add_([parameter.grad for parameter in parameters], grads)
                return
            if self._sums is None:
                self._sums = [torch.empty_like(grad) for grad in grads]
            torch._foreach_copy_(self._sums, grads)
            grads = self._sums
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
