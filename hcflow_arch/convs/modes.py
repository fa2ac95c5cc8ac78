"""Modes of PyTorch: autocast, and the recording of CUDA graphs.

Subnets and feature nets follow torch.autocast. The arithmetic of the flow never does.
"""
import functools

import torch


def full_precision(method):
    """Run a method `(self, x, context=None)` of a flow layer without autocast, with context in the type of x.

    Errors add up over the steps of a flow, and log-determinants are sums over all pixels. So x keeps its type, float32
    or float64.
    """

    @functools.wraps(method)
    def wrapped(self, x, context=None):
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x, None if context is None else context.to(x.dtype))

    return wrapped


def in_autocast_type(x: torch.Tensor, *parameters: torch.Tensor) -> list[torch.Tensor]:
    """x and parameters in autocast's type for convolutions; unchanged without autocast and in float64."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or x.dtype == torch.float64:
        return [x, *parameters]
    return [tensor.to(torch.get_autocast_dtype(device)) for tensor in (x, *parameters)]


def is_traced() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace reads the code now; it gets the plain form of layers."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_recording(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded on the device; recorded code cannot read values."""
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()
