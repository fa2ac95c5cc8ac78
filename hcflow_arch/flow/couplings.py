"""Coupling layers: some channels are changed by what a subnet computes from the others (Real NVP, section 3.2)."""
import abc

import torch
import torch.nn as nn

from hcflow_arch.errors import InputError

from .layers import FlowLayer

BOUND = 0.318  # times atan, which is within +-pi/2: log_scale is within +-0.5
COUPLINGS: dict[str, type] = {}  # what `network_g.coupling` can name


def register_coupling(cls: type) -> type:
    """Class decorator: `network_g.coupling` can name this :class:`Coupling`."""
    if COUPLINGS.setdefault(cls.__name__, cls) is not cls:
        raise KeyError(f'There is already a coupling {cls.__name__}.')
    return cls


def find_coupling(name: str) -> type:
    """The registered coupling of that name, or InputError."""
    if not isinstance(name, str) or name not in COUPLINGS:
        raise InputError(f'network_g.coupling is {name!r}; allowed are {sorted(COUPLINGS)}. If it comes from another '
                         'package, name its module: `plugins:` in an option file, --plugins in a command.')
    return COUPLINGS[name]


def bounded_log_scale(raw: torch.Tensor) -> torch.Tensor:
    """`0.318 * atan(2 * raw)`: within (-0.5, 0.5), so one coupling scales by at most 1.65 and cannot explode."""
    return BOUND * torch.atan(2 * raw)


def split_shift_scale(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Even channels are the shift, odd channels the raw scale: (N, 2C, H, W) -> two of (N, C, H, W)."""
    h = h.contiguous()  # subnets may give channels last; the flow's arithmetic runs in planes
    return h[:, 0::2], h[:, 1::2]


class Coupling(FlowLayer):
    """Splits the channels in two, changes one part by what the subnet computes from the other, and joins them.

    A subclass defines :meth:`change` and :meth:`change_back`, and :attr:`num_outputs`. Subnets start with an output of
    0, so a coupling that changes nothing where `h` is 0 starts as the identity.

    Args:
        subnet (nn.Module): Maps the part that is kept, joined with the context if there is one, to `num_outputs` times
            the number of changed channels.
        num_first (int): Channels of the first part.

    Attributes:
        num_outputs (int): Channels that the subnet computes for each changed channel.
        changes_first (bool): Change the first part by the second instead of the second by the first.
    """

    num_outputs = 1
    changes_first = False

    def __init__(self, subnet: nn.Module, num_first: int):
        super().__init__()
        self.subnet = subnet
        self.num_first = num_first

    @abc.abstractmethod
    def change(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x: (N, C, H, W); h: output of the subnet, (N, num_outputs * C, H, W). Returns z and log_det (N,)."""

    @abc.abstractmethod
    def change_back(self, z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`change` with the same `h`. Returns x only."""

    def forward(self, x, context=None):
        kept, changed = self._split(x)
        changed, log_det = self.change(changed, self._compute(kept, context))
        return self._join(kept, changed), log_det

    def inverse(self, z, context=None):
        kept, changed = self._split(z)
        return self._join(kept, self.change_back(changed, self._compute(kept, context)))

    def _compute(self, kept, context):
        return self.subnet(kept, context).to(kept.dtype).contiguous()

    def _split(self, x):
        first, second = x[:, :self.num_first], x[:, self.num_first:]
        return (second, first) if self.changes_first else (first, second)

    def _join(self, kept, changed):
        return torch.cat([changed, kept] if self.changes_first else [kept, changed], dim=1)


@register_coupling
class AffineCoupling(Coupling):
    """The first channels give shift and scale of the others: `z = (x + shift) * exp(log_scale)`."""

    num_outputs = 2

    def change(self, x, h):
        shift, raw = split_shift_scale(h)
        log_scale = bounded_log_scale(raw)
        return (x + shift) * log_scale.exp(), log_scale.sum(dim=(1, 2, 3))

    def change_back(self, z, h):
        shift, raw = split_shift_scale(h)
        return z * torch.exp(-bounded_log_scale(raw)) - shift


class ShiftCoupling(Coupling):
    """The other channels give a shift of the first three, the low-resolution image (HCFlow): volume preserving."""

    changes_first = True

    def __init__(self, subnet: nn.Module, num_first: int = 3):
        super().__init__(subnet, num_first)

    def change(self, x, h):
        return x + h, x.new_zeros(x.shape[0])

    def change_back(self, z, h):
        return z - h
