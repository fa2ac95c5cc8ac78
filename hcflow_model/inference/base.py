"""What HCFlowUpscaler and HCFlowRescaler share: NumPy images through the sampler, encode and decode."""
import copy
import itertools
import logging
import os
from collections.abc import Sequence

import numpy as np
import torch

from hcflow_arch import HCFlowCode, HCFlowNet, InputError
from hcflow_arch.checks import check_temperature
from hcflow_model.checkpoints.named import DEFAULTS
from hcflow_model.checkpoints.pretrained import load_pretrained, save_pretrained
from hcflow_model.images.arrays import check_array, planes, spread_colours, to_array, to_tensor
from hcflow_model.utils.devices import find_device

from .draw import CLIP, Sample, Sampler, check_seed, reader
from .onnx_net import OnnxNet, is_onnx
from .temperature_map import temperature_map
from .tile_size import free_memory, in_tiles_that_fit
from .tiling import DEFAULT_OVERLAP, check_tile

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
            (`hcflow weights` lists them), the folder of an experiment, an ONNX file of `hcflow export`, or a network,
            of which a copy is used. Default: None, the small network of this package, 'x4' or 'rescaling-x4'.
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
        self.device = torch.device('cpu') if is_onnx(weights) else find_device(device)
        if is_onnx(weights):
            self.net = OnnxNet(weights, self.task, device)
        elif isinstance(weights, HCFlowNet):
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
        if isinstance(self.net, OnnxNet):
            raise InputError('An ONNX network is not saved as a checkpoint; copy its file.')
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
            map_ = torch.from_numpy(temperature_map('The temperature map', temperature, array.shape[:2], self.scale))
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
