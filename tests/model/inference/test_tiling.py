"""Tiles: they cover the image, and sizes that are no use are refused."""
import numpy as np
import pytest

from hcflow_arch import InputError
from hcflow_model.inference.tiling import check_tile, split


@pytest.mark.parametrize('height,width,tile,overlap,multiple', [
    (50, 33, 16, 3, 1), (16, 100, 32, 0, 1), (7, 5, None, 9, 1), (65, 90, 16, 5, 4), (128, 128, 64, 16, 8)])
def test_tiles_cover_every_pixel_once(height, width, tile, overlap, multiple):
    seen = np.zeros((height, width), int)
    for own_rows, own_columns, rows, columns in split(height, width, tile, overlap, multiple):
        seen[own_rows.start:own_rows.stop, own_columns.start:own_columns.stop] += 1
        for own, outer, length in ((own_rows, rows, height), (own_columns, columns, width)):
            assert len(own) <= (tile or length)
            assert outer.start == 0 or outer.start <= own.start - overlap and outer.start % multiple == 0
            assert outer.stop == length or outer.stop >= own.stop + overlap and outer.stop % multiple == 0
            assert outer.start >= 0 and outer.stop <= length and len(outer) <= len(own) + 2 * (overlap + multiple)
    assert (seen == 1).all()


@pytest.mark.parametrize('tile', [0, 15, -3, 32., True, '64'])
def test_tiles_too_small(tile):
    with pytest.raises(InputError, match=r'--tile is .*from 16'):
        check_tile('--tile', tile)
