"""Plain networks inside couplings and priors. They need not be invertible."""
import torch
import torch.nn as nn
import torch.nn.functional as F

from .flow_layers import ActNorm2d


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
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, hidden_channels: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in_ch, hidden_channels, 3, 1, 1, bias=False)
        self.norm1 = ActNorm2d(hidden_channels)
        self.conv2 = nn.Conv2d(hidden_channels, hidden_channels, 1, bias=False)
        self.norm2 = ActNorm2d(hidden_channels)
        self.conv3 = ZeroConv2d(hidden_channels, num_out_ch)
        xavier_init_(self.conv1, self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1.normalize(self.conv1(x)))
        x = F.relu(self.norm2.normalize(self.conv2(x)))
        return self.conv3(x)


class DenseBlock(nn.Module):
    """Five densely connected conv3x3; the subnet of rescaling's main steps. The fifth starts at 0.

    Args:
        num_in_ch (int): Channels of the input.
        num_out_ch (int): Channels of the output.
        num_grow_ch (int): Channels that each of the first four adds. Default: 32.
    """

    def __init__(self, num_in_ch: int, num_out_ch: int, num_grow_ch: int = 32):
        super().__init__()
        for i in range(4):
            self.add_module(f'conv{i + 1}', nn.Conv2d(num_in_ch + i * num_grow_ch, num_grow_ch, 3, 1, 1))
        self.conv5 = nn.Conv2d(num_in_ch + 4 * num_grow_ch, num_out_ch, 3, 1, 1)
        xavier_init_(self.conv1, self.conv2, self.conv3, self.conv4)
        xavier_init_(self.conv5, scale=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.cat([x, F.leaky_relu(conv(x), 0.2)], dim=1)
        return self.conv5(x)
