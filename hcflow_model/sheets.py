"""Sheets: one picture per image that shows input, samples, ground truth and where the samples differ."""
import re
from typing import NamedTuple

import cv2
import numpy as np
import torch

from .bicubic import bicubic_resize

MAX_SAMPLES = 4
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


def draw_sheet(case: dict, rows: dict[str, list[torch.Tensor]], captions: dict[str, str], scale: int) -> np.ndarray:
    """Draw the sheet of one image.

    First row: LR, bicubic, ground truth. Then a row per temperature: at most four samples and, of two or more, their
    standard deviation. Small pictures are enlarged by a whole factor, large ones are shrunk.

    Args:
        case (dict): lq (1, 3, h, w), gt (1, 3, H, W) or None, lq_for_bicubic (1, 3, h, w), all RGB in [0, 1];
            difference (bool, optional): Show the restored images' difference to the ground truth, 8 times enlarged.
        rows (dict): {'bicubic' or temperature as 't0.9': samples (1, 3, H, W)}. Sizes may differ by less than `scale`
            pixels: all are cropped to the smallest.
        captions (dict): {label of a row: its figures}; '' for those of the image itself.
        scale (int): Upscaling factor.

    Returns:
        ndarray: (height, width, 3), BGR, uint8.
    """
    images = {label: [_to_rgb(sample) for sample in samples] for label, samples in rows.items() if samples}
    gt = None if case.get('gt') is None else _to_rgb(case['gt'])
    lq = _to_rgb(case['lq'])
    bicubic = images.pop('bicubic', None) or [
        _to_rgb(bicubic_resize(case['lq_for_bicubic'].detach().float().cpu(), scale)).clamp(0, 1)]
    upsampled = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    everything = [upsampled, *bicubic, *([] if gt is None else [gt]), *(s for row in images.values() for s in row)]
    height, width = (min(image.shape[axis] for image in everything) for axis in (1, 2))

    def crop(image):
        return image[:, :height, :width]

    gt = None if gt is None else crop(gt)
    to_compare = gt if case.get('difference') else None  # None: no difference is drawn
    first = [Tile(f'LR {lq.shape[2]}x{lq.shape[1]}', _picture(crop(upsampled)), captions.get('', '')),
             Tile('bicubic', _picture(crop(bicubic[0])), captions.get('bicubic', ''))]
    first += [] if gt is None else [Tile('ground truth', _picture(gt))]
    first += [] if to_compare is None else [_difference_tile(crop(bicubic[0]), gt, ' of bicubic')]
    tiles = [first]
    for label, samples in images.items():
        tiles.append(_temperature_row(label, [crop(s) for s in samples], captions.get(label, ''), to_compare))
    return _stack([_draw_row(row) for row in tiles])


def _temperature_row(label, samples, caption, gt):
    """Tiles of one temperature; `gt` is None where no difference is wanted."""
    name, count = f'temperature {label.removeprefix("t")}', len(samples)
    titles = [name] if count == 1 else [f'{name}, sample {i + 1}' for i in range(min(count, MAX_SAMPLES))]
    tiles = [Tile(title, _picture(sample)) for title, sample in zip(titles, samples, strict=False)]
    if caption and count > 1:
        caption = f'mean over {count} samples:\n{caption}'
    tiles[0] = tiles[0]._replace(caption=caption)
    if gt is not None:
        tiles.append(_difference_tile(samples[0], gt, '' if count == 1 else ' of sample 1'))
    if count > 1:
        tiles.append(Tile(f'std over {count} samples (grey levels)', _std_map(samples)))
    return tiles


def _difference_tile(image, gt, of):
    return Tile(f'difference x8{of}', _picture((gt - image).abs() * 8))


def _std_map(samples):
    """Colour map of the samples' standard deviation (unbiased, mean over channels), with its bar."""
    mean = samples[0] + sum(sample - samples[0] for sample in samples) / len(samples)  # exact where all are equal
    variance = sum((sample - mean).square_() for sample in samples) / (len(samples) - 1)  # one sample at a time: memory
    std = 255 * variance.sqrt().mean(0).numpy()
    finite = np.isfinite(std)
    top = float(std[finite].max()) if finite.any() else 0.
    relative = std / top if top > 0 else np.zeros_like(std)
    picture = _colour(_resize(np.where(finite, relative, 1)))
    return np.hstack([picture, _colour_bar(picture.shape[0], top)])


def _colour_bar(height, top):
    """Scale from 0 (bottom) to `top`, with labels, to stand right of a map."""
    labels = [f'{top:.3g}', '0']
    bar = _blank(height, MARGIN // 2 + BAR_WIDTH + 6 + max(map(_text_width, labels)))
    left, right = MARGIN // 2, MARGIN // 2 + BAR_WIDTH
    bar[:, left:right] = _colour(np.linspace(1, 0, height)[:, None].repeat(BAR_WIDTH, 1))
    cv2.rectangle(bar, (left, 0), (right - 1, height - 1), BLACK)
    _put(bar, labels[0], right + 4, 11)
    if height >= 2 * LINE:  # else the labels would lie on each other
        _put(bar, labels[1], right + 4, height - 1)
    return bar


def _colour(values):
    return cv2.applyColorMap(np.round(255 * values).astype(np.uint8), cv2.COLORMAP_VIRIDIS)


def _to_rgb(image):
    """(1, C, H, W) on any device -> (3, H, W) on the CPU."""
    return image.detach()[0].float().cpu().expand(3, -1, -1)


def _picture(image):
    """(3, H, W) in [0, 1], RGB -> (h, w, 3), BGR, uint8, of the size it has on the sheet."""
    image = torch.nan_to_num(image).clamp(0, 1).mul(255).round().byte()
    return _resize(np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()))


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
            _put(canvas, line, 0, top - 6 - i * LINE)
        for i, line in enumerate(caption):
            _put(canvas, line, 0, bottom + 16 + i * LINE)
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
            if line and _text_width(joined) > width:
                lines.append(line)
                joined = word
            while _text_width(joined) > width and len(joined) > 1:  # one word, longer than a line
                fits = next(n for n in range(len(joined) - 1, 0, -1) if n == 1 or _text_width(joined[:n]) <= width)
                lines, joined = [*lines, joined[:fits]], joined[fits:]
            line = joined
        lines += [line] if line else []
    return lines


def _text_width(text):
    return cv2.getTextSize(text, FONT, FONT_SCALE, 1)[0][0]


def _put(canvas, text, x, y):
    cv2.putText(canvas, text, (x, y), FONT, FONT_SCALE, BLACK, 1, cv2.LINE_AA)


def _blank(height, width):
    return np.full((height, width, 3), WHITE, np.uint8)
