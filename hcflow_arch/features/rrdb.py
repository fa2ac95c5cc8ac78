"""Residual-in-residual dense blocks (ESRGAN, section 3.1), with the parameter names of BasicSR's RRDBNet."""
import torch
import torch.nn as nn

from hcflow_arch.convs.buffered_blocks import buffered_blocks, buffers_pay
from hcflow_arch.flow.subnets import DenseBlock


class ResidualDenseBlock(DenseBlock):
    """A dense block whose output, times 0.2, is added to its input: 0.2 keeps a deep stack stable.

    Args:
        num_feat (int): Channels of input and output.
        num_grow_ch (int): Channels that each of the first four convolutions adds.
        recompute (bool): See DenseBlock. Default: False.
    """

    def __init__(self, num_feat: int, num_grow_ch: int, recompute: bool = False):
        super().__init__(num_feat, num_feat, num_grow_ch, recompute)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, super().forward(x), alpha=0.2)


class RRDB(nn.Module):
    """Three residual dense blocks and a residual connection around them, `out * 0.2 + x`. Arguments as above."""

    def __init__(self, num_feat: int, num_grow_ch: int, recompute: bool = False):
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch, recompute)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch, recompute)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch, recompute)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = self.rdb1, self.rdb2, self.rdb3
        compiled = self.rdb1.compiled and not torch.is_grad_enabled()
        if not compiled and buffers_pay(x, self.rdb1.conv1.weight):
            return buffered_blocks(x, [block.convs() for block in blocks], True, self.rdb1.recompute)
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)
