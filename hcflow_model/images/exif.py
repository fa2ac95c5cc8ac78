"""EXIF: the few tags that are read, and texts in a comment, where JPEG and WebP keep what PNG has text chunks for."""
import struct
from collections.abc import Iterator

ORIENTATION, EXIF_FOLDER, USER_COMMENT = 274, 34665, 37510  # tags
PHOTOMETRIC, SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 262, 277, 338  # tags of TIFF, which EXIF shares
SHORT, LONG, UNDEFINED = 3, 4, 7  # kinds of values
ASCII = b'ASCII\0\0\0'  # begins a comment


def short_tags(content: bytes) -> dict[int, int]:
    """The short whole numbers of the first directory of a TIFF file, or of EXIF, which is one."""
    return {tag: value for tag, kind, count, value in _entries(content, 'H') if (kind, count) == (SHORT, 1)}


def texts_of(content: bytes) -> dict[str, str]:
    """{keyword: text} that :func:`with_texts` put into EXIF data. In other comments, lines that look the same."""
    folders = [value for tag, _, _, value in _entries(content, 'I') if tag == EXIF_FOLDER]
    places = [(place, count) for folder in folders for tag, _, count, place in _entries(content, 'I', folder)
              if tag == USER_COMMENT]
    texts = {}
    for place, count in places:
        comment = content.removeprefix(b'Exif\0\0')[place:place + count]
        if comment.startswith(ASCII):
            lines = comment.removeprefix(ASCII).decode('ascii', 'replace').splitlines()
            texts.update(line.split(': ', 1) for line in lines if ': ' in line)
    return texts


def with_texts(texts: dict[str, str]) -> bytes:
    """EXIF data whose comment has a line 'keyword: text' for each text, which is ASCII without line breaks."""
    comment = ASCII + '\n'.join(f'{keyword}: {text}' for keyword, text in texts.items()).encode('ascii')
    # two directories of one entry each: at 8, which leads to the one at 26; its comment is at 44
    return struct.pack('<2sHIHHHIIIHHHIII', b'II', 42, 8, 1, EXIF_FOLDER, LONG, 1, 26, 0,
                       1, USER_COMMENT, UNDEFINED, len(comment), 44, 0) + comment


def _entries(content: bytes, value: str, start: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """(tag, kind, number of values, value) of a directory, by default the first; `value`: read as 'H' or 'I'."""
    content = content.removeprefix(b'Exif\0\0')
    order = {b'II': '<', b'MM': '>'}.get(content[:2])
    try:
        if start is None:
            start, = struct.unpack_from(f'{order}I', content, 4)
        count, = struct.unpack_from(f'{order}H', content, start)
        for i in range(count):
            yield struct.unpack_from(f'{order}HHI{value}', content, start + 2 + 12 * i)
    except struct.error:  # none, or cut off: what was read so far holds
        return
