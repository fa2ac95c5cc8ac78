"""Where images come from: a folder with its subfolders, or a pickled list of arrays."""
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from basicsr.utils import imfrombytes

from hcflow_arch import InputError
from hcflow_model.images.files import IMAGE_ENDINGS

from .array_list import read_array_list

MAX_NAME = 180  # characters: file systems take 255 with what is added, LMDB keys 511


class LeftOut(Exception):
    """An image that cannot be used; the others go on. The message says why, without the image's name."""


@dataclass(frozen=True)
class ImageFile:
    """An image on disk.

    Attributes:
        name: What its outputs are called.
        path: The file.
    """
    name: str
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def stamp(self) -> list[int]:
        """Changes when the file does."""
        try:
            stat = self.path.stat()
        except OSError:
            return []  # reading it says what is wrong
        return [stat.st_size, stat.st_mtime_ns]

    def read(self) -> np.ndarray:
        """(H, W, 3), BGR, uint8: as BasicSR's loaders see the file (grey and CMYK become RGB, 16 bits 8, alpha is
        dropped, EXIF orientation applied)."""
        try:
            content = self.path.read_bytes()
            image = imfrombytes(content) if content else None
        except OSError as error:
            raise LeftOut(f'cannot be read: {error.strerror}') from error
        except cv2.error as error:
            raise LeftOut('is broken, or no image') from error
        if image is None:
            raise LeftOut('is broken, or no image')
        return image


def find_images(source: str | os.PathLike) -> list:
    """All images of a source, sorted by name.

    Args:
        source: A folder, searched with its subfolders, or a `.pklv4` (`.pkl`, `.pickle`) file as SRFlow makes them.

    Returns:
        Objects with `name` (letters, digits, `-` and `_`; told apart from all others), `stamp()` and `read()`.

    Raises:
        InputError: No such source, no images in it, a folder that cannot be read, or two images whose names become
            equal.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() not in ('.pklv4', '.pkl', '.pickle'):
            raise InputError(f'-i {source} is a file; give a folder of images, or a .pklv4 file.')
        return read_array_list(source, plain_name(source.stem))
    if not source.is_dir():
        raise InputError(f'-i {source} does not exist (looked from {Path.cwd()}).')
    found = {}
    for folder, subfolders, files in os.walk(source, onerror=_refuse_folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
        for file in files:
            path = Path(folder) / file
            if file.startswith('.') or path.suffix.lower() not in IMAGE_ENDINGS:
                continue
            name = plain_name('_'.join(path.relative_to(source).with_suffix('').parts))
            if name in found:
                raise InputError(f'{found[name].path} and {path} would both be called {name}; rename one of them.')
            found[name] = ImageFile(name, path)
    if not found:
        raise InputError(f'-i {source} holds no images; endings that are looked for: {", ".join(IMAGE_ENDINGS)}.')
    return [found[name] for name in sorted(found)]


def _refuse_folder(error):
    raise InputError(f'Folder {error.filename} cannot be read: {error.strerror}. Make it readable, or move it away.')


def usable(item, smallest: int) -> bool:
    """Whether an image can be read and has no side below `smallest`."""
    try:
        return min(item.read().shape[:2]) >= smallest
    except LeftOut:
        return False


def plain_name(text: str) -> str:
    """A name that LMDB keys (ASCII, no dot) and lines of meta_info.txt (no space) take."""
    name = re.sub(r'[^A-Za-z0-9_-]', lambda match: '_' if match[0].isascii() else f'-{ord(match[0]):x}', text)
    if len(name) <= MAX_NAME:
        return name
    return f'{name[:MAX_NAME - 13]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}'
