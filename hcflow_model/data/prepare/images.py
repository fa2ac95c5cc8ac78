"""One image: read, modcropped, downscaled, cut and written. Runs in worker processes."""
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from basicsr.data.transforms import mod_crop
from basicsr.utils import img2tensor, tensor2img
from PIL import Image

from hcflow_model.images.bicubic import bicubic_guide, bicubic_resize
from hcflow_model.images.png import png_size
from hcflow_model.utils.files import open_regular

from .settings import Settings, side_at_factor, write_whole
from .sources import LeftOut, one_image

PNG_LEVEL = 1  # BasicSR's for LMDBs; level 3 makes files 5 % smaller and takes 1.8 times as long
PNG_END = b'IEND\xaeB`\x82'


def prepare_image(item, settings: Settings, out: Path) -> dict | str:
    """Write all files of one image.

    Args:
        item: Image, see :func:`find_images`.
        settings: What is asked for.
        out: Folder of the data set; its subfolders exist.

    Returns:
        Its record {name, stamp, size: [height, width] of HR}, or why it was left out.

    Raises:
        InputError: A file cannot be written.
    """
    try:
        with one_image():
            return _prepare(item, settings, out)
    except LeftOut as reason:
        return str(reason)


def _prepare(item, settings, out):
    stamp = item.stamp()
    whole = item.read()
    part, image = settings.part_of(item.name), mod_crop(whole, settings.scale)
    height, width = image.shape[:2]
    if not any(settings.sizes(item.name, height, width).values()):
        smallest = f'--crop {settings.crop}' if settings.crop and part == 'train' else f'--scale {settings.scale}'
        largest = max(factor for factor, _ in settings.factors(item.name))
        at = f' at {largest:g} of its size' if largest < 1 else ''
        raise LeftOut(f'is {whole.shape[0]}x{whole.shape[1]}, smaller than {smallest}{at}')
    written, dropped = [], []
    try:
        for number, (stem, window, images, enough) in enumerate(_windows(image, item.name, settings)):
            if not enough:
                dropped.append(number)
                continue
            for folder, factor, uncut in zip(settings.folders(part), (1, settings.scale), images, strict=False):
                top, left, h, w = (value // factor for value in window)
                written.append(out / folder / f'{stem}.png')
                write_whole(written[-1], _png(uncut[top:top + h, left:left + w]))
    except BaseException:  # nothing stays of an image that is not finished
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
    return {'name': item.name, 'stamp': stamp, 'size': [height, width], **({'dropped': dropped} if dropped else {})}


def _windows(image, name, settings):
    """(file name without ending, place in HR, [HR, LR], whether it has the detail asked for) of all outputs."""
    for factor, least in settings.factors(name):
        windows = settings.windows(name, *image.shape[:2], factor)
        if not windows:
            continue
        hr = mod_crop(at_factor(image, factor), settings.scale)
        images = [hr] if settings.hr_only and not least else [hr, bicubic_downscaled(hr, settings.scale)]
        lost = lost_by_bicubic(*images, settings.scale) if least else None
        for stem, top, left, height, width in windows:
            enough = not least or lost[top:top + height, left:left + width].mean() ** 0.5 >= least
            yield stem, (top, left, height, width), images, enough


def at_factor(image: np.ndarray, factor: float) -> np.ndarray:
    """An image at a factor of its size, antialiased bicubic (Pillow's): (H, W, 3), uint8."""
    height, width = (side_at_factor(side, factor) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) if factor < 1 else image


def lost_by_bicubic(hr: np.ndarray, lr: np.ndarray, scale: int) -> np.ndarray:
    """Squared error of bicubic upscaling, grey levels, mean of R, G and B: (H, W). The root of its mean over a
    sub-image is the detail that :class:`Settings` asks for; 20 log10(255 / detail) is bicubic's PSNR there."""
    up = tensor2img(bicubic_resize(img2tensor(lr, bgr2rgb=False)[None] / 255, scale), rgb2bgr=False)
    return ((hr.astype(np.float32) - up) ** 2).mean(2)


def bicubic_downscaled(image: np.ndarray, scale: int) -> np.ndarray:
    """MATLAB's bicubic downscaling, rounded to 8 bits: (H, W, 3), uint8 -> (H / scale, W / scale, 3), uint8."""
    gt = img2tensor(image, bgr2rgb=False) / 255
    return tensor2img(bicubic_guide(gt[None], scale), rgb2bgr=False)


def _png(image):
    written, content = cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    assert written  # to memory: cannot fail for such an array
    return content.tobytes()


def png_file_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of a whole PNG file, from its first and last bytes; None where there is none."""
    try:
        with open_regular(path) as file:
            head = file.read(24)
            file.seek(-8, 2)
            return png_size(head) if file.read() == PNG_END else None
    except OSError:
        return None
