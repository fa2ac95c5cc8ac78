"""Where images come from: a folder with its subfolders, or a pickled list of arrays."""
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from basicsr.utils import imfrombytes

from hcflow_arch import InputError
from hcflow_model.images import files as image_files
from hcflow_model.utils.files import open_regular
from hcflow_model.utils.memory import is_out_of_memory

from .array_list import read_array_list

MAX_NAME = 180  # characters: file systems take 255 with what is added, LMDB keys 511


class LeftOut(Exception):
    """An image that cannot be used; the others go on. The message says why, without the image's name."""


@dataclass(frozen=True)
class ImageFile:
    """An image on disk, or what could not be searched for images.

    Attributes:
        name: What its outputs are called.
        path: The file.
        problem: Why it cannot be used, where that is known before it is read. Default: None.
    """
    name: str
    path: Path
    problem: str | None = None

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
        if self.problem:
            raise LeftOut(self.problem)
        with open_regular(self.path) as file:
            if os.fstat(file.fileno()).st_size > image_files.MAX_BYTES:
                raise LeftOut(f'has more than {image_files.MAX_BYTES} bytes')
            content = file.read()
        try:
            image = imfrombytes(content) if content else None
        except cv2.error as error:
            if is_out_of_memory(error):
                raise
            image = None
        if image is None:
            raise LeftOut('is broken, or no image')
        return image


def find_images(source: str | os.PathLike) -> list:
    """All images of a source, sorted by name.

    Args:
        source: A folder, searched with its subfolders, or a `.pklv4` (`.pkl`, `.pickle`) file as SRFlow makes them.

    Returns:
        Objects with `name` (letters, digits, `-` and `_`; told apart from all others), `stamp()` and `read()`. Folders
        that cannot be searched are among them, and raise LeftOut when they are read.

    Raises:
        InputError: No such source, no images in it, or two images whose names become equal.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() not in ('.pklv4', '.pkl', '.pickle'):
            raise InputError(f'-i {source} is a file; give a folder of images, or a .pklv4 file.')
        return read_array_list(source, plain_name(source.stem))
    if not source.is_dir():
        problem = 'is neither a folder nor a file' if source.exists() else 'does not exist'
        raise InputError(f'-i {source} {problem} (looked from {Path.cwd()}).')
    paths, problems = image_files.find_images(source)
    if not paths and not problems:
        raise InputError(f'-i {source} holds no images; endings that are looked for: '
                         f'{", ".join(image_files.IMAGE_ENDINGS)}.')
    found = {}
    for path in paths:
        name = plain_name('_'.join(path.relative_to(source).with_suffix('').parts))
        if name in found:
            raise InputError(f'{found[name].path} and {path} would both be called {name}; rename one of them.')
        found[name] = ImageFile(name, path)
    not_searched = [ImageFile(f'{plain_name("_".join(path.relative_to(source).parts))}/', path, problem)
                    for path, problem in problems.items()]  # names that no image has
    return [found[name] for name in sorted(found)] + not_searched


@contextmanager
def one_image() -> Iterator[None]:
    """What goes wrong with one image alone becomes :class:`LeftOut`: it cannot be read, or memory does not suffice."""
    try:
        yield
    except OSError as error:
        raise LeftOut(f'cannot be read: {error.strerror}') from error
    except (MemoryError, RuntimeError, cv2.error) as error:
        if not is_out_of_memory(error):
            raise
        raise LeftOut('needs more memory than there is') from error


def usable(item, smallest: float) -> bool:
    """Whether an image can be read and has no side below `smallest`."""
    try:
        with one_image():
            return min(item.read().shape[:2]) >= smallest
    except LeftOut:
        return False


def plain_name(text: str) -> str:
    """A name that LMDB keys (ASCII, no dot) and lines of meta_info.txt (no space) take."""
    name = re.sub(r'[^A-Za-z0-9_-]', lambda match: '_' if match[0].isascii() else f'-{ord(match[0]):x}', text)
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()  # bytes that are no text: surrogates
    return f'{name[:MAX_NAME - 13]}-{digest[:12]}'
