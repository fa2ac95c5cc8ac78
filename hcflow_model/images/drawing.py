"""Pictures with titles and figures, in rows on one white sheet; maps of values with their colour bar."""
import re
from typing import NamedTuple

import cv2
import numpy as np
import torch

MIN_WIDTH, MAX_WIDTH, MAX_HEIGHT = 256, 640, 1024  # of a picture on the sheet
MARGIN = 16
BAR_WIDTH = 16
FONT, FONT_SCALE, LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 18  # letters of 10 to 13 pixels, lines of 18
WHITE, BLACK = 255, (0, 0, 0)
NAME_AND_NUMBER = re.compile(r'\S+(?: +[-+]?(?:[\d.]+(?:e[-+]?\d+)?|inf|nan)(?!\S))?')  # or a word alone


class Tile(NamedTuple):
    """A picture with its title above and its figures below."""

    title: str
    image: np.ndarray
    caption: str = ''


def draw_tiles(rows: list[list[Tile]]) -> np.ndarray:
    """A sheet of these tiles: (height, width, 3), BGR, uint8."""
    return _stack([_draw_row(row) for row in rows])


def encode_png(sheet: np.ndarray) -> bytes:
    """The content of a PNG file as small as OpenCV makes it: half of its default where pixels are enlarged."""
    return cv2.imencode('.png', sheet, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def picture(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1], RGB -> (h, w, 3), BGR, uint8, of the size it has on the sheet.

    Small pictures are enlarged by a whole factor, large ones are shrunk.
    """
    image = torch.nan_to_num(image).clamp(0, 1).mul(255).round().byte()
    return _resize(np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()))


def value_map(values: np.ndarray, top: float | None = None) -> np.ndarray:
    """Colour map of values (H, W) from 0 on, with its bar.

    Args:
        values: What is not finite is drawn as the largest.
        top: Value of the last colour, which also stands for everything above. Default: the largest value.

    Returns:
        (h, w, 3), BGR, uint8; left of the bar as large as :func:`picture` makes it.
    """
    finite = np.isfinite(values)
    largest = float(values[finite].max()) if finite.any() else 0.
    last = largest if top is None else top
    relative = values / last if last > 0 else np.zeros_like(values)
    drawn = _colour(_resize(np.where(finite, relative, 1).clip(0, 1)))
    label = f'{last:.3g}' if largest <= last else f'{last:.3g}+'
    return np.hstack([drawn, _colour_bar(drawn.shape[0], label)])


def _colour_bar(height, label):
    """Scale from 0 (bottom) to what the label says, to stand right of a map."""
    labels = [label, '0']
    bar = _blank(height, MARGIN // 2 + BAR_WIDTH + 6 + max(map(text_width, labels)))
    left, right = MARGIN // 2, MARGIN // 2 + BAR_WIDTH
    bar[:, left:right] = _colour(np.linspace(1, 0, height)[:, None].repeat(BAR_WIDTH, 1))
    cv2.rectangle(bar, (left, 0), (right - 1, height - 1), BLACK)
    put_text(bar, labels[0], right + 4, 11)
    if height >= 2 * LINE:  # else the labels would lie on each other
        put_text(bar, labels[1], right + 4, height - 1)
    return bar


def _colour(values):
    return cv2.applyColorMap(np.round(255 * values).astype(np.uint8), cv2.COLORMAP_VIRIDIS)


def _resize(image):
    """Enlarge a small image by a whole factor, shrink a large one."""
    height, width = image.shape[:2]
    shrink = min(MAX_WIDTH / width, MAX_HEIGHT / height)
    if shrink < 1:
        size = [max(1, round(length * shrink)) for length in (width, height)]
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    factor = max(1, min(-(-MIN_WIDTH // width), MAX_HEIGHT // height))
    return image.repeat(factor, 0).repeat(factor, 1)


def _draw_row(tiles):
    """Title, picture and caption of each tile below each other, the pictures of all at one height."""
    widths = [max(tile.image.shape[1], MIN_WIDTH) for tile in tiles]
    titles = [_wrap(tile.title, width) for tile, width in zip(tiles, widths, strict=True)]
    top = LINE * max(map(len, titles))
    drawn = []
    for tile, width, title in zip(tiles, widths, titles, strict=True):
        caption = _wrap(tile.caption, width)
        bottom = top + tile.image.shape[0]
        canvas = _blank(bottom + (len(caption) * LINE + 4 if caption else 0), width)
        canvas[top:bottom, :tile.image.shape[1]] = tile.image
        for i, line in enumerate(reversed(title)):
            put_text(canvas, line, 0, top - 6 - i * LINE)
        for i, line in enumerate(caption):
            put_text(canvas, line, 0, bottom + 16 + i * LINE)
        drawn.append(canvas)
    return drawn


def _stack(rows):
    """Put tiles in columns as wide as their widest tile, rows below each other, with equal margins."""
    columns = [max(row[i].shape[1] for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    sheet = _blank(sum(heights) + MARGIN * (len(rows) + 1), sum(columns) + MARGIN * (len(columns) + 1))
    y = MARGIN
    for row, row_height in zip(rows, heights, strict=True):
        x = MARGIN
        for tile, column in zip(row, columns, strict=False):
            sheet[y:y + tile.shape[0], x:x + tile.shape[1]] = tile
            x += column + MARGIN
        y += row_height + MARGIN
    return sheet


def _wrap(text, width):
    """Break text into lines of at most `width` pixels; a name and the number after it stay together."""
    lines = []
    for paragraph in text.splitlines():
        line = last = ''
        for word in re.findall(NAME_AND_NUMBER, paragraph):
            gap = '  ' if ' ' in word and ' ' in last else ' '  # between two figures
            joined, last = f'{line}{gap}{word}'.strip(), word
            if line and text_width(joined) > width:
                lines.append(line)
                joined = word
            while text_width(joined) > width and len(joined) > 1:  # one word, longer than a line
                fits = next(n for n in range(len(joined) - 1, 0, -1) if n == 1 or text_width(joined[:n]) <= width)
                lines, joined = [*lines, joined[:fits]], joined[fits:]
            line = joined
        lines += [line] if line else []
    return lines


def text_width(text):
    return cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]


def put_text(canvas, text, x, y):
    cv2.putText(canvas, text, (x, y), FONT, FONT_SCALE, BLACK, 1, cv2.LINE_AA)


def _blank(height, width):
    return np.full((height, width, 3), WHITE, np.uint8)
