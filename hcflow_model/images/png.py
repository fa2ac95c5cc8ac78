"""What OpenCV leaves out of PNG: texts, grey with alpha, and the check that a file is whole."""
import io
import os
import struct
import zlib

import numpy as np
from PIL import PngImagePlugin

from hcflow_arch.errors import InputError

SIGNATURE = b'\x89PNG\r\n\x1a\n'


def png_size(content: bytes | memoryview) -> tuple[int, int] | None:
    """(height, width) by the first 24 bytes of a PNG; None: another format."""
    head = bytes(content[:24])
    return struct.unpack('>II', head[16:])[::-1] if head.startswith(SIGNATURE) and len(head) == 24 else None


def png_facts(content: bytes, path: str | os.PathLike) -> dict:
    """Texts, {keyword: text}, and 'transparency' of a PNG file, as Pillow's `info` has them.

    Args:
        content: The whole file.
        path: How messages call it.

    Raises:
        InputError: The file is cut off, or a checksum is wrong.
    """
    try:
        chunks = PngImagePlugin.ChunkStream(io.BytesIO(content[len(SIGNATURE):])).verify()
    except (OSError, SyntaxError, struct.error) as error:
        raise InputError(f'Image {path} is cut off or damaged: {error}; copy it again.') from error
    if not {b'tEXt', b'iTXt', b'tRNS'} & set(chunks):
        return {}
    try:
        return PngImagePlugin.PngImageFile(io.BytesIO(content)).info
    except (OSError, SyntaxError, ValueError):  # Pillow refuses, for example, profiles above 1 MiB; pixels are there
        return {}


def with_transparent_grey(pixels: np.ndarray, content: bytes, level: int) -> np.ndarray:
    """Grey pixels (H, W) of a PNG, of which one level as it is stored is transparent, with alpha (H, W, 2)."""
    top, stored_top = np.iinfo(pixels.dtype).max, 2**content[24] - 1  # 1 to 16 bits are stored
    level = min(level, stored_top)  # of 1 bit Pillow makes 255
    alpha = np.where(pixels == level * top // stored_top, 0, top)
    return np.dstack([pixels, alpha.astype(pixels.dtype)])


def add_text(content: bytes, text: dict[str, str]) -> bytes:
    """A PNG file with {keyword: text} put in as iTXt chunks before its image data."""
    chunks = []
    for keyword, value in text.items():
        chunks.append(_chunk(b'iTXt', keyword.encode('latin-1') + b'\0\0\0\0\0' + value.encode()))
    start = len(SIGNATURE) + 25  # after the header
    return content[:start] + b''.join(chunks) + content[start:]


def encode_grey_alpha(pixels: np.ndarray) -> bytes:
    """A PNG file of grey pixels with alpha, (H, W, 2), uint8 or uint16."""
    height, width = pixels.shape[:2]
    header = struct.pack('>IIBBBBB', width, height, 8 * pixels.itemsize, 4, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder('>')).view(np.uint8).reshape(height, -1)
    step = 2 * pixels.itemsize
    filtered = rows.copy()
    filtered[:, step:] -= rows[:, :-step]  # the difference to the pixel on the left, filter type 1
    data = np.hstack([np.ones((height, 1), np.uint8), filtered]).tobytes()
    return SIGNATURE + _chunk(b'IHDR', header) + _chunk(b'IDAT', zlib.compress(data)) + _chunk(b'IEND', b'')


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
