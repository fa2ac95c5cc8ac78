"""What the page shows for a picture, as files in a folder. Nothing here needs Gradio."""
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim
from torch.nn.modules.module import register_module_forward_pre_hook

from hcflow_arch import InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_model.images.arrays import check_array, planes, reflected, spread_colours, to_array, to_tensor
from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.drawing import value_map
from hcflow_model.images.files import ImageFile, as_depth, check_format, image_size, read_image_file, write_image
from hcflow_model.images.original import Sidecar
from hcflow_model.inference.tile_size import SHARE, free_memory, memory_needed
from hcflow_model.inference.upscaler import HCFlowImages, HCFlowRescaler, HCFlowUpscaler
from hcflow_model.metrics.hcflow_metric import calculate_lr_psnr, calculate_nll
from hcflow_model.utils.tables import number
from hcflow_model.validation.sheet import std_over

MAX_PIXELS = 2**24  # of a picture: a small file can hold far more than fits into memory
MIN_SIDE = 8  # of an LR image: less leaves nothing to measure inside the border
LR, BICUBIC, BEST, GT, STD = 'LR', 'bicubic', 'temperature 0', 'ground truth', 'standard deviation'
ORIGINAL, SMALL, RESTORED, BICUBIC_SMALL = 'original', 'small', 'restored', 'bicubic small'
# setup.py installs these pictures of a checkout as hcflow_model/pictures
FOLDERS = Path(__file__).parents[1] / 'pictures', Path(__file__).parents[2] / 'tests' / 'data' / 'val_gt'


class Stopped(Exception):
    """The user has stopped the work."""


class Shown:
    """Pictures, figures and remarks, which grow while the work goes on.

    Args:
        folder: Takes the pictures.
        profile: Colour profile of the input, which they get, or None.
    """

    def __init__(self, folder: Path, profile: bytes | None):
        self.folder, self.profile = folder, profile
        self.files = {}  # {name on the page: file}
        self.figures = []  # rows of texts, the first with their titles
        self.remarks = []

    def add(self, name: str, pixels: np.ndarray, text: dict[str, str] | None = None, extension: str = '.png',
            quality: int = 95) -> Path:
        """Save a picture. Returns its file; text and quality as of :func:`write_image`."""
        path = self.folder / f'{name.replace(" ", "_")}{extension}'
        write_image(path, pixels, self.profile, text, quality)
        self.files[name] = path
        return path

    def copy(self) -> 'Shown':
        """What there is by now."""
        twin = Shown(self.folder, self.profile)
        twin.files, twin.figures, twin.remarks = dict(self.files), list(self.figures), list(self.remarks)
        return twin

    def archive(self) -> Path:
        """All pictures in one ZIP file."""
        path = self.folder / 'pictures.zip'
        with zipfile.ZipFile(path, 'w') as file:
            for picture in self.files.values():
                file.write(picture, picture.name)
        return path


