"""The sampler: validation, the commands, HCFlowUpscaler, HCFlowRescaler and `hcflow explore` draw all samples here.

A sample is named by a seed, a temperature and its number, from 1. Its noise depends on the seed, the number and the
position in the image alone (see noise.py): not on the image or its place in a folder, the temperature, tiles, how many
samples are drawn, or who draws them. So a sample that was seen in one place can be made again in all others.
"""
import numbers
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.checks import check_temperature, fit_to_scale
from hcflow_model.images.bicubic import round8

from .cuda_graph import RepeatedDecode
from .noise import NoiseField
from .refine import refine
from .tiling import DEFAULT_OVERLAP, Tile, check_tile, downscale_tiles, size_multiple, split

MAX_REDRAWS = 2
CLIP = 3.  # standard deviations of the noise, before the temperature; 0.27 % of the values are beyond
OTHER_TURNS = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)][1:]  # of 90 degrees
FAR = 1.  # beyond [0, 1]: overshoots at edges stay below it, an exploding inverse does not


class Sample(NamedTuple):
    """A sample of an image and a seed.

    Attributes:
        temperature: Standard deviation of the latents, >= 0.
        number: From 1. Different numbers have independent noise, which is the same at all temperatures.
    """
    temperature: float
    number: int = 1


class DrawCounts(NamedTuple):
    """What :meth:`Sampler.draw` saw of a sample before clamping.

    Attributes:
        nonfinite: Pixels with a channel that is NaN or infinite, of the last draw; 0 where the sample can be used.
        out_of_range: Finite pixels with a channel outside of [-1, 2].
        redraws: How often the sample was drawn again with other noise.
        clipped: 1 where its noise was clipped at CLIP standard deviations, else 0.
    """
    nonfinite: int
    out_of_range: int
    redraws: int
    clipped: int = 0

    @property
    def draws(self) -> int:
        """How often the sample was drawn."""
        return 1 + self.clipped + self.redraws


def samples_of(temperatures: Iterable[float], num_samples: int) -> list[Sample]:
    """Samples 1 to `num_samples` at each temperature; one at temperature 0, where all are equal."""
    return [Sample(temperature, number) for temperature in temperatures
            for number in range(1, 1 + (1 if temperature == 0 else num_samples))]


def noise_of(seed: int, number: int, redraws: int = 0, clipped: bool = False) -> NoiseField:
    """The noise of a sample, after this number of redraws."""
    return NoiseField(seed, number - 1 + redraws * 2**32, CLIP if clipped else None)


