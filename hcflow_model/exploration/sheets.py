"""Pictures of the solution space: samples by temperature with their maps, latents, walks and edits."""
import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch

from hcflow_model.images import drawing as sheet_drawing
from hcflow_model.images.drawing import Tile, draw_tiles, picture, put_text, text_width

from .latents import LatentStatistics

FRAMES_IN_ROW = 5
BAR_COLOUR, CURVE_COLOUR = (220, 190, 150), (40, 40, 200)  # BGR
Z_RANGE, BINS = 4., 40  # of histograms


def latent_row(latents: Sequence[torch.Tensor], statistics: Sequence[LatentStatistics]) -> list[Tile]:
    """A histogram of each level's latents (1, C, h, w), finest level first, with their statistics."""
    return [_latent_tile(z, s) for z, s in zip(latents, statistics, strict=True)]


def _latent_tile(latent, statistics):
    s = statistics
    caption = (f'mean {s.mean:.3f}  std {s.std:.3f}\nexcess kurtosis {s.excess_kurtosis:.2f}\n'
               f'beyond 3: {100 * s.beyond_3:.2f} % (of N(0,1): 0.27 %)')
    return Tile(f'latents of the ground truth, level {s.level} ({s.width}x{s.height}), and N(0,1)',
                draw_histogram(latent.float().cpu().numpy().ravel()), caption)


def draw_histogram(values: np.ndarray) -> np.ndarray:
    """Histogram of latents as density, with the curve of N(0, 1) above it: (h, w, 3), BGR, uint8.

    What lies beyond 4 is counted in the outermost bars.
    """
    width, height, axis = sheet_drawing.MIN_WIDTH, 170, 20
    density, edges = np.histogram(values.clip(-Z_RANGE, Z_RANGE), BINS, (-Z_RANGE, Z_RANGE))
    density = density / values.size / (edges[1] - edges[0])
    top = 1.05 * max(density.max(), 1 / math.sqrt(2 * math.pi))

    def x(z):
        return round((z + Z_RANGE) / (2 * Z_RANGE) * (width - 1))

    def y(d):
        return round((height - 1) * (1 - d / top))

    canvas = np.full((height + axis, width, 3), 255, np.uint8)
    for value, left, right in zip(density, edges[:-1], edges[1:], strict=True):
        cv2.rectangle(canvas, (x(left), y(value)), (x(right) - 1, height - 1), BAR_COLOUR, cv2.FILLED)
    curve = [(x(z), y(math.exp(-z * z / 2) / math.sqrt(2 * math.pi))) for z in np.linspace(-Z_RANGE, Z_RANGE, 161)]
    cv2.polylines(canvas, [np.array(curve, np.int32)], False, CURVE_COLOUR, 1, cv2.LINE_AA)
    cv2.line(canvas, (0, height - 1), (width - 1, height - 1), sheet_drawing.BLACK)
    for z in (-4, -2, 0, 2, 4):
        cv2.line(canvas, (x(z), height - 1), (x(z), height + 2), sheet_drawing.BLACK)
        half = text_width(str(z)) // 2
        put_text(canvas, str(z), min(max(x(z) - half, 0), width - 2 * half - 1), height + axis - 4)
    return canvas


def draw_strip(frames: Sequence[torch.Tensor]) -> np.ndarray:
    """The images (1, 3, H, W) of a walk, in rows of up to five, titled by how far each is on its way."""
    num_rows = -(-len(frames) // FRAMES_IN_ROW)
    in_row = -(-len(frames) // num_rows)
    tiles = []
    for i, frame in enumerate(frames):
        end = ' = sample 1' if i == 0 else ' = sample 2' if i == len(frames) - 1 else ''
        tiles.append(Tile(f'step {i} of {len(frames) - 1}{end}', picture(frame[0])))
    return draw_tiles([tiles[i:i + in_row] for i in range(0, len(tiles), in_row)])


def draw_edit(edited: torch.Tensor, contents: dict[str, torch.Tensor],
              results: dict[str, dict[str, tuple[torch.Tensor, str]]], gt: torch.Tensor | None = None) -> np.ndarray:
    """The sheet of an edit: edited HR image and LR contents, then a row of results for each LR content.

    Args:
        edited: (1, 3, H, W).
        contents: {'input' or 'own': LR image (1, 3, h, w)}.
        results: {the same: {'kept' or a temperature as 't0.9': (image (1, 3, H, W), its figures)}}.
        gt: HR image of the input. Default: None.
    """
    scale = edited.shape[2] // next(iter(contents.values())).shape[2]
    names = {'input': 'LR of the input', 'own': 'LR of the edited image'}
    first = [] if gt is None else [Tile('ground truth', picture(gt[0]))]
    first += [Tile('edited', picture(edited[0]))]
    first += [Tile(names[name], picture(lq[0].repeat_interleave(scale, 1).repeat_interleave(scale, 2)))
              for name, lq in contents.items()]

    def title(name, what):
        change = 'kept' if what == 'kept' else f'normalized to {what.removeprefix("t")}'
        return f'{names[name]}, latents {change}'

    rows = [[Tile(title(name, what), picture(image[0]), caption) for what, (image, caption) in row.items()]
            for name, row in results.items()]
    return draw_tiles([first, *rows])


def frame_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of an animation's frames: small images enlarged by a whole factor, large ones as they are."""
    factor = max(1, min(-(-sheet_drawing.MIN_WIDTH // width), sheet_drawing.MAX_HEIGHT // height))
    return height * factor, width * factor
