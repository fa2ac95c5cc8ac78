"""Large images in tiles: each is run with a margin around it and cropped to its own exact part.

A pixel that lies further from the margin's end than the network's receptive field is the same as in the whole image.
The receptive field is large (hundreds of LR pixels at full size), but what far pixels contribute is not, so a much
smaller margin is enough to the eye. Cropping, not blending: it is as exact as the margin allows, keeps nothing but one
tile in memory, and each pixel is written once.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_arch.features.feature_net import RegisteredFeatureNet
from hcflow_arch.flow.subnets import DenseBlock, ZeroConv2d

from .cuda_graph import RepeatedDecode
from .noise import NoiseField

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


@torch.inference_mode()
def decode_tiles(decode: RepeatedDecode, read: Callable[[range, range], torch.Tensor], tiles: Sequence[Tile],
                 fields: Sequence[NoiseField], temperature: float) -> Iterator[tuple[Tile, int, torch.Tensor]]:
    """Decode the samples of an LR image tile by tile.

    Args:
        decode: Of the network; kept for all its images, it sees which sizes come again.
        read: Hands on a window (rows, columns) of the LR image as (1, 3, h, w) in [0, 1] on the network's device.
        tiles: What :func:`split` returned.
        fields: Noise of each sample.
        temperature: Standard deviation of the latents.

    Yields:
        A tile, the number of the sample, and its own part of that sample, not clamped: (1, 3, scale * h, scale * w).
    """
    net = decode.net
    for tile in tiles:
        lq = read(tile.outer_rows, tile.outer_columns)
        features = net.coarsest_features(lq)
        for index, field in enumerate(fields):
            latents = field.latents(net, tile.outer_rows, tile.outer_columns, temperature, lq.device)
            yield tile, index, tile.crop(decode(lq, latents, features), net.scale)


@torch.inference_mode()
def downscale_tiles(net: HCFlowNet, read: Callable[[range, range], torch.Tensor],
                    tiles: Sequence[Tile]) -> Iterator[tuple[Tile, torch.Tensor]]:
    """Downscale an HR image by a rescaling network tile by tile.

    Args:
        net: The network.
        read: Hands on the HR pixels of a window (rows, columns) of the LR image, (1, 3, scale * h, scale * w).
        tiles: What :func:`split` returned.

    Yields:
        A tile and its own part of the LR image, not clamped: (1, 3, h, w).
    """
    for tile in tiles:
        yield tile, tile.crop(net.downscale(read(tile.outer_rows, tile.outer_columns)))


class TiledNet:
    """A network that decodes and downscales in tiles, for what calls `decode` and `downscale` (validation, `draw`).

    Args:
        net (HCFlowNet): The network.
        tile (int): Largest side of tiles in LR pixels, from 16.
        overlap (int): Margin of tiles in LR pixels. Default: 16.
    """

    def __init__(self, net: HCFlowNet, tile: int, overlap: int = DEFAULT_OVERLAP):
        self.net, self.tile, self.overlap = net, tile, overlap
        self._decode = RepeatedDecode(net)

    def coarsest_features(self, lq: torch.Tensor) -> None:
        """None: each tile has its own."""

    def decode(self, lq: torch.Tensor, temperature: float = 1.0, generator: torch.Generator | None = None,
               features: None = None, clamp: bool = True) -> torch.Tensor:
        """As :meth:`HCFlowNet.decode`; the generator gives the seeds of noise fields, one for each image."""
        tiles = self._split(*lq.shape[2:])
        out = lq.new_empty(*lq.shape[:2], *(length * self.net.scale for length in lq.shape[2:]))
        for image, result in zip(lq.split(1), out.split(1), strict=True):
            field = NoiseField(torch.randint(2**63 - 1, (), generator=generator).item())
            for tile, _, sr in decode_tiles(self._decode, _reader(image, 1), tiles, [field], temperature):
                _write(result, tile, sr.clamp(0, 1) if clamp else sr, self.net.scale)
        return out

    def downscale(self, gt: torch.Tensor) -> torch.Tensor:
        """As :meth:`HCFlowNet.downscale`."""
        gt = fit_to_scale(gt, self.net.scale)
        out = gt.new_empty(*gt.shape[:2], *(length // self.net.scale for length in gt.shape[2:]))
        for image, result in zip(gt.split(1), out.split(1), strict=True):
            for tile, lq in downscale_tiles(self.net, _reader(image, self.net.scale), self._split(*out.shape[2:])):
                _write(result, tile, lq, 1)
        return out

    def _split(self, height, width):
        return split(height, width, self.tile, self.overlap, size_multiple(self.net))


def _reader(image, scale):
    return lambda rows, columns: image[:, :, rows.start * scale:rows.stop * scale,
                                       columns.start * scale:columns.stop * scale]


def _write(out, tile, part, scale):
    out[:, :, tile.rows.start * scale:tile.rows.stop * scale,
        tile.columns.start * scale:tile.columns.stop * scale] = part


def size_multiple(net: HCFlowNet) -> int:
    """What tiles start at multiples of: registered feature nets may divide an image into windows from its corner."""
    multiples = [module.size_multiple for module in net.modules() if isinstance(module, RegisteredFeatureNet)]
    return max(multiples, default=1)


def receptive_field(net: HCFlowNet) -> int | None:
    """LR pixels to every side that a decoded pixel can depend on; an overlap from this on makes tiling exact.

    None with a registered feature net, whose reach is unknown.
    """
    total = 0.
    for index, level in enumerate(net.levels):
        if isinstance(level.feature_net, RegisteredFeatureNet):
            return None
        # a squeeze joins pixels into blocks, which rounds the reach up once
        total += (_reach(level) + 1) / (net.scale // 2**(index + 1))
    return -int(-total // 1)


def _reach(level: nn.Module) -> int:
    """3x3 convolutions one after another in a level: each adds a pixel."""
    dense = [module for module in level.modules() if isinstance(module, DenseBlock)]
    inside = {id(conv) for block in dense for conv in block.modules()}
    convs = [module for module in level.modules() if id(module) not in inside
             and (isinstance(module, ZeroConv2d) or isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))]
    return 5 * len(dense) + len(convs)