def bundled_pictures() -> list[Path]:
    """HR pictures that come with the package."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    return sorted(folder.glob('*.png'))


def read_picture(path: str | os.PathLike | None) -> ImageFile:
    """Read a picture that was dropped onto the page.

    Raises:
        InputError: There is none, it is no image, or it is too large.
    """
    if path is None:
        raise InputError('There is no picture yet: drop one, or take one of those below.')
    size, name = image_size(path), Path(path).name
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise InputError(f'{name} has {size[1]}x{size[0]} pixels; this page takes up to {MAX_PIXELS / 1e6:.1f} '
                         'million. hcflow upscale takes larger ones.')
    try:
        return read_image_file(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from error  # not where it lies on the server


def shrunk(hr: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The bicubic LR image of an HR image, and the HR image itself, cropped to multiples of the scale, without alpha.

    Raises:
        InputError: It is smaller than the scale.
    """
    hr = _colours(hr)
    hr = hr[:hr.shape[0] // scale * scale, :hr.shape[1] // scale * scale]
    if 0 in hr.shape:
        raise InputError(f'The picture is smaller than {scale}x{scale} pixels; take a larger one.')
    return _resized(hr, scale, down=True), hr


def super_resolve(upscaler: HCFlowUpscaler, shown: Shown, lr: np.ndarray, gt: np.ndarray | None, temperature: float,
                  num_samples: int, seed: int) -> Iterator[None]:
    """Show an LR image, its bicubic upsampling, temperature 0, samples and where they differ; stops after each.

    Args:
        upscaler: The network.
        shown: Takes what is shown.
        lr: LR image, as :class:`ImageFile` has it.
        gt: Ground truth; None: unknown.
        temperature, num_samples, seed: As of `hcflow upscale`, which makes the same samples.

    Raises:
        InputError: The ground truth does not belong to the LR image, memory is short, and the like.
    """
    scale, made = upscaler.scale, {}

    def add(name, pixels):
        made[name] = pixels
        shown.add(name, pixels)

    known = None if gt is None else _bgr8(gt)
    if known is not None:
        fit_to_scale(_without_pixels(known), scale, _without_pixels(lr))  # refuses sizes that do not fit
        known = known[:scale * lr.shape[0], :scale * lr.shape[1]]
    shown.add(LR, lr.repeat(scale, 0).repeat(scale, 1))
    add(BICUBIC, _resized(lr, scale))
    yield
    add(BEST, upscaler(lr, 0.))
    yield
    if temperature > 0:
        for i, sample in enumerate(upscaler.samples(lr, num_samples, temperature, seed), 1):
            add(f'sample {i}', sample)
        shown.remarks.append(f'Temperature {temperature:g}, seed {seed}.')
    if num_samples > 1 and temperature > 0:
        std = std_over([to_tensor(_bgr8(made[f'sample {i}']))[0] for i in range(1, num_samples + 1)])
        shown.add(STD, value_map(std))
        shown.remarks.append(f'Samples differ by {std.mean():.2f} grey levels on average (standard deviation).')
    if known is not None:
        shown.add(GT, gt)
    if min(lr.shape[:2]) < MIN_SIDE:
        return
    shown.figures = _figures(made, _bgr8(lr), known, scale)
    if known is not None:
        shown.remarks.append(_nll(upscaler, known, _bgr8(lr)))


def rescale(rescaler: HCFlowRescaler, shown: Shown, hr: np.ndarray, extension: str, quality: int, temperature: float,
            seed: int) -> Iterator[None]:
    """Show an HR image, the small file of it, and what is restored from that, beside bicubic; stops after each.

    Args:
        rescaler: The network.
        shown: Takes what is shown.
        hr: HR image, as :class:`ImageFile` has it.
        extension: Of the small files: '.png', '.jpg' or '.webp'.
        quality: Of JPEG and WebP, from 1 to 100.
        temperature, seed: As of `hcflow restore`.

    Raises:
        InputError: The picture has what the format does not hold, memory is short, and the like.
    """
    scale, size = rescaler.scale, hr.shape[:2]
    sidecar = Sidecar.of(hr, rescaler.net)

    def stored(name, small, text=None):
        """A small image as its file gives it back, and the size of the file."""
        path = shown.add(name, small, text, extension, quality)
        return sidecar.as_kind(read_image_file(path).pixels), path.stat().st_size

    num_original = shown.add(ORIGINAL, hr).stat().st_size
    check_format(shown.folder / f'{SMALL}{extension}', hr)
    small, num_small = stored(SMALL, rescaler.downscale(hr), sidecar.as_text())
    yield
    restored = as_depth(rescaler.restore(small, size, temperature, seed), hr.dtype)
    shown.add(RESTORED, restored)
    yield
    small, num_bicubic = stored(BICUBIC_SMALL, _resized(_padded(hr, scale), scale, down=True))
    bicubic = as_depth(_resized(small, scale)[:size[0], :size[1]], hr.dtype)
    shown.add(BICUBIC, bicubic)
    shown.figures = [['', 'bytes', 'PSNR', 'SSIM'],
                     [RESTORED, f'{num_small:,}', *_fidelity(restored, _bgr8(hr), scale)],
                     [BICUBIC, f'{num_bicubic:,}', *_fidelity(bicubic, _bgr8(hr), scale)]]
    shown.remarks.append(f'The small picture has {num_small:,} bytes, as PNG the original {num_original:,}.')


@contextmanager
def stoppable(images: HCFlowImages, remarks: list[str], is_stopped: Callable[[], bool],
              progress: Callable[[float], None]) -> Iterator[None]:
    """Within it a network's work is reported, and ends by :class:`Stopped` soon after `is_stopped()`.

    Args:
        images: The network.
        remarks: Takes what the package warns of, such as that a picture is tiled.
        is_stopped: Asked before each layer on a CPU, where one tile takes long, and after each tile.
        progress: Called with the finished share of the present step.
    """
    def check(*_):
        if is_stopped():
            raise Stopped

    def report(share):
        check()
        progress(share)

    warned = set()

    def remark(record):
        place = record.pathname, record.lineno
        if place not in warned:  # each step warns anew
            warned.add(place)
            remarks.append(record.getMessage())

    handler = logging.Handler(logging.WARNING)
    handler.emit = remark
    logger = logging.getLogger('basicsr')
    logger.addHandler(handler)
    hook = register_module_forward_pre_hook(check) if images.device.type == 'cpu' else None
    images.progress = report
    try:
        yield
    finally:
        images.progress = None
        logger.removeHandler(handler)
        if hook is not None:
            hook.remove()


def _figures(made, lr, gt, scale):
    titles = ['', *(['PSNR', 'SSIM'] if gt is not None else []), 'LR-PSNR']
    rows = []
    for name, pixels in made.items():
        image = _bgr8(pixels)
        fidelity = [] if gt is None else _fidelity(image, gt, scale)
        rows.append([name, *fidelity, number(calculate_lr_psnr(image, lr, scale))])
    return [titles, *rows]


def _fidelity(pixels, gt, scale):
    image = _bgr8(pixels)[:gt.shape[0], :gt.shape[1]]
    if min(gt.shape[:2]) < MIN_SIDE * scale:
        return ['', '']
    return [number(measure(image, gt, crop_border=scale)) for measure in (calculate_psnr, calculate_ssim)]


def _nll(upscaler, gt, lr):
    needed, free = memory_needed(upscaler.net, *lr.shape[:2]), free_memory(upscaler.device)
    if free is not None and needed > SHARE * free:
        return 'The likelihood is left out: the picture does not fit into memory whole.'
    return f'nll of the ground truth: {calculate_nll(gt, lr, upscaler.net):.4f} bits per HR pixel.'


def _without_pixels(array):
    return torch.empty(1, 3, *array.shape[:2], device='meta')


def _colours(pixels):
    array = spread_colours(check_array('image', pixels))
    return array[..., planes(array)[0].channels]


def _bgr8(pixels):
    colours = as_depth(_colours(pixels), np.uint8)
    return colours if colours.shape[2] == 3 else colours.repeat(3, 2)


def _padded(pixels, scale):
    return reflected(pixels, *(range(-(-length // scale) * scale) for length in pixels.shape[:2]))


def _resized(pixels, scale, down=False):
    """Bicubic, of the same kind and type; colours and alpha apart."""
    array = spread_colours(check_array('image', pixels))
    parts = [to_array(bicubic_resize(to_tensor(array[..., plane.channels]), scale, down),
                      array[..., plane.channels].shape[2], array.dtype) for plane in planes(array)]
    return np.concatenate(parts, axis=2).reshape(*parts[0].shape[:2], *pixels.shape[2:])
