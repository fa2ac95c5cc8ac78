"""One image: read, modcropped, downscaled, cut and written. Runs in worker processes."""
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from basicsr.data.transforms import mod_crop
from basicsr.utils import img2tensor, tensor2img

from hcflow_model.images.bicubic import bicubic_guide
from hcflow_model.images.png import png_size
from hcflow_model.utils.files import open_regular

from .settings import Settings, write_whole
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
    image = item.read()
    part = settings.part_of(item.name)
    smallest, option = (settings.crop, '--crop') if settings.crop and part == 'train' else (settings.scale, '--scale')
    height, width = image.shape[:2]
    if min(height, width) < smallest:
        raise LeftOut(f'is {height}x{width}, smaller than {option} {smallest}')
    image = mod_crop(image, settings.scale)
    height, width = image.shape[:2]
    images = [image] if settings.hr_only else [image, bicubic_downscaled(image, settings.scale)]
    written = []
    try:
        for stem, *window in settings.windows(item.name, height, width):
            for folder, factor, whole in zip(settings.folders(part), (1, settings.scale), images, strict=False):
                top, left, h, w = (value // factor for value in window)
                written.append(out / folder / f'{stem}.png')
                write_whole(written[-1], _png(whole[top:top + h, left:left + w]))
    except BaseException:  # nothing stays of an image that is not finished
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
    return {'name': item.name, 'stamp': stamp, 'size': [height, width]}


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
