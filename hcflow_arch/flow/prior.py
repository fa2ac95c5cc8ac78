"""The Gaussian at the end of p(high | low), conditioned on features of the low-resolution part."""
import math

import torch

from hcflow_arch.convs.modes import full_precision

from .couplings import bounded_log_scale, split_shift_scale
from .layers import FlowLayer
from .subnets import ZeroConv2d


class ConditionalGaussian(FlowLayer):
    """Whitens its input: `z = (x - mean) * exp(-log_scale)`, with mean and log_scale predicted from the context.

    With z ~ N(0, I), x has the Gaussian distribution N(mean, exp(log_scale)^2) of the paper.

    Args:
        num_channels (int): Channels of the input.
        num_context_ch (int): Channels of the context.
        bounded (bool): Bound log_scale as in couplings (rescaling). Default: False.
    """

    def __init__(self, num_channels: int, num_context_ch: int, bounded: bool = False):
        super().__init__()
        self.head = ZeroConv2d(num_context_ch, 2 * num_channels)
        self.num_channels = num_channels
        self.bounded = bounded

    def _mean_log_scale(self, context):
        mean, log_scale = split_shift_scale(self.head(context))
        return mean, bounded_log_scale(log_scale) if self.bounded else log_scale

    @full_precision
    def forward(self, x, context=None):
        mean, log_scale = self._mean_log_scale(context)
        log_det = -log_scale
        return (x - mean) * log_det.exp(), log_det.sum(dim=(1, 2, 3))

    @full_precision
    def inverse(self, z, context=None):
        mean, log_scale = self._mean_log_scale(context)
        return mean + log_scale.exp() * z


def gaussian_log_prob(x: torch.Tensor, log_std: float = 0.) -> torch.Tensor:
    """Sum of log N(x; 0, exp(log_std)^2) over all but the first axis, (N, ...) -> (N,)."""
    squares = (x**2).flatten(1).sum(dim=1)
    return -0.5 * math.exp(-2 * log_std) * squares - (log_std + 0.5 * math.log(2 * math.pi)) * x[0].numel()


def scale_noise(noise: torch.Tensor, temperature: float | torch.Tensor) -> torch.Tensor:
    """Latents temperature * noise.

    Args:
        noise: (N, C, k * h, k * w), k whole.
        temperature: A number, or a map (N, 1, h, w): each of its values holds for k x k positions.
    """
    if torch.is_tensor(temperature):
        factors = [length // of for length, of in zip(noise.shape[2:], temperature.shape[2:], strict=True)]
        rows = temperature.to(noise).repeat_interleave(factors[0], 2)
        temperature = rows.repeat_interleave(factors[1], 3)
    return noise * temperature
