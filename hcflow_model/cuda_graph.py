"""CUDA graphs: the thousands of small kernels of a flow, recorded once and started by one call.

Where a GPU is faster than the host that starts its kernels one by one, it waits for the host most of the time.
"""
from collections.abc import Callable, Sequence

import torch

from hcflow_arch import HCFlowNet


class CudaGraph:
    """Records `function(*inputs)` at once, and runs it with other values of the same shapes whenever it is called.

    Args:
        function: Of CUDA tensors. It was run before, so that libraries are ready; it takes the same path for all values
            and never looks at them; what it reads besides its inputs stays where it is in memory.
        inputs: Tensors of the shapes and types that all calls have.
        pool: Memory of other graphs, which do not run at the same time: their :meth:`pool`. Default: its own.

    Raises:
        RuntimeError: The function does what cannot be recorded, such as waiting for the GPU.
    """

    def __init__(self, function: Callable, *inputs: torch.Tensor, pool=None):
        self._inputs = [tensor.clone() for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self.outputs = function(*self._inputs)

    def pool(self):
        """Handle of its memory."""
        return self._graph.pool()

    def __call__(self, *inputs: torch.Tensor):
        """What the function returned, with the values of this call until the next."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.outputs


class RepeatedDecode:
    """`net.decode(lq, latents, features=features, clamp=False)` without gradients, as a CUDA graph from the second time
    on that images of one size come one after another, as tiles and samples do. Same numbers.

    Of large images the kernels themselves take longer than their start; those are run as usual, as is all on a CPU.

    Args:
        net: The network.
    """

    MAX_PIXELS = 192**2  # of the LR image

    def __init__(self, net: HCFlowNet):
        self.net, self._known, self._graph = net, None, None

    def __call__(self, lq: torch.Tensor, latents: Sequence[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
        """HR images, (N, 3, scale * h, scale * w), not clamped; they may be overwritten by the next call."""
        known = self._key(lq)
        if known is None or known != self._known:
            self._known, self._graph = known, None
        elif self._graph is None:
            self._graph = self._record(lq, latents, features)
        if self._graph:
            return self._graph(lq, features, *latents)
        return self._decode(lq, features, *latents)

    def _decode(self, lq, features, *latents):
        return self.net.decode(lq, latents, features=features, clamp=False)

    def _key(self, lq):
        """What a graph is made for, None where there is to be none."""
        if lq.device.type != 'cuda' or lq.shape[2] * lq.shape[3] > self.MAX_PIXELS:
            return None
        amp = torch.get_autocast_dtype('cuda') if torch.is_autocast_enabled('cuda') else None
        weights = tuple(parameter.data_ptr() for parameter in self.net.parameters())  # their values may change
        return lq.shape, lq.dtype, amp, weights

    def _record(self, lq, latents, features):
        try:
            return CudaGraph(self._decode, lq, features, *latents)
        except torch.OutOfMemoryError:  # a graph keeps memory of its own
            torch.cuda.empty_cache()
            return False
