"""val.tile: validation in tiles gives what whole images give."""
import cv2
import numpy as np
import pytest
import torch
from helpers import NLL_OPT, RESCALING_OPTS, SMALL, cpu_options, loader, perturb, random_image

from hcflow_model import HCFlowModel, HCFlowRescalingModel
from hcflow_model.validation import loop as validation

pytestmark = pytest.mark.usefixtures('far_pixels_pass')
PSNR = {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': False}}


def validated(folder, task, tile, monkeypatch, num_images=1):
    """(model, {name: saved picture}) of images of 20x24 LR pixels."""
    folder.mkdir()
    warnings = []
    opt = cpu_options(folder, {**SMALL, 'task': task}, NLL_OPT if task == 'sr' else RESCALING_OPTS)
    opt.update(is_train=False, datasets={'val': {'name': 'set'}})
    opt['val'] = {'save_img': True, 'sheets': 0, 'seed': 0, 'num_samples': 2, 'temperatures': [0, 0.8], 'metrics': PSNR,
                  'tile': tile}
    opt['path']['results_root'] = str(folder / 'results')
    torch.manual_seed(1)
    model = {'sr': HCFlowModel, 'rescaling': HCFlowRescalingModel}[task](opt)
    perturb(model.net_g, 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(validation.get_root_logger(), 'warning', warnings.append)
        images = [{'gt': random_image(3, 80, 96), 'lq': random_image(3, 20, 24, seed=1)}] * num_images
        model.validation(loader(images), 'test', None, True)
    pictures = {path.name: cv2.imread(str(path)) for path in folder.rglob('*.png')}
    return model, pictures, warnings


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_tiles_are_the_whole_image(task, tmp_path, monkeypatch):
    tiled, pictures, warnings = validated(tmp_path / 'tiled', task, 16, monkeypatch)
    whole, wanted, no_warnings = validated(tmp_path / 'whole', task, 100, monkeypatch)
    assert pictures.keys() == wanted.keys() and len(pictures) >= 3
    for name in pictures:
        assert np.abs(pictures[name].astype(int) - wanted[name]).max() <= 1
    got, expected = (model.report.averages('set') for model in (tiled, whole))
    assert got['t0.8']['psnr'] == pytest.approx(expected['t0.8']['psnr'], abs=0.01)
    if task == 'sr':  # the likelihood is one number of the whole image
        assert 'nll' in expected[''] and 'nll' not in got.get('', {})
        assert [line for line in warnings if 'nll' in line and 'val.tile = 16' in line]
    assert not [line for line in no_warnings if 'val.tile' in line]


def test_graphs_are_kept_for_all_images(tmp_path, monkeypatch):
    made = []

    class Counted(validation.Sampler):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)
    monkeypatch.setattr(validation, 'Sampler', Counted)
    validated(tmp_path / 'tiled', 'sr', 16, monkeypatch, num_images=2)
    assert len(made) == 1
