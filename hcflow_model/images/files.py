"""Image files to and from arrays: nothing of a file is lost on the way, and no file is ever half-written."""
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from hcflow_arch.errors import InputError
from hcflow_model.utils.files import open_regular, write_bytes
from hcflow_model.utils.memory import is_out_of_memory

from . import png
from .exif import EXTRA_SAMPLES, ORIENTATION, PHOTOMETRIC, SAMPLES_PER_PIXEL, short_tags, texts_of, with_texts

WRITABLE = ('.png', '.jpg', '.jpeg', '.webp', '.tif', '.tiff', '.bmp')
IMAGE_ENDINGS = (*WRITABLE, '.ppm', '.pgm')  # of files that are read, by commands and datasets
MAX_BYTES = 2**31 - 1  # of a file: OpenCV decodes no more
DEEP_EXTENSIONS = ('.png', '.tif', '.tiff')  # more than 8 bits
ALPHA_EXTENSIONS = ('.png', '.webp', '.tif', '.tiff')
MAX_SIDE = {'.webp': 16383, '.jpg': 65500, '.jpeg': 65500}  # pixels; of the others none is met
METADATA_EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp')
QUALITY = {'.jpg': cv2.IMWRITE_JPEG_QUALITY, '.jpeg': cv2.IMWRITE_JPEG_QUALITY, '.webp': cv2.IMWRITE_WEBP_QUALITY}
JPEG_SIGNATURE, TIFF_SIGNATURES = b'\xff\xd8', (b'II*\0', b'MM\0*')
CMYK = 5


class ImageFile(NamedTuple):
    """What an image file holds.

    Attributes:
        pixels: (H, W) grey, (H, W, 2) grey and alpha, (H, W, 3) BGR or (H, W, 4) BGRA; uint8, uint16 or float32.
        profile: ICC colour profile, or None.
        text: Text chunks of a PNG, lines 'keyword: text' of the EXIF comment of others: {keyword: text}.
    """
    pixels: np.ndarray
    profile: bytes | None = None
    text: dict[str, str] = {}


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The pixels of an image file, upright: see :class:`ImageFile` and :func:`read_image_file`."""
    return read_image_file(path).pixels


def read_image_file(path: str | os.PathLike) -> ImageFile:
    """Read an image file: grey, palette, alpha and CMYK (JPEG), 8 and 16 bits, turned as its EXIF orientation says.

    Raises:
        InputError: The file is missing, empty, cut off, or holds no image that can be read.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise InputError(f'Image {path} has more than {MAX_BYTES} bytes, the most that can be read.')
            content = file.read()
    except OSError as error:
        raise InputError(f'Image {path} cannot be read: {error.strerror}.') from error
    if not content:
        raise InputError(f'Image {path} is empty (0 bytes); copy or download it again.')
    facts = {}
    if content.startswith(png.SIGNATURE):
        facts = png.png_facts(content, path)  # also finds what is cut off or damaged
    elif content.startswith(JPEG_SIGNATURE):
        _check_whole_jpeg(content, path)
    elif content.startswith(TIFF_SIGNATURES):
        _check_tiff(content, path)
    pixels, exif, profile = _decode(content)
    if pixels is None:
        raise InputError(f'{path} is no image that can be read, or it is cut off or damaged; readable are '
                         f'{", ".join(IMAGE_ENDINGS)}.')
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f'Image {path} has pixels of type {pixels.dtype}; allowed are 8 or 16 bits and 32-bit floats.')
    if content.startswith(png.SIGNATURE) and content[25] == 4:  # grey and alpha, which OpenCV makes BGRA
        pixels = pixels[..., 2:]
    if pixels.ndim == 2 and isinstance(facts.get('transparency'), int):
        pixels = png.with_transparent_grey(pixels, content, facts['transparency'])
    if content.startswith(TIFF_SIGNATURES):  # libtiff turned it
        exif = b''
    pixels = np.ascontiguousarray(_upright(pixels, short_tags(exif).get(ORIENTATION, 1)))
    texts = {key: str(text) for key, text in facts.items() if isinstance(text, str)} or texts_of(exif)
    return ImageFile(pixels, profile, texts)


