"""Sheets: one picture per image that shows input, samples, ground truth and where they differ."""
from collections.abc import Sequence

import numpy as np
import torch

from hcflow_model.images.drawing import Tile, draw_tiles, picture, value_map
from hcflow_model.utils.tables import BICUBIC

MAX_SAMPLES = 4
SINGLE = {BICUBIC: 'bicubic', 't0': 'temperature 0'}  # rows of one image, which stand in the first row of the sheet
TOP_QUANTILE = 0.995  # of all maps of a sheet is the last colour of their bars: single pixels would darken all others


def draw_sheet(lq: torch.Tensor, rows: dict[str, Sequence[torch.Tensor]], scale: int, gt: torch.Tensor | None = None,
               captions: dict[str, str] | None = None, errors: bool = False,
               more: Sequence[list[Tile]] = ()) -> np.ndarray:
    """The sheet of an LR image: first row LR, bicubic, temperature 0, ground truth, then a row for each temperature.

    Such a row has at most four samples, the standard deviation over all and, with `errors`, their error. All maps of a
    sheet have the same colours for the same grey levels.

    Args:
        lq: (1, 3, h, w), RGB in [0, 1], as all images.
        rows: {'bicubic' or temperature as 't0.9': samples (1, 3, H, W)}. Sizes may differ by less than `scale` pixels:
            all are cropped to the smallest.
        scale: Ratio of the sizes.
        gt: (1, 3, H, W). Default: None.
        captions: {label of a row, '' for the LR image, 'gt' for the ground truth: its figures}.
        errors: Draw error maps where there is a ground truth. Default: False.
        more: Rows of tiles below all others.

    Returns:
        (height, width, 3), BGR, uint8.
    """
    captions, lq = captions or {}, _to_rgb(lq)
    rows = {label: [_to_rgb(sample) for sample in samples] for label, samples in rows.items() if samples}
    gt = None if gt is None else _to_rgb(gt)
    upsampled = lq.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    images = [upsampled, *([] if gt is None else [gt]), *(sample for samples in rows.values() for sample in samples)]
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    upsampled, gt = upsampled[:, :height, :width], None if gt is None else gt[:, :height, :width]
    rows = {label: [sample[:, :height, :width] for sample in samples] for label, samples in rows.items()}

    stds = {label: std_over(samples) for label, samples in rows.items() if len(samples) > 1}
    error_maps = {label: rms_error(samples, gt) for label, samples in rows.items()} if errors and gt is not None else {}
    maps = [*stds.values(), *error_maps.values()]
    values = np.concatenate([m[np.isfinite(m)].ravel() for m in maps]) if maps else np.empty(0)
    top = (float(np.quantile(values, TOP_QUANTILE)) or float(values.max())) if values.size else 0.

    def map_tile(title, values):
        return Tile(f'{title} (grey levels)', value_map(values, top), f'mean {values.mean():.2f}')

    first = [Tile(f'LR {lq.shape[2]}x{lq.shape[1]}', picture(upsampled), captions.get('', ''))]
    first += [Tile(title, picture(rows[label][0]), captions.get(label, '')) for label, title in SINGLE.items()
              if label in rows]
    first += [] if gt is None else [Tile('ground truth', picture(gt), captions.get('gt', ''))]
    first += [map_tile(f'error of {title}', error_maps[label]) for label, title in SINGLE.items()
              if label in error_maps]
    tiles = [first]
    for label, samples in rows.items():
        if label in SINGLE:
            continue
        name = label if label.startswith(BICUBIC) else f'temperature {label.removeprefix("t")}'
        row = [Tile(f'{name}, sample {i}', picture(sample)) for i, sample in enumerate(samples[:MAX_SAMPLES], 1)]
        over = f' over {len(samples)} samples' if len(samples) > 1 else ''
        caption = captions.get(label, '')
        row[0] = row[0]._replace(caption=f'mean{over}:\n{caption}' if over and caption else caption)
        row += [map_tile(f'std{over}', stds[label])] if label in stds else []
        row += [map_tile(f'rms error{over}', error_maps[label])] if label in error_maps else []
        tiles.append(row)
    return draw_tiles([*tiles, *more])


def std_over(samples: Sequence[torch.Tensor]) -> np.ndarray:
    """Standard deviation over two or more samples (3, H, W) in [0, 1]: unbiased, mean over channels, grey levels."""
    mean = samples[0] + sum(sample - samples[0] for sample in samples) / len(samples)  # exact where all are equal
    variance = sum((sample - mean).square_() for sample in samples) / (len(samples) - 1)  # one sample at a time: memory
    return 255 * variance.sqrt().mean(0).numpy()


def rms_error(samples: Sequence[torch.Tensor], gt: torch.Tensor) -> np.ndarray:
    """Root of the mean square error over samples (3, H, W) and channels, (H, W), in grey levels."""
    squares = sum((sample - gt).square().mean(dim=0) for sample in samples) / len(samples)
    return 255 * squares.sqrt().numpy()


def _to_rgb(image):
    """(1, C, H, W) on any device -> (3, H, W) on the CPU."""
    return image.detach()[0].float().cpu().expand(3, -1, -1)
