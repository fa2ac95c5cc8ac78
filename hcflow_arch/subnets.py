"""Plain networks inside couplings and priors. They need not be invertible.

Subnets take `(x, context=None)`, (N, C, H, W) and (N, F, H, W), and see both as one tensor of C + F channels.
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .dense_convs import dense_convs
from .flow_layers import ActNorm2d
from .memory_layout import at_least_four_channels, conv1x1_relu, layout_like
from .recompute import recomputed


def xavier_init_(*convs: nn.Conv2d, scale: float = 0.1) -> None:
    """Xavier-normal weights times `scale` (0.1: a deep stack starts near the identity), biases 0."""
    with torch.no_grad():
        for conv in convs:
            nn.init.xavier_normal_(conv.weight)
            conv.weight.mul_(scale)
            if conv.bias is not None:
                conv.bias.zero_()


class ZeroConv2d(nn.Module):
    """`(conv3x3(x) + bias) * exp(3 * log_scale)`; all start at 0, so that what it parametrizes starts as the identity.

    Glow, section 3.3. Input (N, num_in_ch, H, W), output (N, num_out_ch, H, W).
    """

    def __init__(self, num_in_ch: int, num_out_ch: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_out_ch, num_in_ch, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_out_ch))
        self.log_scale = nn.Parameter(torch.zeros(num_out_ch, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = torch.exp(3 * self.log_scale)  # the 3 makes the scale learn three times as fast as the weights
        return F.conv2d(x, self.weight * scale[..., None], self.bias * scale.flatten(), padding=1)


class FCN(nn.Module):
    """conv3x3, actnorm, ReLU, conv1x1, actnorm, ReLU, zero conv: the subnet of affine couplings.

    Args:
        num_in_ch (int): Channels of the condition, context included.
        num_out_ch (int): Channels of the output: shift and raw scale, interleaved.
        hidden_channels (int): Default: 64.
        recompute (bool): Keep only the output of the first convolution for backward. Default: True.
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
        hidden = _conv_norm_relu(x, context, self.conv1, self.norm1)
        # a 1x1 convolution again costs little and halves what is kept
        return recomputed(self._tail, self, hidden) if self.recompute else self._tail(hidden)

    def _tail(self, hidden):
        return self.conv3(_conv_norm_relu(hidden, None, self.conv2, self.norm2))


def _conv_norm_relu(x, context, conv, norm):
    """relu(norm(conv([x, context]))) in which neither the concatenation nor the actnorm makes a tensor of its own.

    Convolutions are linear: each part is convolved with its part of the weight, and the actnorm
    `(y + bias) * exp(log_scale)` of y is folded into weight and bias.
    """
    if norm.waits_for_data():
        with torch.no_grad():
            norm.initialize(conv(x if context is None else torch.cat([x, context], dim=1)))
    scale = norm.log_scale.exp()
    weight, bias = conv.weight * scale.view(-1, 1, 1, 1), (norm.bias * scale).flatten()
    if conv.kernel_size == (1, 1):
        return conv1x1_relu(x, weight, bias)
    layout = layout_like(conv.weight)
    x = x.contiguous(memory_format=layout)
    if context is None:
        return F.relu_(F.conv2d(*at_least_four_channels(x, weight), bias, padding=conv.padding))
    of_x, of_context = (part.contiguous(memory_format=layout) for part in
                        weight.split([x.shape[1], weight.shape[1] - x.shape[1]], dim=1))
    y = F.conv2d(context, of_context, bias, padding=conv.padding)
    x, of_x = at_least_four_channels(x, of_x)
    return F.relu_(y.add_(F.conv2d(x, of_x, padding=conv.padding)))


class DenseBlock(nn.Module):
    """Five densely connected conv3x3; the subnet of rescaling's main steps. The fifth starts at 0.

    Args:
        num_in_ch (int): Channels of the input.
        num_out_ch (int): Channels of the output.
        num_grow_ch (int): Channels that each of the first four adds. Default: 32.
        recompute (bool): Keep only the input for backward, which runs the first four again. Default: False.

    Attributes:
        compiled (bool): Compile what runs without gradients.
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
        convs = self.conv1, self.conv2, self.conv3, self.conv4, self.conv5
        return dense_convs(x, convs, self.recompute, self.compiled)
