"""Mixed precision: subnets and feature nets follow torch.autocast, the arithmetic of the flow never does."""
import functools

import torch


def full_precision(method):
    """Run a method `(self, x, context=None)` of a flow layer without autocast, context in the type of x.

    Errors of a flow add up over its steps and its log-determinants are sums over all pixels, so x stays in the type it
    comes in: float32 or float64.
    """

    @functools.wraps(method)
    def wrapped(self, x, context=None):
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x, None if context is None else context.to(x.dtype))

    return wrapped