def image_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """(height, width) of an image file as it is read, upright, from its head; None where Pillow cannot tell."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # no pixels are read
    try:
        with Image.open(path) as image:
            exif = image.getexif() if image.format != 'PNG' or 'exif' in image.info else {}  # else it reads the pixels
            turned = exif.get(ORIENTATION, 1) >= 5
            return image.size if turned else image.size[::-1]
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def write_image(path: str | os.PathLike, pixels: np.ndarray, profile: bytes | None = None,
                text: dict[str, str] | None = None, quality: int = 95) -> None:
    """Write an image file under another name and rename it: what was there stays whole until the new file is.

    Args:
        path: Its extension is the format; folders that are missing are made. JPEG, WebP and BMP hold 8 bits only:
            deeper pixels are rounded to them; floats become 16 bits where the format is not TIFF.
        pixels: As in :class:`ImageFile`.
        profile: ICC colour profile, kept in PNG, JPEG and WebP where it is one for such pixels. Default: None.
        text: {keyword: text}, kept in PNG, JPEG and WebP, where read_image_file finds it. Outside of PNG it is ASCII
            without line breaks. Default: None.
        quality: Of JPEG and WebP, from 1 to 100. Default: 95.

    Raises:
        InputError: Unknown format, alpha in a format without it, or text in one without text.
        WriteError: The file cannot be written.
    """
    path = Path(path)
    extension = path.suffix.lower()
    check_format(path, pixels)
    if text and extension not in METADATA_EXTENSIONS:
        raise InputError(f'{path}: {extension} keeps no text; allowed are {", ".join(METADATA_EXTENSIONS)}.')
    write_bytes(path, encode_image(extension, pixels, profile, text, quality))


def check_format(path: Path, pixels: np.ndarray, size: Sequence[int] | None = None) -> None:
    """Refuse a file name whose format is unknown, does not hold alpha where the pixels have it, or so large an image.

    Args:
        path: The file.
        pixels: The image, or one of its kind.
        size: (height, width) of the image. Default: that of `pixels`.
    """
    extension = path.suffix.lower()
    if extension not in WRITABLE:
        raise InputError(f'{path}: format {extension!r} cannot be written; allowed are {", ".join(WRITABLE)}.')
    if has_alpha(pixels) and extension not in ALPHA_EXTENSIONS:
        raise InputError(f'{path}: {extension} holds no transparency (alpha), which the image has; allowed are '
                         f'{", ".join(ALPHA_EXTENSIONS)}.')
    height, width = size or pixels.shape[:2]
    if not _holds_size(extension, (height, width)):
        raise InputError(f'{path}: the image is {height}x{width}, {extension} holds at most {MAX_SIDE[extension]} '
                         'pixels on a side; take png or tif.')


def _holds_size(extension, size):
    return max(size) <= MAX_SIDE.get(extension, max(size))


def has_alpha(pixels: np.ndarray) -> bool:
    """Whether the last channel is alpha."""
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def as_depth(pixels: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Pixels of another type: integers span their whole range, floats [0, 1]."""
    dtype = np.dtype(dtype)
    if pixels.dtype == dtype:
        return pixels
    top_in, top_out = (np.iinfo(kind).max if kind.kind == 'u' else 1 for kind in (pixels.dtype, dtype))
    values = pixels.astype(np.float32) * np.float32(top_out / top_in)
    return values.astype(dtype) if dtype.kind == 'f' else values.clip(0, top_out).round().astype(dtype)


