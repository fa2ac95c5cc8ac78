"""Residual blocks without batch normalization (EDSR, section 3) as a feature net.

BasicSR has such a block as well, but networks run without importing BasicSR, and its block cannot recompute.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch.convs.recompute import recomputed
from hcflow_arch.flow.subnets import xavier_init_


class ResidualBlock(nn.Module):
    """`x + conv3x3(ReLU(conv3x3(x)))`, (N, num_feat, H, W). With `recompute`, stores only x for backward."""

    def __init__(self, num_feat: int, recompute: bool = False):
        super().__init__()
        self.recompute = recompute
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        xavier_init_(self.conv1, self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return recomputed(self._add, self, x) if self.recompute else self._add(x)

    def _add(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class ResidualFeatureNet(nn.Module):
    """A feature net that learns more per hour than RRDBs do where hours are few (docs/networks.md).

    Maps (N, num_in_ch, h, w) to (N, num_feat, h, w).

    Args:
        num_in_ch (int): Channels of the input.
        num_feat (int): Channels of the features. Default: 64.
        num_block (int): Residual blocks. Default: 16.
        recompute (bool): Store only the inputs of blocks for backward. Default: False.
    """

    def __init__(self, num_in_ch: int, num_feat: int = 64, num_block: int = 16, recompute: bool = False):
        super().__init__()
        self.num_out_ch = num_feat
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*(ResidualBlock(num_feat, recompute) for _ in range(num_block)))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(x)
        return self.conv_body(self.body(first)) + first
