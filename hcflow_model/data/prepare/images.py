"""One image: read, modcropped, downscaled, cut and written. Runs in worker processes."""
from pathlib import Path

import cv2
import numpy as np
from basicsr.data.transforms import mod_crop
from basicsr.utils import img2tensor, tensor2img

from hcflow_model.images.bicubic import bicubic_guide
from hcflow_model.images.png import png_size

from .settings import Settings, write_whole
from .sources import LeftOut

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
    stamp = item.stamp()
    try:
        image = item.read()
    except LeftOut as reason:
        return str(reason)
    part = settings.part_of(item.name)
    smallest, option = (settings.crop, '--crop') if settings.crop and part == 'train' else (settings.scale, '--scale')
    height, width = image.shape[:2]
    if min(height, width) < smallest:
        return f'is {height}x{width}, smaller than {option} {smallest}'
    image = mod_crop(image, settings.scale)
    height, width = image.shape[:2]
    images = [image] if settings.hr_only else [image, bicubic_downscaled(image, settings.scale)]
    for stem, *window in settings.windows(item.name, height, width):
        for folder, factor, whole in zip(settings.folders(part), (1, settings.scale), images, strict=False):
            top, left, h, w = (value // factor for value in window)
            write_whole(out / folder / f'{stem}.png', _png(whole[top:top + h, left:left + w]))
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
        with open(path, 'rb') as file:
            head = file.read(24)
            file.seek(-8, 2)
            return png_size(head) if file.read() == PNG_END else None
    except OSError:
        return None
