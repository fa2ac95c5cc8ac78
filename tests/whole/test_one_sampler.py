"""A seed, a temperature and a number name one picture: in validation, by the commands, in Python and in tiles."""
import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from helpers import DATA, NLL_OPT, RESCALING_OPTS, SMALL, cpu_options, perturb, small_net

from hcflow_model import HCFlowModel, HCFlowRescaler, HCFlowRescalingModel, HCFlowUpscaler
from hcflow_model.commands import main
from hcflow_model.images.files import read_image

pytestmark = pytest.mark.usefixtures('far_pixels_pass')
SEED, TEMPERATURE = 3, 0.8
NAMES = ('cat', 'rocket')  # the noise does not depend on an image's place in its folder


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """{task: checkpoint}."""
    paths = {task: tmp_path_factory.mktemp('weights') / f'{task}.pth' for task in ('sr', 'rescaling')}
    for task, path in paths.items():
        net = perturb(small_net(task=task), 0.02)
        torch.save({'params': net.state_dict(), 'network_g': {'type': 'HCFlowNet', **net.arguments}}, path)
    return paths


def validated(folder, task, weights, tile, is_train=False):
    """{name and number: picture that validation of one of our models saves}."""
    folder.mkdir()
    opt = cpu_options(folder, {**SMALL, 'task': task}, NLL_OPT if task == 'sr' else RESCALING_OPTS)
    opt.update(is_train=is_train)
    opt['path'].update(pretrain_network_g=str(weights), strict_load_g=True, results_root=str(folder / 'results'))
    opt['val'] = {'save_img': True, 'sheets': 0, 'seed': SEED, 'num_samples': 2, 'temperatures': [0, TEMPERATURE],
                  'tile': tile}
    opt['datasets'] = {'val': {'name': 'set', 'type': 'PairedImageDataset', 'dataroot_gt': str(DATA / 'val_gt'),
                               'dataroot_lq': str(DATA / 'val_lq_x4'), 'io_backend': {'type': 'disk'}, 'scale': 4,
                               'phase': 'val'}}
    dataset = build_dataset(opt['datasets']['val'])
    loader = build_dataloader(dataset, opt['datasets']['val'], num_gpu=0, dist=False, sampler=None, seed=None)
    model = {'sr': HCFlowModel, 'rescaling': HCFlowRescalingModel}[task](opt)
    model.validation(loader, 1 if is_train else 'test', None, True)
    suffix = '_1' if is_train else ''
    files = {path.stem.removesuffix(suffix): path for path in folder.rglob('*.png')}
    return {name: read_image(path) for name, path in files.items() if name.startswith(NAMES)}


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], wanted[name], name)


def nearly(got, wanted):
    """As near as tiles are: most pixels equal, none far off."""
    assert got.keys() == wanted.keys()
    for name in got:
        difference = np.abs(got[name].astype(int) - wanted[name])
        assert difference.max() <= 3 and difference.mean() < 0.05, name


def upscaled(folder, weights, *arguments):
    """What the command makes, named as validation names it."""
    for temperature, count in ((0, 1), (TEMPERATURE, 2)):
        assert main([*map(str, ('upscale', '-i', DATA / 'val_lq_x4', '-o', folder / f't{temperature}', '-w', weights,
                                '--temperature', temperature, '-n', count, '--seed', SEED, '--device', 'cpu',
                                '--suffix', f't{temperature}', *arguments))]) == 0
    pictures = {f'{name}_t{TEMPERATURE}_{n}': read_image(folder / f't{TEMPERATURE}' / f'{name}_t{TEMPERATURE}_{n}.png')
                for name in NAMES for n in (1, 2)}
    return pictures | {f'{name}_t0_1': read_image(folder / 't0' / f'{name}_t0.png') for name in NAMES}


@pytest.mark.slow
def test_super_resolution(weights, tmp_path):
    path = weights['sr']
    wanted = validated(tmp_path / 'whole', 'sr', path, None)
    same(validated(tmp_path / 'one tile', 'sr', path, 200), wanted)
    same(validated(tmp_path / 'training', 'sr', path, None, is_train=True), wanted)
    same(upscaled(tmp_path / 'command', path), wanted)
    upscaler = HCFlowUpscaler(path, device='cpu')
    pictures = {}
    for name in NAMES:
        lr = cv2.imread(str(DATA / 'val_lq_x4' / f'{name}.png'))
        pictures[f'{name}_t0_1'] = upscaler(lr, 0, SEED)
        for number, sample in enumerate(upscaler.samples(lr, 2, TEMPERATURE, SEED), 1):
            pictures[f'{name}_t{TEMPERATURE}_{number}'] = sample
    same(pictures, wanted)
    for name in NAMES:  # one after another: what is explored is one image
        assert main([*map(str, ('explore', '-i', DATA / 'val_lq_x4' / f'{name}.png', '-o', tmp_path / 'explored', '-w',
                                path, '--temperatures', 0, 0.3, TEMPERATURE, '-n', 2, '--seed', SEED, '--device',
                                'cpu'))]) == 0
    same({name: read_image(tmp_path / 'explored' / f'{name}.png') for name in wanted}, wanted)
    first, second = (wanted[f'cat_t{TEMPERATURE}_{number}'].astype(int) for number in (1, 2))
    assert np.abs(first - second).mean() > 1
    tiled = validated(tmp_path / 'tiles', 'sr', path, 20)
    nearly(tiled, wanted)
    same(upscaled(tmp_path / 'tiles by command', path, '-t', 20), tiled)


def test_rescaling(weights, tmp_path):
    path = weights['rescaling']
    wanted = validated(tmp_path / 'whole', 'rescaling', path, None)
    same(validated(tmp_path / 'one tile', 'rescaling', path, 200), wanted)
    rescaler = HCFlowRescaler(path, device='cpu')
    pictures = {}
    for name in NAMES:
        gt = cv2.imread(str(DATA / 'val_gt' / f'{name}.png'))
        pictures[f'{name}_lq'] = small = rescaler.downscale(gt)
        pictures[f'{name}_t0_1'] = rescaler.restore(small, gt.shape[:2], 0, SEED)
        pictures[f'{name}_t{TEMPERATURE}_1'] = rescaler.restore(small, gt.shape[:2], TEMPERATURE, SEED)
    same(pictures, {name: picture for name, picture in wanted.items() if not name.endswith('_2')})
    for command, source, target in (('downscale', DATA / 'val_gt', 'small'), ('restore', tmp_path / 'small', 'large')):
        more = ['--temperature', str(TEMPERATURE), '--seed', str(SEED)] if command == 'restore' else []
        assert main([command, *map(str, ('-i', source, '-o', tmp_path / target, '-w', path, '--device', 'cpu')),
                     *more]) == 0
    same({name: read_image(tmp_path / 'large' / f'{name}.png') for name in NAMES},
         {name: wanted[f'{name}_t{TEMPERATURE}_1'] for name in NAMES})
