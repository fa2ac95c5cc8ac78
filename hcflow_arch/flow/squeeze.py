"""Squeeze layers exchange resolution for channels, (N, C, H, W) <-> (N, 4C, H/2, W/2)."""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch.convs.modes import full_precision

from .layers import FlowLayer


class SpaceToDepth(FlowLayer):
    """Every 2x2 block of pixels becomes four channels; volume preserving (Real NVP, section 3.6)."""

    def forward(self, x, context=None):
        return F.pixel_unshuffle(x, 2), x.new_zeros(x.shape[0])

    def inverse(self, z, context=None):
        return F.pixel_shuffle(z, 2)


class HaarSqueeze(FlowLayer):
    """Haar transform of every 2x2 block; the first C output channels are the local mean (HCFlow).

    Outputs are band-major: all channels of the mean, then of the horizontal, vertical and diagonal difference.
    The forward direction has the factor 1/4, the inverse none.

    Args:
        num_channels (int): Channels C of the input. Default: 3.
    """

    def __init__(self, num_channels: int = 3):
        super().__init__()
        self.num_channels = num_channels
        signs = torch.tensor([[[1., 1.], [1., 1.]], [[1., -1.], [1., -1.]], [[1., 1.], [-1., -1.]],
                              [[1., -1.], [-1., 1.]]])
        # Constants, but a parameter because released checkpoints contain them, channel-major (4C, 1, 2, 2).
        self.haar_weights = nn.Parameter(signs.repeat(num_channels, 1, 1).unsqueeze(1), requires_grad=False)

    @full_precision
    def forward(self, x, context=None):
        n, c, h, w = x.shape
        bands = F.conv2d(x, self.haar_weights / 4, stride=2, groups=c)
        z = bands.view(n, c, 4, h // 2, w // 2).transpose(1, 2).reshape(n, 4 * c, h // 2, w // 2)
        # log|det| of a 2x2 block is log(1/16); each channel has h/2 * w/2 blocks
        return z, x.new_full((n,), -math.log(16) * c * (h // 2) * (w // 2))

    @full_precision
    def inverse(self, z, context=None):
        n, c, h, w = z.shape
        bands = z.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        return F.conv_transpose2d(bands, self.haar_weights, stride=2, groups=c // 4)
