"""docs/make_picture.py makes the picture of the README from any network."""
import importlib.util

import cv2
import numpy as np
import pytest
import torch
from helpers import DATA, ROOT, perturb, small_net

from hcflow_arch import InputError
from hcflow_model.images import drawing as sheet_drawing

DOCS = ROOT / 'docs'
SPEC = importlib.util.spec_from_file_location('make_picture', DOCS / 'make_picture.py')
make_picture = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_picture)


@pytest.mark.slow
def test_picture(tmp_path, rows_of_tiles):
    net = perturb(small_net(), 0.03)
    torch.save({'params': net.state_dict(), 'network_g': {'type': 'HCFlowNet', **net.arguments}}, tmp_path / 'net.pth')
    make_picture.make_picture(tmp_path / 'net.pth', tmp_path / 'sheet.png')
    assert [[tile.title for tile in row] for row in rows_of_tiles] == [
        ['LR 40x32', 'bicubic', 'temperature 0', 'ground truth'],
        [*(f'temperature 0.8, sample {i}' for i in (1, 2, 3)), 'std over 3 samples (grey levels)']]
    gt = cv2.imread(str(DATA / 'val_gt' / 'cat.png'))[make_picture.CROP]
    np.testing.assert_array_equal(rows_of_tiles[0][3].image, gt.repeat(2, 0).repeat(2, 1))
    sheet, committed = (cv2.imread(str(path)) for path in (tmp_path / 'sheet.png', DOCS / 'sheet.png'))
    assert len(sheet) == len(committed)
    x, y = sheet_drawing.MARGIN, 34  # LR and bicubic do not depend on the network
    np.testing.assert_array_equal(sheet[y:y + 256, x:600], committed[y:y + 256, x:600])


def test_without_weights(tmp_path):
    with pytest.raises(InputError, match='no_such'):
        make_picture.make_picture(tmp_path / 'no_such.pth', tmp_path / 'sheet.png')
    assert not (tmp_path / 'sheet.png').exists()


def test_the_committed_picture_is_small():
    assert (DOCS / 'sheet.png').stat().st_size < 600_000
