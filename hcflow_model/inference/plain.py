"""A trained network in plain operations with folded weights, for programs that take it over: no case by device or size.

What does not depend on the image, such as the inverse of a 1x1 convolution, becomes a constant, computed in float64.
Built for eval mode without gradients; the numbers are those of :meth:`HCFlowNet.decode` up to rounding.
"""
import copy

import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch import HCFlowNet
from hcflow_arch.convs.buffered_blocks import NEGATIVE_SLOPE, RESIDUAL
from hcflow_arch.features.feature_net import RegisteredFeatureNet
from hcflow_arch.features.rrdb import RRDB, RRDBChain
from hcflow_arch.flow.layers import FlowLayer
from hcflow_arch.flow.level import HCFlowLevel
from hcflow_arch.flow.squeeze import SpaceToDepth
from hcflow_arch.flow.steps import FlowStep
from hcflow_arch.flow.subnets import FCN, DenseBlock


class Decode(nn.Module):
    """`net.decode(lq, latents, clamp=False)`.

    Args:
        net: The network, which stays as it is.
        half: Run feature nets (but not those of other packages) and subnets in float16, as under autocast.
            Default: False.
    """

    def __init__(self, net: HCFlowNet, half: bool = False):
        super().__init__()
        net = _with_plain_subnets(net, half)
        self.feature_nets = nn.ModuleList(_FeatureNet(level.feature_net, half) for level in net.levels)
        self.priors, self.mains = nn.ModuleList(), nn.ModuleList()
        for level in net.levels:
            *steps, gaussian = level.prior
            gaussian.head = _conv(*gaussian.head.double().folded())
            self.priors.append(nn.ModuleList([_Inverse(gaussian), *map(_StepInverse, reversed(steps))]))
            squeeze, *steps = level.main
            self.mains.append(nn.ModuleList([*map(_StepInverse, reversed(steps)),
                                             _SqueezeInverse(squeeze, _num_channels(level) // 4)]))

    def forward(self, lq, *latents):
        """LR image (N, 3, h, w) and latents, finest first -> HR image (N, 3, scale * h, scale * w)."""
        x, known = lq, []
        for feature_net, prior, main, latent in zip(*map(reversed, (self.feature_nets, self.priors, self.mains)),
                                                    reversed(latents), strict=True):
            known = [F.interpolate(features, scale_factor=2., mode='nearest') for features in known]
            known.insert(0, feature_net(torch.cat([x.to(feature_net.dtype), *known], dim=1)))
            for layer in prior:
                latent = layer(latent, known[0])
            x = torch.cat([x, latent], dim=1)
            for layer in main:
                x = layer(x)
        return x


class Downscale(nn.Module):
    """`net.downscale(gt)` of a rescaling network, for sizes that are multiples of the scale. Arguments as above."""

    def __init__(self, net: HCFlowNet, half: bool = False):
        super().__init__()
        net = _with_plain_subnets(net, half)
        self.num_lows = [level.num_low for level in net.levels]
        self.mains = nn.ModuleList()
        for level in net.levels:
            squeeze, *steps = level.main
            self.mains.append(nn.ModuleList([_Squeeze(squeeze, _num_channels(level) // 4), *map(_Step, steps)]))

    def forward(self, gt):
        """HR image (N, 3, H, W) -> LR image (N, 3, H / scale, W / scale), not clamped."""
        x = gt
        for main, num_low in zip(self.mains, self.num_lows, strict=True):
            for layer in main:
                x = layer(x)
            x = x[:, :num_low]
        return x


def _num_channels(level: HCFlowLevel) -> int:
    """Of its flow, after the squeeze."""
    return level.num_low + level.prior[-1].num_channels


def _with_plain_subnets(net: HCFlowNet, half: bool) -> HCFlowNet:
    net = copy.deepcopy(net).eval().cpu()
    net.lay_out(False)
    _replace_subnets(net, half)
    return net


def _replace_subnets(module: nn.Module, half: bool) -> None:
    for name, child in module.named_children():
        if isinstance(child, RRDBChain):  # cast with its feature net
            setattr(module, name, nn.Sequential(*map(_RRDB, child)))
        elif isinstance(child, (FCN, DenseBlock)):
            setattr(module, name, _Subnet(_FCN(child) if isinstance(child, FCN) else _DenseBlock(child), half))
        elif not isinstance(child, RegisteredFeatureNet):
            _replace_subnets(child, half)


def _conv(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A float32 convolution that keeps the size; weight (K, C, k, k), or a matrix (K, C)."""
    weight = weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))
    conv = nn.utils.skip_init(nn.Conv2d, weight.shape[1], weight.shape[0], weight.shape[2],
                              padding=weight.shape[2] // 2)
    conv.load_state_dict({'weight': weight, 'bias': bias.flatten()})
    return conv


class _FeatureNet(nn.Module):
    """A feature net, its input and output in `dtype`; one of another package runs in float32."""

    def __init__(self, net, half):
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.own_dtype = torch.float32 if isinstance(net, RegisteredFeatureNet) else self.dtype
        self.net = net.to(self.own_dtype)

    def forward(self, x):
        return self.net(x.to(self.own_dtype)).to(self.dtype)


class _Subnet(nn.Module):
    """A subnet of a coupling: of (x, context) as one tensor, in float16 or float32."""

    def __init__(self, net, half):
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.net = net.to(self.dtype)

    def forward(self, x, context=None):
        x = x.to(self.dtype)
        return self.net(x if context is None else torch.cat([x, context], dim=1))


class _FCN(nn.Sequential):
    """Three convolutions and two ReLUs."""

    def __init__(self, fcn: FCN):
        fcn = fcn.double()
        convs = []
        for conv, norm in ((fcn.conv1, fcn.norm1), (fcn.conv2, fcn.norm2)):
            scale = norm.log_scale.exp().view(-1, 1, 1, 1)
            convs += [_conv(conv.weight * scale, norm.bias.flatten() * scale.flatten()), nn.ReLU()]
        super().__init__(*convs, _conv(*fcn.conv3.folded()))


class _DenseBlock(nn.Module):
    """Five convolutions, each of the input and all outputs before."""

    def __init__(self, block: DenseBlock, factor: float = 1.):
        super().__init__()
        *convs, last = block.convs()
        self.convs = nn.ModuleList(_conv(conv.weight, conv.bias) for conv in convs)
        self.last = _conv(factor * last.weight, factor * last.bias)

    def forward(self, x):
        for conv in self.convs:
            x = torch.cat([x, F.leaky_relu(conv(x), NEGATIVE_SLOPE)], dim=1)
        return self.last(x)


class _RRDB(nn.Module):

    def __init__(self, rrdb: RRDB):
        super().__init__()
        self.blocks = nn.ModuleList(_DenseBlock(block, RESIDUAL) for block in rrdb.blocks())

    def forward(self, x):
        y = x
        for block in self.blocks:
            y = y + block(y)
        return x + RESIDUAL * y


class _Linear(nn.Module):
    """Actnorm and 1x1 convolution of a step, or the inverse of both: matrix times x plus bias, or scale times x."""

    def __init__(self, step: FlowStep, inverse: bool):
        super().__init__()
        bias, scale = step.actnorm.bias.double(), step.actnorm.log_scale.double().exp()
        matrix = None if step.conv1x1 is None else step.conv1x1.weight.double()
        if inverse:
            bias, scale = -bias, 1 / scale
            matrix = None if matrix is None else scale.view(-1, 1) * torch.linalg.inv(matrix)
        else:
            bias = bias * scale
            if matrix is not None:
                matrix, bias = matrix * scale.view(1, -1), matrix @ bias.flatten()
        self.conv = None if matrix is None else _conv(matrix, bias)
        self.register_buffer('scale', scale.float())
        self.register_buffer('bias', bias.float())

    def forward(self, x):
        return x * self.scale + self.bias if self.conv is None else self.conv(x)


class _Step(nn.Module):

    def __init__(self, step: FlowStep):
        super().__init__()
        self.linear, self.coupling = _Linear(step, inverse=False), step.coupling

    def forward(self, x, context=None):
        return self.coupling(self.linear(x), context)[0]


class _StepInverse(nn.Module):

    def __init__(self, step: FlowStep):
        super().__init__()
        self.linear, self.coupling = _Linear(step, inverse=True), step.coupling

    def forward(self, z, context=None):
        return self.linear(self.coupling.inverse(z, context))


class _Inverse(nn.Module):

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z, context=None):
        return self.layer.inverse(z, context)


class _Squeeze(nn.Conv2d):
    """Every output is a sum of the pixels of a 2x2 block."""

    def __init__(self, squeeze: FlowLayer, num_channels: int):
        super().__init__(num_channels, 4 * num_channels, 2, stride=2, bias=False)
        blocks = F.pixel_shuffle(torch.eye(4 * num_channels)[..., None, None], 2)  # each of its pixels alone
        self.weight.data = squeeze(blocks)[0].flatten(1).T.reshape(self.weight.shape)


class _SqueezeInverse(nn.Module):
    """Every pixel of a 2x2 block is a sum of the channels."""

    def __init__(self, squeeze: FlowLayer, num_channels: int):
        super().__init__()
        self.matrix = None
        if not isinstance(squeeze, SpaceToDepth):
            blocks = squeeze.inverse(torch.eye(4 * num_channels)[..., None, None])  # of each channel alone
            self.matrix = _conv(F.pixel_unshuffle(blocks, 2).flatten(1).T, torch.zeros(4 * num_channels))

    def forward(self, z):
        return F.pixel_shuffle(z if self.matrix is None else self.matrix(z), 2)
