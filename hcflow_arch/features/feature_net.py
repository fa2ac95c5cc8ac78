"""Feature nets compute the context of the conditional flows from the low-resolution image."""
import inspect
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch.checks import check_counts
from hcflow_arch.convs.modes import is_traced
from hcflow_arch.errors import InputError
from hcflow_arch.flow.subnets import xavier_init_

from .residual import ResidualFeatureNet
from .rrdb import RRDB, RRDBChain

# what architectures raise on options or sizes that they cannot take; other exceptions are bugs of theirs
REFUSALS = (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError)


class RRDBFeatureNet(nn.Module):
    """The paper's feature net: two stacks of RRDBs (HCFlow; ESRGAN, section 3.1).

    Maps (N, num_in_ch, h, w) to (N, num_out_ch, h, w); `num_out_ch` is 2 * num_feat with both parts, else num_feat.

    Args:
        num_in_ch (int): Channels of the input.
        num_feat (int): Channels of the features. Default: 64.
        num_block (tuple[int, int]): RRDBs of the first and of the second part. Default: (7, 7).
        num_grow_ch (int): Channels that each convolution of a dense block adds. Default: 32.
        both_parts (bool): Return [part1, part2] (SR) or part2 alone (rescaling). Default: True.
        recompute (bool): Store only the inputs of dense blocks for backward. Default: False.
    """

    def __init__(self, num_in_ch: int, num_feat: int = 64, num_block: tuple[int, int] = (7, 7),
                 num_grow_ch: int = 32, both_parts: bool = True, recompute: bool = False):
        super().__init__()
        self.num_out_ch = 2 * num_feat if both_parts else num_feat
        self.both_parts = both_parts
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body1 = RRDBChain(*(RRDB(num_feat, num_grow_ch, recompute) for _ in range(num_block[0])))
        self.body2 = RRDBChain(*(RRDB(num_feat, num_grow_ch, recompute) for _ in range(num_block[1])))
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        for body in (self.body1, self.body2):
            xavier_init_(*(m for m in body.modules() if isinstance(m, nn.Conv2d)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(x)
        part1 = self.body1(first)
        part2 = self.conv_body(self.body2(part1)) + first
        return torch.cat([part1, part2], dim=1) if self.both_parts else part2


class RegisteredFeatureNet(nn.Module):
    """Any architecture of BasicSR's ARCH_REGISTRY that keeps the resolution, as a feature net (paper: 'any CNN').

    The level sets its input channels, and those of the output where the architecture has a default for them (MSRResNet,
    SRVGGNetCompact, which add their input). Running it once shows its output channels. If it only takes sizes that are
    a multiple of 2, 4, ... 64 (RRDBNet at scale 1, SwinIR), other sizes are padded by repeating the border, and the
    output is cropped.

    Args:
        num_in_ch (int): Channels of the input.
        opt (dict): `{type: NAME, ...}`: name in ARCH_REGISTRY and arguments of that architecture, without its number
            of input channels. With `unshuffle: true` it may enlarge, as MSRResNet always does: r x r pixels of its
            output become channels of one.
    """

    IN_CHANNEL_NAMES = ('num_in_ch', 'in_channels', 'in_chans', 'in_nc', 'in_ch')

    def __init__(self, num_in_ch: int, opt: dict):
        from basicsr.archs import build_network  # here: networks without such a feature net need no BasicSR
        from basicsr.utils.registry import ARCH_REGISTRY
        super().__init__()
        if not isinstance(opt, dict) or 'type' not in opt:
            raise InputError(f"feature_net is {opt!r}; it must be a block with a 'type'.")
        if not any(name in ARCH_REGISTRY for name in (str(opt['type']), f'{opt["type"]}_basicsr')):
            raise InputError(f"feature_net.type is {opt['type']!r}, which is neither {ResidualFeatureNet.__name__} nor "
                             "registered in BasicSR's ARCH_REGISTRY; if it comes from another package, name its module "
                             'in `plugins:` (of an option file) or --plugins (of hcflow).')
        arch = opt['type']
        parameters = inspect.signature(ARCH_REGISTRY.get(arch).__init__).parameters
        names = [name for name in self.IN_CHANNEL_NAMES if name in parameters]
        if not names:
            raise InputError(f"feature_net.type '{arch}' has none of the arguments {', '.join(self.IN_CHANNEL_NAMES)}, "
                             'so its input channels cannot be set. Wrap it in an architecture that has one.')
        if names[0] in opt:
            raise InputError(f'feature_net.{names[0]} is set by the level that the feature net serves; remove it.')
        opt = {**opt, names[0]: num_in_ch}
        self.unshuffle = opt.pop('unshuffle', False)
        if 'num_out_ch' in parameters and parameters['num_out_ch'].default is not inspect.Parameter.empty:
            opt.setdefault('num_out_ch', num_in_ch)
        try:
            self.net = build_network(opt)
        except REFUSALS as error:
            raise InputError(f'feature_net: {arch} cannot be built with {dict(opt)} and {names[0]}: {num_in_ch} '
                             f'({error!r}); change its options or take another one, such as RRDBNet.') from error
        if not num_in_ch == opt.get('num_out_ch', 3) == 3 and torch.is_tensor(vars(self.net).get('mean')):
            self.net.mean = torch.zeros(1, 1, 1, 1)  # EDSR and RCAN subtract and add a mean colour; these are features
        self.enlarges_by = 1
        self.size_multiple, self.num_out_ch = self._probe(num_in_ch, arch)

    @torch.no_grad()
    def _probe(self, num_in_ch: int, arch: str) -> tuple[int, int]:
        """Find the smallest multiple of sizes that the network takes, and its output channels."""
        self.net.eval()
        seen = 'it fails on every size tried'
        for multiple in (1, 2, 4, 8, 16, 32, 64):
            h, w = (multiple * 3, multiple * 5)
            try:
                out = self.net(torch.zeros(1, num_in_ch, h, w))
            except REFUSALS as error:
                seen = f'{arch} raises {error!r} on an input of {num_in_ch}x{h}x{w}'
                continue
            if torch.is_tensor(out) and out.dim() == 4:
                factor = max(1, out.shape[2] // h) if self.unshuffle else 1
                if out.shape[2:] == (factor * h, factor * w):
                    self.net.train()
                    self.enlarges_by = factor
                    return multiple, out.shape[1] * factor ** 2
            got = tuple(out.shape[1:]) if torch.is_tensor(out) else out.__class__.__name__
            seen = f'it maps {num_in_ch}x{h}x{w} to {got}'
        raise InputError(f'feature_net must map (N, {num_in_ch}, h, w) to (N, F, h, w), but {seen}. '
                         'Choose its options so that it keeps the resolution (for instance scale: 1), or set '
                         'unshuffle: true if it can only enlarge.')

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, w = x.shape[2:]
        pad_h, pad_w = -h % self.size_multiple, -w % self.size_multiple
        if pad_h or pad_w or (self.size_multiple > 1 and is_traced()):  # traced, it must hold for other sizes
            x = F.pad(x, (0, pad_w, 0, pad_h), mode='replicate')
        x = self.net(x)
        return F.pixel_unshuffle(x, self.enlarges_by)[:, :, :h, :w] if self.enlarges_by > 1 else x[:, :, :h, :w]


def is_registered(opt: dict | None) -> bool:
    """Whether an entry of `network_g.feature_net` names an architecture of BasicSR's registry."""
    return opt is not None and not (isinstance(opt, dict) and opt.get('type') == ResidualFeatureNet.__name__)


def per_level(opt: dict | Sequence | None, num_levels: int) -> list[dict | None]:
    """The entries of `network_g.feature_net`, one for each level, finest first.

    Raises:
        InputError: A list of another length.
    """
    if not isinstance(opt, (list, tuple)):
        return [opt] * num_levels
    if len(opt) != num_levels:
        raise InputError(f'network_g.feature_net has {len(opt)} entries; it takes one for all levels, or a list of '
                         f'{num_levels}, one for each level, the finest first.')
    return list(opt)


def build_feature_net(num_in_ch: int, opt: dict, recompute: bool) -> nn.Module:
    """The feature net of a level that an entry of `network_g.feature_net` asks for.

    Args:
        num_in_ch: Channels of the input.
        opt: `{type: NAME, ...}`, NAME ResidualFeatureNet or one of ARCH_REGISTRY, with its arguments.
        recompute: Store only the inputs of blocks for backward, where the feature net can.

    Raises:
        InputError: Wrong options.
    """
    if is_registered(opt):
        return RegisteredFeatureNet(num_in_ch, opt)
    arguments = {name: value for name, value in opt.items() if name != 'type' and value is not None}
    unknown = set(arguments) - {'num_feat', 'num_block'}
    if unknown:
        raise InputError(f'network_g.feature_net.{min(map(str, unknown))} is no option of ResidualFeatureNet; it takes '
                         'num_feat and num_block.')
    check_counts(**{f'feature_net.{name}': value for name, value in arguments.items()})
    return ResidualFeatureNet(num_in_ch, **arguments, recompute=recompute)