def resize(pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pixels at another (height, width): averaged when shrunk, bicubic when enlarged."""
    height, width = size
    if (height, width) == pixels.shape[:2]:
        return pixels
    shrunk = height < pixels.shape[0] or width < pixels.shape[1]
    resized = cv2.resize(pixels, (max(width, 1), max(height, 1)),
                         interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_CUBIC)
    return resized.reshape(*resized.shape[:2], *pixels.shape[2:])


def automatic_extension(path: str | os.PathLike, pixels: np.ndarray, size: Sequence[int] | None = None) -> str:
    """The extension of `path` where its format holds the pixels without loss of depth or alpha, else .png or .tif.

    `size`: (height, width) of what is to be written. Default: that of `pixels`.
    """
    extension = Path(path).suffix.lower()
    if pixels.dtype == np.float32:
        return extension if extension in ('.tif', '.tiff') else '.tif'
    holds_alpha = extension in ALPHA_EXTENSIONS or not has_alpha(pixels)
    holds_depth = extension in DEEP_EXTENSIONS or pixels.dtype == np.uint8
    fits = extension in WRITABLE and holds_alpha and holds_depth and _holds_size(extension, size or pixels.shape[:2])
    return extension if fits else '.png'


def find_images(folder: str | os.PathLike) -> tuple[list[Path], dict[Path, str]]:
    """Search a folder and its subfolders for images.

    Returns:
        All files whose ending is that of an image, sorted, hidden ones left out; and what could not be searched,
        {path: why}: folders without permission, and links to folders, which are not followed.
    """
    images, problems = [], {}

    def cannot(error):
        problems[Path(error.filename)] = f'cannot be searched: {error.strerror}'

    for place, subfolders, files in os.walk(folder, onerror=cannot):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
        problems.update({Path(place, name): 'is a link to a folder, and links are not followed; give that folder '
                         'itself, or a copy' for name in subfolders if os.path.islink(os.path.join(place, name))})
        images += [Path(place, name) for name in files
                   if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith('.')]
    return sorted(images), problems


def _depth(extension: str, dtype: np.dtype) -> np.dtype:
    """Type that a format holds pixels of `dtype` in."""
    if dtype == np.float32 and extension in ('.tif', '.tiff'):
        return dtype
    return np.dtype(np.uint8 if dtype == np.uint8 or extension not in DEEP_EXTENSIONS else np.uint16)


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Within it OpenCV logs nothing in this process."""
    level = set_log_level(0)
    try:
        yield
    finally:
        set_log_level(level)


def set_log_level(level: int) -> int:
    """Of OpenCV, 0: silent. Returns the one before."""
    return getattr(cv2.utils, 'logging', cv2).setLogLevel(level)  # OpenCV 5; before: cv2 itself


def _decode(content: bytes) -> tuple[np.ndarray | None, bytes, bytes | None]:
    """Pixels as stored (None: unreadable), EXIF (b'': none) and colour profile (None: none)."""
    try:
        with silent_opencv():  # one clear error follows; OpenCV's own lines would stand before it
            pixels, kinds, values = cv2.imdecodeWithMetadata(np.frombuffer(content, np.uint8),
                                                             flags=cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if is_out_of_memory(error):
            raise
        return None, b'', None
    metadata = {int(kind): np.ravel(value).tobytes() for kind, value in zip(kinds, values, strict=True)}
    return pixels, metadata.get(cv2.IMAGE_METADATA_EXIF, b''), metadata.get(cv2.IMAGE_METADATA_ICCP)


def encode_image(extension: str, pixels: np.ndarray, profile: bytes | None = None, text: dict[str, str] | None = None,
                 quality: int = 95) -> bytes:
    """The content of an image file; see :func:`write_image`."""
    pixels = as_depth(pixels, _depth(extension, pixels.dtype))
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # which OpenCV cannot write
        if extension == '.png':
            return png.add_text(png.encode_grey_alpha(pixels), text or {})
        pixels = pixels[..., [0, 0, 0, 1]]
    metadata = {}
    space = b'GRAY' if pixels.ndim == 2 else b'RGB '
    if extension in METADATA_EXTENSIONS and profile is not None and profile[16:20] == space:
        metadata[cv2.IMAGE_METADATA_ICCP] = profile
    if text and extension != '.png':
        metadata[cv2.IMAGE_METADATA_EXIF] = with_texts(text)
    done, content = cv2.imencodeWithMetadata(
        extension, pixels, list(metadata), [np.frombuffer(value, np.uint8) for value in metadata.values()],
        [QUALITY[extension], quality] if extension in QUALITY else [])
    if not done:
        raise InputError(f'An image of shape {pixels.shape} and type {pixels.dtype} cannot be written as {extension}.')
    content = content.tobytes()
    return png.add_text(content, text) if text and extension == '.png' else content


def through_file(extension: str, pixels: np.ndarray, quality: int) -> np.ndarray:
    """What a JPEG or WebP file of the quality gives back of pixels (h, w, C), C being 1 or 3, in 8 bits."""
    content = encode_image(extension, pixels, quality=quality)
    flag = cv2.IMREAD_GRAYSCALE if pixels.shape[2] == 1 else cv2.IMREAD_COLOR
    return cv2.imdecode(np.frombuffer(content, np.uint8), flag).reshape(pixels.shape)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror stored pixels as an EXIF orientation (1 to 8; 1 and others: as stored) says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def _check_tiff(content: bytes, path) -> None:
    tags = short_tags(content)
    kind = None
    if tags.get(PHOTOMETRIC) == CMYK:
        kind = 'CMYK'
    elif tags.get(SAMPLES_PER_PIXEL) == 2 or EXTRA_SAMPLES in tags:  # OpenCV drops alpha, or multiplies colours by it
        kind = 'with transparency (alpha)'
    if kind is not None:
        raise InputError(f'Image {path} is a TIFF {kind}, which cannot be read without loss; save it as PNG.')


def _check_whole_jpeg(content: bytes, path) -> None:
    """Refuse a JPEG without its end: decoders fill in grey for what is missing."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xff:
        marker, length = content[place + 1], int.from_bytes(content[place + 2:place + 4], 'big')
        if marker == 0xd9:
            return
        place += 1 if marker == 0xff else 2 + length
        if marker == 0xda:  # image data up to the next marker; 00 and restarts (d0 to d7) belong to it
            place = content.find(b'\xff', place)
            while 0 <= place < len(content) - 1 and (content[place + 1] == 0 or 0xd0 <= content[place + 1] <= 0xd7):
                place = content.find(b'\xff', place + 2)
            while content[place:place + 2] == b'\xff\xff':  # fill bytes, which any marker may have before it
                place += 1
            if content[place:place + 2] == b'\xff\xd9':
                return
            if place < 0:
                break
    raise InputError(f'Image {path} is cut off or damaged: the end of its JPEG data is missing; copy it again.')
