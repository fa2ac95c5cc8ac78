"""Coupling layers: a part of the channels is changed by what a subnet sees of the others (Real NVP, section 3.2)."""
import torch
import torch.nn as nn

from .layers import FlowLayer


def bounded_log_scale(raw: torch.Tensor) -> torch.Tensor:
    """`0.318 * atan(2 * raw)`: within (-0.5, 0.5), so one coupling scales by at most 1.65 and cannot explode."""
    return 0.318 * torch.atan(2 * raw)


def split_shift_scale(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Even channels are the shift, odd channels the raw scale: (N, 2C, H, W) -> two of (N, C, H, W)."""
    h = h.contiguous()  # subnets may give channels last; the flow's arithmetic runs in planes
    return h[:, 0::2], h[:, 1::2]


class AffineCoupling(FlowLayer):
    """The first channels give shift and scale of the rest: `x2' = (x2 + shift) * exp(log_scale)`.

    Args:
        subnet (nn.Module): Maps the first `num_condition` channels, joined with the context where there is one, to
            twice the number of the other channels.
        num_condition (int): How many channels condition.
    """

    def __init__(self, subnet: nn.Module, num_condition: int):
        super().__init__()
        self.subnet = subnet
        self.num_condition = num_condition

    def _shift_log_scale(self, condition, context):
        shift, raw = split_shift_scale(self.subnet(condition, context).to(condition.dtype))
        return shift, bounded_log_scale(raw)

    def forward(self, x, context=None):
        x1, x2 = x[:, :self.num_condition], x[:, self.num_condition:]
        shift, log_scale = self._shift_log_scale(x1, context)
        return torch.cat([x1, (x2 + shift) * log_scale.exp()], dim=1), log_scale.sum(dim=(1, 2, 3))

    def inverse(self, z, context=None):
        z1, z2 = z[:, :self.num_condition], z[:, self.num_condition:]
        shift, log_scale = self._shift_log_scale(z1, context)
        return torch.cat([z1, z2 * torch.exp(-log_scale) - shift], dim=1)


class ShiftCoupling(FlowLayer):
    """The rest gives a shift of the first channels, the low-resolution image (HCFlow): volume preserving.

    Args:
        subnet (nn.Module): Maps the other channels, joined with the context where there is one, to `num_shifted`.
        num_shifted (int): How many channels, from the first, are shifted.
    """

    def __init__(self, subnet: nn.Module, num_shifted: int = 3):
        super().__init__()
        self.subnet = subnet
        self.num_shifted = num_shifted

    def _shift(self, condition, context):
        return self.subnet(condition, context).to(condition.dtype).contiguous()

    def forward(self, x, context=None):
        x1, x2 = x[:, :self.num_shifted], x[:, self.num_shifted:]
        return torch.cat([x1 + self._shift(x2, context), x2], dim=1), x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        z1, z2 = z[:, :self.num_shifted], z[:, self.num_shifted:]
        return torch.cat([z1 - self._shift(z2, context), z2], dim=1)
