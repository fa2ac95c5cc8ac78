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
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)

    def blocks(self) -> list[ResidualDenseBlock]:
        return [self.rdb1, self.rdb2, self.rdb3]


class RRDBChain(nn.Sequential):
    """RRDBs one after another, where that pays as one autograd function with few kernels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = [block for rrdb in self for block in rrdb.blocks()]
        compiled = blocks[0].compiled and not torch.is_grad_enabled()
        replaced = any('forward' in vars(module) for module in (*self, *blocks))  # by another implementation
        if compiled or replaced or not buffers_pay(x, blocks[0].conv1.weight):
            return super().forward(x)
        return buffered_blocks(x, [block.convs() for block in blocks], len(self[0].blocks()), blocks[0].recompute)
