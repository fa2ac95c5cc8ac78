"""What OpenCV leaves out of PNG: text chunks, grey with alpha, and the check that a file is whole."""
import os
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from hcflow_arch.errors import InputError

SIGNATURE = b'\x89PNG\r\n\x1a\n'


def png_size(content: bytes | memoryview) -> tuple[int, int] | None:
    """(height, width) by the first 24 bytes of a PNG; None: another format."""
    head = bytes(content[:24])
    return struct.unpack('>II', head[16:])[::-1] if head.startswith(SIGNATURE) and len(head) == 24 else None


def read_text(content: bytes, path: str | os.PathLike) -> dict[str, str]:
    """{keyword: text} of the iTXt and tEXt chunks.

    Args:
        content: The whole file.
        path: How messages call it.

    Raises:
        InputError: The file is cut off, or a checksum is wrong.
    """
    text = {}
    for kind, data in _chunks(content, path):
        keyword, _, rest = data.partition(b'\0')
        if kind == b'tEXt':
            text[keyword.decode('latin-1')] = rest.decode('latin-1')
        elif kind == b'iTXt' and rest[:1] == b'\0':  # not compressed
            text[keyword.decode('latin-1')] = rest[2:].split(b'\0', 2)[-1].decode('utf-8', 'replace')
    return text


def with_transparent_grey(pixels: np.ndarray, content: bytes, path: str | os.PathLike) -> np.ndarray:
    """Grey pixels (H, W) of a PNG, with alpha (H, W, 2) where its tRNS chunk names a level that is transparent."""
    for kind, data in _chunks(content, path):
        if kind == b'tRNS' and len(data) == 2:
            top, stored_top = np.iinfo(pixels.dtype).max, 2**content[24] - 1  # 1 to 16 bits are stored
            alpha = np.where(pixels == int.from_bytes(data[:2], 'big') * top // stored_top, 0, top)
            return np.dstack([pixels, alpha.astype(pixels.dtype)])
    return pixels


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


def _chunks(content: bytes, path) -> Iterator[tuple[bytes, bytes]]:
    place = len(SIGNATURE)
    view = memoryview(content)
    kind = b''
    while kind != b'IEND':
        header = view[place:place + 8]
        length = int.from_bytes(header[:4], 'big')
        kind, end = bytes(header[4:]), place + 12 + length
        if len(header) < 8 or end > len(content):
            raise InputError(f'Image {path} is cut off: its PNG data ends within a block; copy it again.')
        if zlib.crc32(view[place + 4:end - 4]) != int.from_bytes(view[end - 4:end], 'big'):
            raise InputError(f'Image {path} is damaged: a checksum of its PNG data is wrong; copy it again.')
        if kind in (b'tEXt', b'iTXt', b'tRNS'):
            yield kind, bytes(view[place + 8:end - 4])
        place = end