class Sampler:
    """Draws samples of LR images, and downscales HR images, whole or in tiles.

    Args:
        net: The network, in eval mode.
        tile: Largest side of tiles in LR pixels, from 16. Default: None, whole images.
        overlap: Margin of tiles in LR pixels. Default: 16.
    """

    def __init__(self, net: HCFlowNet, tile: int | None = None, overlap: int = DEFAULT_OVERLAP):
        check_tile('tile', tile)
        self.net, self.tile, self.overlap = net, tile, overlap
        self._decode = RepeatedDecode(net)  # sees which sizes come again

    def tiles(self, height: int, width: int, tile: int | None = None) -> list[Tile]:
        """The tiles of an LR image of this size; `tile`: their largest side. Default: the sampler's."""
        return split(height, width, tile or self.tile, self.overlap, size_multiple(self.net))

    @torch.no_grad()
    def draw(self, read: Callable[[range, range], torch.Tensor], tiles: Sequence[Tile], samples: Iterable[Sample],
             seed: int, write: Callable[[Sample, Tile, torch.Tensor], None], self_ensemble: bool = False,
             temperature_map: Callable[[range, range], torch.Tensor] | None = None) -> dict[Sample, DrawCounts]:
        """Draw samples of an LR image tile by tile.

        Where latents are beyond what training has seen, the inverse may explode. A sample with pixels that are not
        finite is drawn again with its noise clipped at CLIP standard deviations, and if that does not help, up to
        MAX_REDRAWS times with other noise, also clipped.

        Args:
            read: Returns a window (rows, columns) of the LR image as (1, 3, h, w) in [0, 1] on the network's device.
            tiles: The part of the image that is wanted; :meth:`tiles` are all of it.
            samples: What to draw.
            seed: From 0 to 2**63 - 1.
            write: Takes a sample, a tile and its own part of the sample, clamped to [0, 1], float32,
                (1, 3, scale * h, scale * w). Called again for samples that are drawn again; not for tiles with pixels
                that are not finite.
            self_ensemble: Samples at temperature 0 are the mean over the eight flips and turns of the LR image, whose
                HR images are clamped and turned back. Other samples are as they are without. Default: False.
            temperature_map: Returns a window of a map, (1, 1, h, w), that multiplies the temperature of each sample.
                Default: None.

        Returns:
            The counts of each sample. One whose `nonfinite` is not 0 is still broken after the last draw.
        """
        waiting, counts, attempt = list(samples), {}, 0
        for temperature, _ in waiting:
            check_temperature('temperature', temperature)
        while waiting:
            redraws, clipped = max(attempt - 1, 0), min(attempt, 1)
            counts.update(dict.fromkeys(waiting, DrawCounts(0, 0, redraws, clipped)))
            for tile in tiles:
                window = tile.outer_rows, tile.outer_columns
                lq = read(*window)
                features = self.net.coarsest_features(lq)  # once for all samples
                for sample in waiting:
                    temperature = sample.temperature
                    if temperature_map is not None and temperature > 0:
                        temperature = temperature * temperature_map(*window)
                    latents = noise_of(seed, sample.number, redraws, clipped).latents(
                        self.net, *window, temperature, lq.device)
                    images = self._decode_turned(lq, latents, features, self_ensemble and sample.temperature == 0)
                    part, nonfinite, far = _mean_part(tile.crop(image, self.net.scale) for image in images)
                    old = counts[sample]
                    counts[sample] = old._replace(nonfinite=old.nonfinite + nonfinite,
                                                  out_of_range=old.out_of_range + far)
                    if nonfinite == 0:
                        write(sample, tile, part)
            waiting = [sample for sample in waiting if counts[sample].nonfinite and sample.temperature > 0
                       and redraws < MAX_REDRAWS]  # at temperature 0 every draw is the same
            attempt += 1
        return counts

    def _decode_turned(self, lq, latents, features, self_ensemble) -> Iterator[torch.Tensor]:
        """The HR image; for an ensemble also those of the other flips and turns, turned back. Not clamped."""
        yield self._decode(lq, latents, features)
        for turns, mirrored in OTHER_TURNS if self_ensemble else ():
            lq_turned, *latents_turned = (torch.rot90(image.flip(3) if mirrored else image, turns, (2, 3)).contiguous()
                                          for image in (lq, *latents))
            image = self._decode(lq_turned, latents_turned, self.net.coarsest_features(lq_turned))
            image = torch.rot90(image, -turns, (2, 3))
            yield image.flip(3) if mirrored else image

    def draw_image(self, lq: torch.Tensor, samples: Iterable[Sample], seed: int,
                   self_ensemble: bool = False) -> dict[Sample, tuple[torch.Tensor, DrawCounts]]:
        """Samples of an LR image (1, 3, h, w), each (1, 3, scale * h, scale * w) on the CPU, and their counts."""
        scale, samples = self.net.scale, list(samples)
        shape = (1, 3, *(length * scale for length in lq.shape[2:]))
        out = {sample: torch.zeros(shape) for sample in samples}
        counts = self.draw(reader(lq), self.tiles(*lq.shape[2:]), samples, seed,
                           lambda sample, tile, sr: _write(out[sample], tile, sr.cpu(), scale), self_ensemble)
        return {sample: (out[sample], counts[sample]) for sample in samples}

    def downscale(self, gt: torch.Tensor, steps: int = 0) -> torch.Tensor:
        """As :meth:`HCFlowNet.downscale`, in tiles; with `steps` rounded to 8 bits and refined, see refine.py."""
        fitting = fit_to_scale(gt, self.net.scale)
        out = gt.new_empty(*gt.shape[:2], *(length // self.net.scale for length in fitting.shape[2:]))
        tiles = self.tiles(*out.shape[2:])
        for tile, lq in downscale_tiles(self.net, reader(fitting, self.net.scale), tiles):
            _write(out, tile, lq, 1)
        if steps:
            out = refine(self.net, round8(out.clamp(0, 1)), tiles, reader(gt, self.net.scale), steps, top=255)
        return out


def _mean_part(images: Iterable[torch.Tensor]) -> tuple[torch.Tensor, int, int]:
    """The mean of images (1, 3, H, W), each clamped to [0, 1]; pixels that are not finite, and others far out of it."""
    mean, nonfinite, out_of_range = 0., 0, 0
    for count, image in enumerate(images, 1):
        image = image.float()
        finite = image.isfinite().all(1)
        far = ((image < -FAR) | (image > 1 + FAR)).any(1) & finite
        nonfinite, out_of_range = nonfinite + int((~finite).sum()), out_of_range + int(far.sum())
        image = image.clamp(0, 1)
        mean = image if count == 1 else mean + (image - mean) / count  # exact where all are equal
    return mean, nonfinite, out_of_range


def reader(image: torch.Tensor, scale: int = 1) -> Callable[[range, range], torch.Tensor]:
    """Windows of an image (N, C, scale * h, scale * w), by rows and columns of (h, w)."""
    return lambda rows, columns: image[:, :, rows.start * scale:rows.stop * scale,
                                       columns.start * scale:columns.stop * scale]


def _write(out, tile, part, scale):
    reader(out, scale)(tile.rows, tile.columns).copy_(part)


def check_seed(seed: int | None, name: str = 'seed') -> int:
    """Return the seed, a random one for None, or raise InputError; `name`: how the message calls it."""
    if seed is None:
        return secrets.randbits(63)  # torch.seed() would also seed PyTorch's own generators anew
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**63:
        raise InputError(f'{name} is {seed!r}; it must be a whole number from 0 to 2**63 - 1.')
    return int(seed)
