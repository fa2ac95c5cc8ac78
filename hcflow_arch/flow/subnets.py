"""Networks inside couplings and priors; they need not be invertible.

Subnets take `(x, context=None)`, (N, C, H, W) and (N, F, H, W), and treat both as one tensor with C + F channels.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from hcflow_arch.convs.dense_block import dense_convs
from hcflow_arch.convs.fcn_tail import hidden_convs
from hcflow_arch.convs.layout import layout_like

from .layers import ActNorm2d


def xavier_init_(*convs: nn.Conv2d, scale: float = 0.1) -> None:
    """Xavier-normal weights times `scale` (0.1: deep stacks start near the identity); biases 0."""
    with torch.no_grad():
        for conv in convs:
            nn.init.xavier_normal_(conv.weight)
            conv.weight.mul_(scale)
            if conv.bias is not None:
                conv.bias.zero_()


class ZeroConv2d(nn.Module):
    """`(conv3x3(x) + bias) * exp(3 * log_scale)`; starts at 0, so that a coupling starts as the identity.

    Glow, section 3.3. Input (N, num_in_ch, H, W), output (N, num_out_ch, H, W).
    """

    def __init__(self, num_in_ch: int, num_out_ch: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_out_ch, num_in_ch, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_out_ch))
        self.log_scale = nn.Parameter(torch.zeros(num_out_ch, 1, 1))

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (num_out_ch, num_in_ch, 3, 3) and bias (num_out_ch,) of the equivalent convolution."""
        scale = torch.exp(3 * self.log_scale)  # the factor 3 makes the scale learn three times as fast as the weights
        return self.weight * scale[..., None], self.bias * scale.flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, *self.folded(), padding=1)


class FCN(nn.Module):
    """conv3x3, actnorm, ReLU, conv1x1, actnorm, ReLU, zero conv: the subnet of flow steps with a 1x1 convolution.

    Args:
        num_in_ch (int): Channels of the input, including the context.
        num_out_ch (int): Channels of the output.
        hidden_channels (int): Channels between the convolutions. Default: 64.
        recompute (bool): Store only the output of the first convolution for backward. Default: True.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, hidden_channels: int = 64, recompute: bool = True):
        super().__init__()
        self.recompute = recompute
        self.conv1 = nn.Conv2d(num_in_ch, hidden_channels, 3, 1, 1, bias=False)
        self.norm1 = ActNorm2d(hidden_channels)
        self.conv2 = nn.Conv2d(hidden_channels, hidden_channels, 1, bias=False)
        self.norm2 = ActNorm2d(hidden_channels)
        self.conv3 = ZeroConv2d(hidden_channels, num_out_ch)
        xavier_init_(self.conv1, self.conv2)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        _start(self.norm1, self.conv1, x, context)
        hidden = F.relu_(_conv3x3(x, context, *_fold(self.conv1, self.norm1)))
        _start(self.norm2, self.conv2, hidden)
        return hidden_convs(hidden, *_fold(self.conv2, self.norm2), *self.conv3.folded(), self.recompute)


@torch.no_grad()
def _start(norm, conv, x, context=None):
    """Initialize an actnorm that waits for data from its input, conv([x, context])."""
    if norm.waits_for_data():
        norm.initialize(conv(x if context is None else torch.cat([x, context], dim=1)))


def _fold(conv, norm):
    """Weight and bias of the convolution that equals norm(conv(x)) = (conv(x) + bias) * exp(log_scale)."""
    scale = norm.log_scale.exp()
    return conv.weight * scale.view(-1, 1, 1, 1), (norm.bias * scale).flatten()


def _conv3x3(x, context, weight, bias):
    """conv3x3 of [x, context] without a concatenation: the sum of one convolution of each."""
    layout = layout_like(weight)
    x = x.contiguous(memory_format=layout)
    if context is None:
        return F.conv2d(x, weight, bias, padding=1)
    of_x, of_context = (part.contiguous(memory_format=layout) for part in
                        weight.split([x.shape[1], weight.shape[1] - x.shape[1]], dim=1))
    y = F.conv2d(context, of_context, bias, padding=1)
    return y.add_(F.conv2d(x, of_x, padding=1))


class DenseBlock(nn.Module):
    """Five densely connected conv3x3; the subnet of rescaling's main steps. The fifth convolution starts at 0.

    Args:
        num_in_ch (int): Channels of the input.
        num_out_ch (int): Channels of the output.
        num_grow_ch (int): Channels that each of the first four adds. Default: 32.
        recompute (bool): Store only the input for backward, which runs the first four again. Default: False.

    Attributes:
        compiled (bool): Use torch.compile when gradients are disabled.
    """

    compiled = False

    def __init__(self, num_in_ch: int, num_out_ch: int, num_grow_ch: int = 32, recompute: bool = False):
        super().__init__()
        for i in range(4):
            self.add_module(f'conv{i + 1}', nn.Conv2d(num_in_ch + i * num_grow_ch, num_grow_ch, 3, 1, 1))
        self.conv5 = nn.Conv2d(num_in_ch + 4 * num_grow_ch, num_out_ch, 3, 1, 1)
        self.recompute = recompute
        xavier_init_(self.conv1, self.conv2, self.conv3, self.conv4)
        xavier_init_(self.conv5, scale=0)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        if context is not None:
            x = torch.cat([x, context], dim=1)
        return dense_convs(x, self.convs(), self.recompute, self.compiled)

    def convs(self) -> tuple[nn.Conv2d, ...]:
        """The five convolutions."""
        return self.conv1, self.conv2, self.conv3, self.conv4, self.conv5
