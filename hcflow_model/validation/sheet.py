"""Sheets: one picture per image that shows input, samples, ground truth and where the samples differ."""
import numpy as np
import torch

from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.drawing import Tile, draw_tiles, picture, value_map

MAX_SAMPLES = 4


def draw_sheet(case, rows: dict[str, list[torch.Tensor]], captions: dict[str, str], scale: int) -> np.ndarray:
    """Draw the sheet of one image.

    First row: LR, bicubic, ground truth. Then a row per temperature: at most four samples and, of two or more, their
    standard deviation.

    Args:
        case (Case): lq (1, 3, h, w), gt (1, 3, H, W) or None, lq_for_bicubic (1, 3, h, w), all RGB in [0, 1];
            difference (bool): Show the restored images' difference to the ground truth, 8 times enlarged.
        rows (dict): {'bicubic' or temperature as 't0.9': samples (1, 3, H, W)}. Sizes may differ by less than `scale`
            pixels: all are cropped to the smallest.
        captions (dict): {label of a row: its figures}; '' for those of the image itself.
        scale (int): Upscaling factor.

    Returns:
        ndarray: (height, width, 3), BGR, uint8.
    """
    images = {label: [_to_rgb(sample) for sample in samples] for label, samples in rows.items() if samples}
    gt = None if case.gt is None else _to_rgb(case.gt)
    lq = _to_rgb(case.lq)
    bicubic = images.pop('bicubic', None) or [
        _to_rgb(bicubic_resize(case.lq_for_bicubic.detach().float().cpu(), scale)).clamp(0, 1)]
    upsampled = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    everything = [upsampled, *bicubic, *([] if gt is None else [gt]), *(s for row in images.values() for s in row)]
    height, width = (min(image.shape[axis] for image in everything) for axis in (1, 2))

    def crop(image):
        return image[:, :height, :width]

    gt = None if gt is None else crop(gt)
    to_compare = gt if case.difference else None  # None: no difference is drawn
    first = [Tile(f'LR {lq.shape[2]}x{lq.shape[1]}', picture(crop(upsampled)), captions.get('', '')),
             Tile('bicubic', picture(crop(bicubic[0])), captions.get('bicubic', ''))]
    first += [] if gt is None else [Tile('ground truth', picture(gt))]
    first += [] if to_compare is None else [_difference_tile(crop(bicubic[0]), gt, ' of bicubic')]
    tiles = [first]
    for label, samples in images.items():
        tiles.append(_temperature_row(label, [crop(s) for s in samples], captions.get(label, ''), to_compare))
    return draw_tiles(tiles)


def _temperature_row(label, samples, caption, gt):
    """Tiles of one temperature; `gt` is None where no difference is wanted."""
    name, count = f'temperature {label.removeprefix("t")}', len(samples)
    titles = [name] if count == 1 else [f'{name}, sample {i + 1}' for i in range(min(count, MAX_SAMPLES))]
    tiles = [Tile(title, picture(sample)) for title, sample in zip(titles, samples, strict=False)]
    if caption and count > 1:
        caption = f'mean over {count} samples:\n{caption}'
    tiles[0] = tiles[0]._replace(caption=caption)
    if gt is not None:
        tiles.append(_difference_tile(samples[0], gt, '' if count == 1 else ' of sample 1'))
    if count > 1:
        tiles.append(Tile(f'std over {count} samples (grey levels)', value_map(std_over(samples))))
    return tiles


def _difference_tile(image, gt, of):
    return Tile(f'difference x8{of}', picture((gt - image).abs() * 8))


def std_over(samples: list[torch.Tensor]) -> np.ndarray:
    """Standard deviation over two or more samples (3, H, W) in [0, 1]: unbiased, mean over channels, grey levels."""
    mean = samples[0] + sum(sample - samples[0] for sample in samples) / len(samples)  # exact where all are equal
    variance = sum((sample - mean).square_() for sample in samples) / (len(samples) - 1)  # one sample at a time: memory
    return 255 * variance.sqrt().mean(0).numpy()


def _to_rgb(image):
    """(1, C, H, W) on any device -> (3, H, W) on the CPU."""
    return image.detach()[0].float().cpu().expand(3, -1, -1)
