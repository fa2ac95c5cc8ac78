"""CUDA graphs: record the thousands of small kernels of a flow once, then start all of them with one call.

A fast GPU otherwise waits for the CPU, which starts the kernels one by one.
"""
import functools
import logging
import threading
from collections.abc import Callable, Sequence

import torch

from hcflow_arch import HCFlowNet
from hcflow_arch.features.feature_net import RegisteredFeatureNet

LOGGER = logging.getLogger('basicsr')  # BasicSR's, which need not be there
_RECORDING = threading.Lock()  # a process can record one graph at a time


class CudaGraph:
    """Records `function(*inputs)` on construction. A call replays it with other values of the same shapes.

    Args:
        function: Takes CUDA tensors. Run it once before, so that libraries are initialized. It must not branch on
            tensor values, and what it reads besides its inputs must keep its place in memory.
        inputs: Tensors of the shapes and types that all calls have.
        device: Where it runs. Default: the current GPU.
        pool: Memory of other graphs, which do not run at the same time: their :meth:`pool`. Default: its own.

    Raises:
        RuntimeError: The function does something that cannot be recorded, such as waiting for the GPU.
    """

    def __init__(self, function: Callable, *inputs: torch.Tensor, device: torch.device | None = None, pool=None):
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with _RECORDING, torch.cuda.device(device):
            current = torch.cuda.current_stream()
            try:
                # thread_local: other threads may go on with what a recording forbids, such as pinning memory
                with torch.cuda.graph(self._graph, pool=pool, stream=_recording_stream(current.device),
                                      capture_error_mode='thread_local'):
                    self.outputs = function(*self._inputs)
            except RuntimeError as error:  # the end of the recording fails, too, and hides why
                torch.cuda.set_stream(current)
                raise (error.__context__ or error) from None

    def pool(self):
        """Handle of its memory."""
        return self._graph.pool()

    def __call__(self, *inputs: torch.Tensor):
        """What the function returned, with the values of this call until the next."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.outputs


@functools.cache
def _recording_stream(device):
    return torch.cuda.Stream(device)  # one, for libraries keep memory for every stream


class RepeatedDecode:
    """`net.decode(lq, latents, features=features, clamp=False)` without gradients, as a CUDA graph from the third time
    on that an image of one size comes, as tiles and samples do. Same numbers.

    Of large images the kernels themselves take longer than their start; those are run as usual. So is all on a CPU, and
    what has a feature net of others, of which is not known whether it can be recorded. Threads may share it where all
    of them run on one stream, as they do by default.

    Args:
        net: The network.
    """

    MAX_PIXELS = 192**2  # of the LR image
    MAX_GRAPHS = 9  # kinds of tiles in an image: at corners, at edges, inside
    MAX_SIZES = 1000  # whose uses are counted

    def __init__(self, net: HCFlowNet):
        self.net = net
        self._records = not any(isinstance(module, RegisteredFeatureNet) for module in net.modules())
        self._uses, self._graphs, self._pool, self._lock = {}, {}, None, threading.Lock()

    def __call__(self, lq: torch.Tensor, latents: Sequence[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """HR images, (N, 3, scale * h, scale * w), not clamped."""
        key = self._key(lq)
        if key is not None:
            with self._lock:  # a graph has one set of inputs and outputs
                graph = self._graph_of(key, lq, features, *latents)
                if graph is not None:
                    return graph(lq, features, *latents).clone()
        return self._decode(lq, features, *latents)

    def _decode(self, lq, features, *latents):
        return self.net.decode(lq, latents, features=features, clamp=False)

    def _key(self, lq):
        """The key of a graph; None: decode without one."""
        if lq.device.type != 'cuda' or lq.shape[2] * lq.shape[3] > self.MAX_PIXELS or not self._records:
            return None
        amp = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
        places = tuple(parameter.data_ptr() for parameter in self.net.parameters())  # values may change
        return lq.shape, lq.dtype, lq.device, amp, self.net.compiles_blocks, places

    def _graph_of(self, key, *inputs):
        if len(self._uses) == self.MAX_SIZES:
            self._uses.clear()
        self._uses[key] = self._uses.get(key, 0) + 1
        graph = self._graphs.pop(key, None)
        if graph is None and self._uses[key] > 2:
            graph = self._record(*inputs)
        if graph is not None:
            if len(self._graphs) == self.MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = graph  # the one used last is the last
        return graph

    def _record(self, *inputs):
        try:
            # no cache of cast weights: those that others made are gone when the graph runs
            with torch.autocast('cuda', torch.get_autocast_dtype('cuda'), torch.is_autocast_enabled('cuda'),
                                cache_enabled=False):
                graph = CudaGraph(self._decode, *inputs, device=inputs[0].device, pool=self._pool)
        except torch.OutOfMemoryError:  # a graph keeps memory of its own
            self._uses.clear()  # until sizes have come again some times
            torch.cuda.empty_cache()
            return None
        except RuntimeError as error:
            self._records = False
            reason = str(error).strip().split('\n')[0]
            LOGGER.warning(f'Images are decoded without CUDA graphs, more slowly: {reason}.')
            return None
        self._pool = graph.pool()
        return graph
