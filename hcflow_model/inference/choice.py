"""Samples that are chosen: the likeliest, or those that fit their LR image best; and their mean."""
import math
from collections.abc import Sequence

import numpy as np
import torch

from hcflow_arch import InputError
from hcflow_model.images.arrays import check_array, planes, spread_colours, to_tensor
from hcflow_model.images.bicubic import bicubic_resize

from .draw import Sampler, reader
from .tile_size import device_of, in_tiles_that_fit

CRITERIA = ('nll', 'lr_psnr')


@torch.no_grad()
def scores(sampler: Sampler, lr: np.ndarray, samples: Sequence[np.ndarray], by: str,
           tile: int | None = None) -> list[float]:
    """What speaks against or for each sample of an LR image; alpha is left out.

    Args:
        sampler: Of the network that drew the samples.
        lr: LR image, of the kinds of images/arrays.py.
        samples: HR images as they are saved, of the same kind.
        by: 'nll': bits per HR pixel given the LR image, as in reports; lower is likelier. Of tiles it is the mean over
            their pixels, margins included. 'lr_psnr': PSNR in dB between the LR image and the sample that bicubic
            downscaling made small, as `calculate_lr_psnr`; higher is more consistent.
        tile: Largest side of tiles in LR pixels, for nll. Default: None, the whole image where it fits into memory.
    """
    if by not in CRITERIA:
        raise InputError(f'by is {by!r}; samples are chosen by one of {CRITERIA}.')
    net = sampler.net
    device, scale = device_of(net), net.scale

    def colours(image):
        array = spread_colours(check_array('image', image))
        return to_tensor(array[..., planes(array)[0].channels], device)

    lq = colours(lr)

    def lr_psnr(hr):
        error = (bicubic_resize(hr, scale, down=True) - lq).square().mean().item()
        return math.inf if error == 0 else -10 * math.log10(error)

    def nll(hr):
        values = []

        def run(tile):
            bits, pixels = 0., 0
            for part in sampler.tiles(*lq.shape[2:], tile):
                window = part.outer_rows, part.outer_columns
                gt = reader(hr, scale)(*window)
                noise = torch.rand(gt.shape, generator=torch.Generator().manual_seed(0)).to(gt)
                bits += net.encode(gt, reader(lq)(*window), noise).nll.item() * gt[0, 0].numel()
                pixels += gt[0, 0].numel()
            values.append(bits / pixels)

        in_tiles_that_fit(net, lq.shape[2:], tile, run)
        return values[0]

    return [(nll if by == 'nll' else lr_psnr)(colours(sample)) for sample in samples]


def best(values: Sequence[float], by: str) -> list[int]:
    """Places of scores, best first; equal ones in their order, NaN last."""
    signs = [value if by == 'nll' else -value for value in values]
    return sorted(range(len(values)), key=lambda place: (math.isnan(signs[place]), signs[place]))


def mean_image(samples: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of images of one kind, rounded where they are whole numbers."""
    total = np.zeros(samples[0].shape)
    for sample in samples:
        total += sample
    total /= len(samples)
    return (total.round() if samples[0].dtype.kind == 'u' else total).astype(samples[0].dtype)
