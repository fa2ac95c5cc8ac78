"""One level of the hierarchy: splits an image into a low and a high part, and models high given low."""
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch.convs.layout import layout_like

from .steps import FlowSequential


class HCFlowLevel(nn.Module):
    """The main path splits x into (low, high); the prior models p(high | features of low and of coarser levels)."""

    def __init__(self, main: FlowSequential, num_low: int, feature_net: nn.Module, prior: FlowSequential):
        super().__init__()
        self.main = main
        self.num_low = num_low
        self.feature_net = feature_net
        self.prior = prior

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(N, C, H, W) -> low (N, num_low, H/2, W/2), high (N, 4C - num_low, H/2, W/2), log_det (N,)."""
        x, log_det = self.main(x)
        return x[:, :self.num_low], x[:, self.num_low:], log_det

    def join(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`split`."""
        return self.main.inverse(torch.cat([low, high], dim=1))

    def features(self, low: torch.Tensor, coarser: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features of `low` and of the coarser levels' features (coarsest first), (N, F, H/2, W/2)."""
        size = low.shape[2:]
        resized = [F.interpolate(f, size=size, mode='nearest') for f in reversed(coarser)]
        if resized:  # same layout: a mixed concatenation is slow and channels first
            low = low.contiguous(memory_format=layout_like(resized[0]))
        return self.feature_net(torch.cat([low, *resized], dim=1))
