"""HCFlow on NumPy images: super-resolution with samples and likelihoods, and rescaling as a pair."""
import numbers
from collections.abc import Callable, Sequence

import numpy as np

from hcflow_arch import InputError
from hcflow_model.images.arrays import check_array, planes, reflected, spread_colours, to_array, to_tensor

from .base import HCFlowImages
from .choice import best, scores
from .onnx_net import OnnxNet
from .refine import WEIGHT, check_refine, refine
from .tile_size import in_tiles_that_fit
from .tiling import downscale_tiles


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
                seed: int | None = 0, keep: int | None = None, by: str = 'nll') -> list[np.ndarray]:
        """`n` HR images, the first being that of a call with the same seed; see :meth:`__call__`.

        With `keep`, the best of them by 'nll' or 'lr_psnr', best first; see :meth:`scores`.
        """
        for name, value, most in (('n', n, n), ('keep', n if keep is None else keep, n)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= value <= most:
                raise InputError(f'{name} is {value!r}; it must be a whole number of samples from 1'
                                 f'{f" to {n}" if name == "keep" else ""}.')
        samples = self._draw(image, n, temperature, seed)
        if keep is None:
            return samples
        return [samples[place] for place in best(self.scores(image, samples, by), by)[:keep]]

    def scores(self, image: np.ndarray, samples: Sequence[np.ndarray], by: str = 'nll') -> list[float]:
        """Of samples of an LR image: 'nll' (bits per HR pixel, lower is likelier) or 'lr_psnr' (dB, higher is more
        consistent with the LR image)."""
        return scores(self._sampler, image, samples, by, self.tile)

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

    def downscale(self, image: np.ndarray, refine: int = 0, refine_weight: float = WEIGHT,
                  store: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """The LR image, rounded to the type of `image`.

        Other sizes than multiples of the scale are padded by reflection at the end: (ceil(H / scale), ...).

        Args:
            image: HR image; see the class.
            refine: Steps of gradient descent on the LR image for what is restored of it at temperature 0; what is
                restored best is kept. Default: 0.
            refine_weight: Of staying near the network's own LR image. Default: 0.05.
            store: What a file that loses detail, such as a JPEG, gives back of an image (h, w, C); refining allows for
                it. Default: None, the same.
        """
        check_refine(refine, refine_weight)
        if refine and isinstance(self.net, OnnxNet):
            raise InputError('An ONNX network has no gradients to refine an image by; take the checkpoint that it was '
                             'exported from.')
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
                if refine:
                    self._refine_plane(part, out[..., plane.channels], refine, refine_weight,
                                       None if plane.is_alpha else store)
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

    def _refine_plane(self, part, out, steps, weight, store):
        count, scale = part.shape[2], self.scale

        def tensor_of(array):
            return to_tensor(array, self.device)[:, :count]

        def read(rows, columns):
            return tensor_of(part[rows.start * scale:rows.stop * scale, columns.start * scale:columns.stop * scale])

        def run(tile):
            tiles = self._sampler.tiles(*out.shape[:2], tile)
            top = np.iinfo(out.dtype).max if out.dtype.kind == 'u' else None
            small = refine(self.net, tensor_of(out), tiles, read, steps, weight, top,
                           None if store is None else lambda image: tensor_of(store(to_array(image, count, out.dtype))),
                           self._reporter(len(tiles) * (steps + 1)))
            out[...] = to_array(small, count, out.dtype)

        in_tiles_that_fit(self.net, out.shape[:2], self.tile, run, gradients=True)

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
