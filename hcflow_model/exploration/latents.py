"""The solution space of one LR image: noise over temperatures, walks between samples, latents of a known HR image.

A network of task 'sr' is a bijection between an HR image and (LR image, latents z), and z ~ N(0, I). So each HR image
that fits an LR image is a point in the space of latents, and what is done there can be looked at as an image.
"""
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_arch.flow.layers import double
from hcflow_model.images.bicubic import bicubic_guide, round8
from hcflow_model.losses.hcflow_loss import NLLLoss

UNTRAINED = ('The network is not trained enough for this temperature or edit: lower --temperatures, or take other '
             'weights.')
WINDOW = 5  # positions of a level over whose square the size of latents is measured


@torch.no_grad()
def decode_8bit(net: HCFlowNet, lq: torch.Tensor, latents: Sequence[torch.Tensor]) -> torch.Tensor:
    """HR images as their files will have them, (1, 3, H, W), multiples of 1/255: figures are of what is saved.

    Raises:
        InputError: The network makes no image of these latents.
    """
    image = net.decode(lq, latents=latents, clamp=False).float().cpu()
    if not image.isfinite().all():
        raise InputError(f'{(~image.isfinite()).sum()} values of a decoded image are not finite. {UNTRAINED}')
    return round8(image.clamp(0, 1))


def walk(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], num_steps: int) -> Iterator[list[torch.Tensor]]:
    """Latents on the way from one sample to another: cos(a) * first + sin(a) * second, a from 0 to pi/2.

    With two independent draws of N(0, t^2 I), each point of the way is one too, because cos^2 + sin^2 = 1. On the
    straight line the middle would have a standard deviation of only t / sqrt(2): a smoother image than any sample.

    Args:
        first: Latents of all levels, finest first.
        second: The same of the other end.
        num_steps: Points, both ends included, >= 2. The ends are the given latents, exactly.
    """
    for step in range(num_steps):
        if step in (0, num_steps - 1):
            yield list(first if step == 0 else second)
        else:
            angle = step / (num_steps - 1) * math.pi / 2
            yield [math.cos(angle) * a + math.sin(angle) * b for a, b in zip(first, second, strict=True)]


class LatentStatistics(NamedTuple):
    """How the latents of one level are distributed; for N(0, 1): 0, 1, 0, 0.0027."""

    level: int
    height: int
    width: int
    channels: int
    mean: float
    std: float
    excess_kurtosis: float
    beyond_3: float  # share of |z| > 3


def latent_statistics(latents: Sequence[torch.Tensor]) -> list[LatentStatistics]:
    """Statistics of each level's latents (1, C, h, w), finest level first, which is level 1."""
    statistics = []
    for level, latent in enumerate(latents, 1):
        z = double(latent)
        deviations = z - z.mean()
        variance = deviations.square().mean()
        kurtosis = deviations.pow(4).mean() / variance.square() - 3
        statistics.append(LatentStatistics(
            level, latent.shape[2], latent.shape[3], latent.shape[1], z.mean().item(), variance.sqrt().item(),
            kurtosis.item(), (z.abs() > 3).double().mean().item()))
    return statistics


class Likelihood(NamedTuple):
    """What an HR image is to the network, given its LR image."""

    nll: float  # bits per HR pixel, the sum of the terms
    terms: dict[str, float]  # those of the LR image, of the latents under N(0, I), of the log-determinants
    latents: list[torch.Tensor]


@torch.no_grad()
def likelihood(net: HCFlowNet, gt: torch.Tensor, lq: torch.Tensor, seed: int) -> Likelihood:
    """nll of an HR image (1, 3, H, W) given its LR image, both in [0, 1], as `calculate_nll` has it, and its terms.

    `seed` is that of the dequantization noise, drawn on the CPU.
    """
    noise = torch.rand(gt.shape, generator=torch.Generator().manual_seed(seed)).to(gt)
    code = net.encode(gt, lq, dequantization_noise=noise)
    terms = NLLLoss().terms(code, lq, lq.shape[2] * lq.shape[3] * net.scale**2)
    names = {'l_g_nll_lr': 'LR image', 'l_g_nll_prior': 'latents', 'l_g_nll_logdet': 'log-determinants'}
    return Likelihood(code.nll.item(), {names[key]: value.item() for key, value in terms.items()}, code.latents)


class EditedImage(NamedTuple):
    """An edited HR image, taken apart."""

    own_lq: torch.Tensor  # its bicubic LR image, 8 bits, (1, 3, h, w)
    lq_exact: torch.Tensor  # its LR image as the network has it
    latents: list[torch.Tensor]

    def low(self, lq: torch.Tensor) -> torch.Tensor:
        """What to decode for the LR content `lq`: lq_exact + (lq - own_lq).

        The network's own LR image differs a little from the bicubic one; kept, this difference makes decode return
        exactly the edited image where the LR content is its own.
        """
        return self.lq_exact + (lq - self.own_lq)


@torch.no_grad()
def take_apart(net: HCFlowNet, edited: torch.Tensor, lq: torch.Tensor) -> EditedImage:
    """Encode an edited HR image (1, 3, H, W) of the size that belongs to `lq`, without dequantization noise."""
    edited = fit_to_scale(edited, net.scale, lq)
    own_lq = bicubic_guide(edited, net.scale)
    code = net.encode(edited, own_lq, dequantization_noise=torch.zeros_like(edited))
    return EditedImage(own_lq, code.lq_exact, code.latents)


def normalize_latents(latents: Sequence[torch.Tensor], temperature: float) -> list[torch.Tensor]:
    """Bring latents down to the standard deviation that samples of a temperature have, where they are above it.

    z' = z * min(1, temperature / rms(z)), rms over all channels and a window of 5x5 positions of the level. A pasted
    border or a detail that does not fit its LR image has latents far out of N(0, I); that is what this changes.
    """
    normalized = []
    for latent in latents:
        power = latent.square().mean(dim=1, keepdim=True)
        rms = F.avg_pool2d(power, WINDOW, 1, WINDOW // 2, count_include_pad=False).sqrt()
        normalized.append(latent * (temperature / rms.clamp(min=1e-12)).clamp(max=1))
    return normalized
