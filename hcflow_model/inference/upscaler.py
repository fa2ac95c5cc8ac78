"""HCFlow on NumPy images: super-resolution with samples and likelihoods, and rescaling as a pair."""
import copy
import itertools
import logging
import numbers
import os
from collections.abc import Sequence

import numpy as np
import torch

from hcflow_arch import HCFlowCode, HCFlowNet, InputError
from hcflow_arch.checks import check_temperature
from hcflow_model.checkpoints.named import DEFAULTS
from hcflow_model.checkpoints.pretrained import load_pretrained, save_pretrained
from hcflow_model.images.arrays import check_array, planes, reflected, spread_colours, to_array, to_tensor
from hcflow_model.utils.devices import find_device

from .draw import CLIP, Sample, Sampler, check_seed, reader
from .temperature_map import temperature_map
from .tile_size import free_memory, in_tiles_that_fit
from .tiling import DEFAULT_OVERLAP, check_tile, downscale_tiles

LOGGER = logging.getLogger('basicsr')  # BasicSR's, which need not be there


class HCFlowImages:
    """What super-resolution and rescaling share; use :class:`HCFlowUpscaler` or :class:`HCFlowRescaler`.

    Images are NumPy arrays as OpenCV has them: (H, W) grey, (H, W, 3) **BGR**, (H, W, 4) BGRA, (H, W, 2) grey and
    alpha; uint8, uint16, or floats in [0, 1]. What comes back is of the same kind and type. Grey goes through the
    network as three equal channels and comes back as their mean; alpha goes through it as a grey image of its own,
    at temperature 0. Where alpha is 0, colours are those of the nearest pixel that can be seen: what files hold there,
    mostly black, would darken the edges.

    Args:
        weights (str | Path | HCFlowNet): A checkpoint (.pth or .safetensors), ours or a released one, the name of one
            (`hcflow weights` lists them), the folder of an experiment, or a network, of which a copy is used.
            Default: None, the small network of this package, 'x4' or 'rescaling-x4'.
        device (str | torch.device): 'cpu', 'cuda', 'cuda:1', 'mps', or 'auto': CUDA if there is a GPU, else the CPU.
            Default: 'auto'.
        tile (int): Largest side of tiles in LR pixels, from 16. Default: None, the whole image at once where it fits
            into memory, else tiles.
        overlap (int): Margin of tiles in LR pixels. Default: 16.
        param_key (str): 'params_ema' (where there is none: 'params') or 'params'. Default: 'params_ema'.

    Raises:
        InputError: No such checkpoint, or one for another task.
    """

    task: str

    def __init__(self, weights: str | os.PathLike | HCFlowNet | None = None,
                 device: str | torch.device | None = 'auto', tile: int | None = None, overlap: int = DEFAULT_OVERLAP,
                 param_key: str = 'params_ema'):
        check_tile('tile', tile)
        if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
            raise InputError(f'overlap is {overlap!r}; it must be a whole number of LR pixels from 0.')
        self.device = find_device(device)
        if isinstance(weights, HCFlowNet):
            if weights.task != self.task:
                raise InputError(f'{type(self).__name__} needs a network for task {self.task!r}; this one is for '
                                 f'{weights.task!r}.')
            self.net = copy.deepcopy(weights).eval().to(self.device)
        else:
            weights = DEFAULTS[self.task] if weights is None else weights
            self.net = load_pretrained(weights, task=self.task, param_key=param_key, device=self.device)
        self.tile, self.default_temperature = tile, 0.8 if self.task == 'sr' else self.net.temperature
        self._sampler = Sampler(self.net, overlap=overlap)
        self.progress = None  # called with the finished share of the colours, or of the alpha, after each tile

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Save the network in one file, .safetensors or .pth, that the constructor takes."""
        save_pretrained(self.net, path)

    @property
    def scale(self) -> int:
        """Ratio of HR to LR size."""
        return self.net.scale

    def encode(self, hr: np.ndarray, lr: np.ndarray | None = None, seed: int = 0) -> HCFlowCode:
        """Split an HR image into LR image and latents; see :meth:`HCFlowNet.encode`.

        Args:
            hr: Grey or BGR, without alpha.
            lr: Its LR image, for the likelihood. Default: None.
            seed: Of the dequantization noise (SR). Default: 0.

        Returns:
            HCFlowCode of tensors (RGB) on the device, for :meth:`decode`.
        """
        hr = self._tensor_of('hr', hr)
        noise = None
        if self.net.task == 'sr':
            noise = torch.rand(hr.shape, generator=torch.Generator().manual_seed(check_seed(seed))).to(hr.device)
        with torch.inference_mode():
            return self.net.encode(hr, None if lr is None else self._tensor_of('lr', lr), noise)

    def decode(self, lr: np.ndarray | torch.Tensor, latents: Sequence[torch.Tensor]) -> np.ndarray:
        """The HR image of an LR image and latents, such as those of another image of this size.

        Args:
            lr: Grey or BGR, without alpha; or an LR image of :meth:`encode`'s result, (1, 3, h, w).
            latents: As in :meth:`encode`'s result.

        Returns:
            Of the type of `lr`; BGR float32 where that is a tensor.
        """
        is_tensor = torch.is_tensor(lr)
        with torch.inference_mode():
            hr = self.net.decode(lr.to(self.device) if is_tensor else self._tensor_of('lr', lr),
                                 [latent.to(self.device) for latent in latents])
        if is_tensor:
            return to_array(hr, 3, np.dtype(np.float32))
        channels = check_array('lr', lr).shape[2]
        return to_array(hr, channels, lr.dtype).reshape(*hr.shape[2:], *lr.shape[2:])

    def _tensor_of(self, name, image):
        array = check_array(name, image)
        if array.shape[2] in (2, 4):
            raise InputError(f'{name} has an alpha channel, which has no latents; give it without: image[..., :-1].')
        return to_tensor(array, self.device)

    def _draw(self, lr: np.ndarray, count: int, temperature: float | np.ndarray | None, seed: int | None,
              self_ensemble: bool = False) -> list[np.ndarray]:
        """`count` HR images of an LR image; `temperature`: a number, or see temperature_map.py."""
        array = spread_colours(check_array('image', lr))
        map_ = None
        if temperature is None:
            temperature = 0. if self_ensemble else self.default_temperature
        if isinstance(temperature, np.ndarray) and temperature.ndim:
            map_ = torch.from_numpy(temperature_map('temperature', temperature, array.shape[:2], self.scale))
            map_, temperature = map_[None, None].to(self.device), 1.
        check_temperature('temperature', temperature)
        if self_ensemble and temperature != 0:
            raise InputError('self_ensemble is the mean over flips and turns at temperature 0; leave temperature out.')
        seed = check_seed(seed)
        height, width = array.shape[:2]
        needed, free = count * array.nbytes * self.scale**2, free_memory(torch.device('cpu'))
        if free is not None and needed > free:  # allocated, it would end the process once it is filled
            raise InputError(f'{count} image(s) of {self.scale * height}x{self.scale * width} pixels need '
                             f'{needed / 2**30:.3g} GiB of memory, and {free / 2**30:.3g} GiB are free; make fewer at '
                             'once, or parts of the image.')
        out = [np.empty((height * self.scale, width * self.scale, array.shape[2]), array.dtype) for _ in range(count)]
        for plane in planes(array):
            part, outs = array[..., plane.channels], [image[..., plane.channels] for image in out]
            if not plane.is_alpha:
                self._draw_plane(part, outs, temperature, seed, self_ensemble, map_)
                continue
            if part.min() == part.max():  # opaque, nearly always: stays exactly so
                outs[0][...] = part[0, 0]
            else:
                self._draw_plane(part, outs[:1], 0., seed, self_ensemble)
            for other in outs[1:]:
                other[...] = outs[0]
        return [image.reshape(*image.shape[:2], *lr.shape[2:]) for image in out]

    def _draw_plane(self, part, outs, temperature, seed, self_ensemble, map_=None):
        def read(rows, columns):
            return to_tensor(part[rows.start:rows.stop, columns.start:columns.stop], self.device)

        def run(tile):
            tiles = self._sampler.tiles(*part.shape[:2], tile)
            report = self._reporter(len(tiles) * len(outs))

            def write(sample, tile, sr):
                rows, columns = (slice(own.start * self.scale, own.stop * self.scale)
                                 for own in (tile.rows, tile.columns))
                outs[sample.number - 1][rows, columns] = to_array(sr, part.shape[2], part.dtype)
                report()

            samples = [Sample(temperature, number) for number in range(1, len(outs) + 1)]
            drawn = self._sampler.draw(read, tiles, samples, seed, write, self_ensemble,
                                       None if map_ is None else reader(map_))
            broken = [counts for counts in drawn.values() if counts.nonfinite]
            if broken:
                raise InputError(f'The network gives pixels that are not finite at temperature {temperature:g}, '
                                 f'{broken[0].draws} times; lower the temperature or take another checkpoint.')
            for sample, counts in drawn.items():
                if counts.clipped:
                    LOGGER.warning(f'Sample {sample.number} had pixels that are not finite; draw {counts.draws}, with '
                                   f'noise clipped at {CLIP:g} standard deviations, is finite.')

        in_tiles_that_fit(self.net, part.shape[:2], self.tile, run)

    def _reporter(self, count):
        """To be called after each of `count` steps; more of them, of samples that are drawn again, are the last one."""
        steps = itertools.count(1)

        def report():
            if self.progress is not None:
                self.progress(min(1., next(steps) / count))
        return report


class HCFlowUpscaler(HCFlowImages):
    """Super-resolution: `upscaler(image)` is one plausible HR image, `upscaler.samples(image, 3)` are three.

    Example:
        >>> upscaler = HCFlowUpscaler()  # or HCFlowUpscaler('net_g_latest.pth')
        >>> sr = upscaler(cv2.imread('lr.png'), temperature=0.8, seed=0)

    Images, arguments and errors: see :class:`HCFlowImages`.
    """

    task = 'sr'

    def __call__(self, image: np.ndarray, temperature: float | np.ndarray | None = None, seed: int | None = 0,
                 self_ensemble: bool = False) -> np.ndarray:
        """One HR image.

        Args:
            image: LR image; see the class.
            temperature: From 0, the network's single best guess, to 1, its full range; or a map of it, a grey image of
                the size of `image`, or of the HR image: uint8 and uint16 go from 0 to 1, floats are temperatures.
                Default: 0.8; with self_ensemble 0.
            seed: Of the noise, one field for the whole image (see draw.py): validation, the commands and this class,
                with tiles or without, make the same image of one seed. None: another one every time. Default: 0.
            self_ensemble: The mean over the eight flips and turns of the image, at temperature 0. Default: False.

        Returns:
            (scale * H, scale * W, ...), of the kind and type of `image`.
        """
        return self._draw(image, 1, temperature, seed, self_ensemble)[0]

    def samples(self, image: np.ndarray, n: int, temperature: float | np.ndarray | None = None,
                seed: int | None = 0) -> list[np.ndarray]:
        """`n` HR images, the first being that of a call with the same seed; see :meth:`__call__`."""
        if isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1:
            raise InputError(f'n is {n!r}; it must be a whole number of samples from 1.')
        return self._draw(image, n, temperature, seed)

    def log_likelihood(self, hr: np.ndarray, lr: np.ndarray, seed: int = 0) -> float:
        """log2 p(hr | lr) per HR pixel: the higher, the likelier. It is minus the nll of training and reports.

        A density of pixels in [0, 1], not a probability, so it can be above 0.

        Args:
            hr: HR image, without alpha, of any size that belongs to `lr`.
            lr: LR image, without alpha.
            seed: Of the dequantization noise. Default: 0.

        Returns:
            Bits per HR pixel.
        """
        return -self.encode(hr, lr, seed).nll.item()


class HCFlowRescaler(HCFlowImages):
    """Rescaling as a pair: `small = rescaler.downscale(image)`, `rescaler.restore(small, image.shape[:2])`.

    Images, arguments and errors: see :class:`HCFlowImages`.
    """

    task = 'rescaling'

    def downscale(self, image: np.ndarray) -> np.ndarray:
        """The LR image, rounded to the type of `image`.

        Other sizes than multiples of the scale are padded by reflection at the end: (ceil(H / scale), ...).
        """
        array = spread_colours(check_array('image', image))
        if min(array.shape[:2]) < self.scale:
            raise InputError(f'image is {array.shape[0]}x{array.shape[1]}, smaller than the scale; give at least '
                             f'{self.scale}x{self.scale} pixels.')
        size = tuple(-(-length // self.scale) for length in array.shape[:2])
        out = np.empty((*size, array.shape[2]), array.dtype)
        for plane in planes(array):
            part = array[..., plane.channels]
            if plane.is_alpha and part.min() == part.max():
                out[..., plane.channels] = part[0, 0]
            else:
                self._downscale_plane(part, out[..., plane.channels], size)
        return out.reshape(*size, *image.shape[2:])

    def _downscale_plane(self, part, out, size):
        def read(rows, columns):
            rows, columns = (range(own.start * self.scale, own.stop * self.scale) for own in (rows, columns))
            return to_tensor(reflected(part, rows, columns), self.device)

        def run(tile):
            tiles = self._sampler.tiles(*size, tile)
            report = self._reporter(len(tiles))
            for place, lr in downscale_tiles(self.net, read, tiles):
                out[place.rows.start:place.rows.stop, place.columns.start:place.columns.stop] = to_array(
                    lr, part.shape[2], part.dtype)
                report()

        in_tiles_that_fit(self.net, size, self.tile, run)

    def restore(self, lr: np.ndarray, size: tuple[int, int] | None = None,
                temperature: float | np.ndarray | None = None, seed: int | None = 0,
                self_ensemble: bool = False) -> np.ndarray:
        """The HR image of an LR image that :meth:`downscale` made.

        Args:
            lr: LR image; see the class.
            size: Original (height, width), to which the result is cropped. Default: scale times that of `lr`.
            temperature: Default: the network's, 1; with self_ensemble 0.
            seed: Of the noise; see :class:`HCFlowUpscaler`, also for the others. Default: 0.
            self_ensemble: The mean over the eight flips and turns of the image, at temperature 0. Default: False.

        Returns:
            Of the kind and type of `lr`.
        """
        array = check_array('lr', lr)
        whole = tuple(length * self.scale for length in array.shape[:2])
        if size is not None and len(size) != 2:
            raise InputError(f'size is {tuple(size)}; it must be (height, width), such as image.shape[:2].')
        if size is not None and not all(0 <= most - length < self.scale
                                        for most, length in zip(whole, size, strict=True)):
            raise InputError(f'size is {tuple(size)}; an LR image of {array.shape[0]}x{array.shape[1]} belongs to HR '
                             f'images of at most {whole[0]}x{whole[1]}, less than {self.scale} pixels smaller.')
        height, width = size or whole
        return self._draw(lr, 1, temperature, seed, self_ensemble)[0][:height, :width]
