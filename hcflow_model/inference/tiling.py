"""Large images in tiles: each is run with a margin around it and cropped to its own exact part.

A pixel that lies further from the margin's end than the network's receptive field is the same as in the whole image.
The receptive field is large (hundreds of LR pixels at full size), but what far pixels contribute is not, so a much
smaller margin is enough to the eye. Cropping, not blending: it is as exact as the margin allows, keeps nothing but one
tile in memory, and each pixel is written once.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.features.feature_net import RegisteredFeatureNet

from .onnx_net import OnnxNet

MIN_TILE = 16
DEFAULT_TILE = 128
DEFAULT_OVERLAP = 16


class Tile(NamedTuple):
    """A part of the LR image: `rows` and `columns` are its own, `outer_*` also hold the margin. Whole LR pixels."""
    rows: range
    columns: range
    outer_rows: range
    outer_columns: range

    def crop(self, image: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """The tile's own part of (N, C, H, W), `scale` times the size of the outer window."""
        rows, columns = (slice((own.start - outer.start) * scale, (own.stop - outer.start) * scale)
                         for own, outer in ((self.rows, self.outer_rows), (self.columns, self.outer_columns)))
        return image[:, :, rows, columns]


def check_tile(name: str, tile: int | None) -> None:
    """Refuse tile sizes other than None and whole numbers from 16: smaller ones are all margin."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < MIN_TILE):
        raise InputError(f'{name} is {tile!r}; it must be a whole number of LR pixels from {MIN_TILE}.')


def split(height: int, width: int, tile: int | None, overlap: int = DEFAULT_OVERLAP, multiple: int = 1) -> list[Tile]:
    """Cover an LR image with tiles of equal size, those at the end smaller.

    Args:
        height, width: Of the LR image.
        tile: Largest side of a tile without its margin. None: one tile for all.
        overlap: Margin on every side, less where the image ends.
        multiple: Margins are widened so that tiles start and end at multiples of this. Default: 1.
    """
    rows, columns = (_split_side(length, tile or length, overlap, multiple) for length in (height, width))
    return [Tile(own_rows, own_columns, outer_rows, outer_columns)
            for own_rows, outer_rows in rows for own_columns, outer_columns in columns]


def _split_side(length, tile, overlap, multiple):
    size = -(-length // -(-length // tile))
    sides = []
    for start in range(0, length, size):
        stop = min(length, start + size)
        outer_start = max(0, start - overlap) // multiple * multiple
        outer_stop = min(length, -(-(stop + overlap) // multiple) * multiple)
        sides.append((range(start, stop), range(outer_start, outer_stop)))
    return sides


@torch.no_grad()
def downscale_tiles(net: HCFlowNet, read: Callable[[range, range], torch.Tensor],
                    tiles: Sequence[Tile]) -> Iterator[tuple[Tile, torch.Tensor]]:
    """Downscale an HR image by a rescaling network tile by tile.

    Args:
        net: The network.
        read: Returns the HR pixels of a window (rows, columns) of the LR image, (1, 3, scale * h, scale * w).
        tiles: What :func:`split` returned.

    Yields:
        A tile and its own part of the LR image, not clamped: (1, 3, h, w).
    """
    for tile in tiles:
        yield tile, tile.crop(net.downscale(read(tile.outer_rows, tile.outer_columns)))


def size_multiple(net: HCFlowNet) -> int:
    """What tiles start at multiples of: registered feature nets may divide an image into windows from its corner."""
    if isinstance(net, OnnxNet):
        return net.facts.size_multiple
    multiples = [module.size_multiple for module in net.modules() if isinstance(module, RegisteredFeatureNet)]
    return max(multiples, default=1)
