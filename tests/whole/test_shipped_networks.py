"""The small networks that come with the package: found, used where no other is named, and better than bicubic."""
import os
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.metrics import calculate_psnr
from basicsr.utils.matlab_functions import imresize
from helpers import DATA, ROOT, demo_options, perturb

from hcflow_arch import HCFlowNet
from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.checkpoints.named import BUNDLED, DEFAULTS, NAMED, weights_path
from hcflow_model.checkpoints.pretrained import load_pretrained, save_pretrained
from hcflow_model.commands import main
from hcflow_model.options.read import read_option_file

GT, LQ = DATA / 'val_gt', DATA / 'val_lq_x4'
SHIPPED = [name for name, network in NAMED.items() if network.bundled]
# PSNR-Y above bicubic that the mean of the three bundled pictures must reach: what was measured, less 0.06 and 0.15 dB
GAIN = {'x4': 0.5, 'rescaling-x4': 3.1}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def psnr_y(folder):
    """Mean over the pictures of a folder."""
    return np.mean([calculate_psnr(cv2.imread(str(path)), cv2.imread(str(GT / path.name)), 4, test_y_channel=True)
                    for path in Path(folder).glob('*.png')])


@pytest.fixture(scope='module')
def bicubic(tmp_path_factory):
    """PSNR-Y of the bundled LR pictures, upsampled as BasicSR does."""
    folder = tmp_path_factory.mktemp('bicubic')
    for path in LQ.glob('*.png'):
        up = imresize(cv2.imread(str(path)).astype(np.float32) / 255, 4)
        cv2.imwrite(str(folder / path.name), (up * 255).round().clip(0, 255).astype(np.uint8))
    return psnr_y(folder)


@pytest.mark.parametrize('name', SHIPPED)
def test_they_are_small_and_sound(name):
    file = weights_path(name)
    assert file.parent == BUNDLED and file.stat().st_size < 3e6
    net = load_pretrained(name)
    assert (net.task, net.scale) == (NAMED[name].arguments['task'], NAMED[name].arguments['scale'])
    assert sum(parameter.numel() for parameter in net.parameters()) <= 1.5e6 and net.is_initialized()
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert {file.name for file in BUNDLED.iterdir()} == {NAMED[name].file for name in SHIPPED}


def test_upscale_takes_the_small_network(bicubic, capsys):
    assert main(['upscale', '-i', str(LQ), '-o', 'out', '--temperature', '0']) == 0
    assert capsys.readouterr().err.startswith('network: x4, the small one of this package')
    assert psnr_y('out') > bicubic + GAIN['x4']
    image = cv2.imread(str(LQ / 'cat.png'))
    assert np.array_equal(cv2.imread('out/cat.png'), HCFlowUpscaler()(image, 0))
    assert np.array_equal(HCFlowUpscaler('x4')(image), HCFlowUpscaler(load_pretrained('x4'))(image))


def test_downscale_and_restore_take_the_small_network(bicubic, capsys):
    assert main(['downscale', '-i', str(GT), '-o', 'small']) == 0
    assert capsys.readouterr().err.startswith('network: rescaling-x4, the small one of this package')
    assert main(['restore', '-i', 'small', '-o', 'out', '--temperature', '0']) == 0
    assert psnr_y('out') > bicubic + GAIN['rescaling-x4']
    image, rescaler = cv2.imread(str(GT / 'cat.png')), HCFlowRescaler()
    assert np.array_equal(cv2.imread('out/cat.png'), rescaler.restore(rescaler.downscale(image), image.shape[:2], 0))


def test_restore_refuses_what_another_network_made_small(capsys):
    save_pretrained(perturb(load_pretrained('rescaling-x4'), 0.01), 'other.pth')
    assert main(['downscale', '-i', str(GT / 'cat.png'), '-o', 'small', '-w', 'other.pth']) == 0
    assert main(['downscale', '-i', str(GT / 'tower.png'), '-o', 'small']) == 0
    capsys.readouterr()
    for weights, refused in ((), 'cat'), (('-w', 'other.pth'), 'tower'), (('-w', 'rescaling-x4'), 'cat'):
        assert main(['restore', '-i', 'small', '-o', 'out', '--overwrite', *weights]) == 1
        out, err = capsys.readouterr()
        line = err.splitlines()[-1]
        assert line.startswith(str(Path('small', f'{refused}.png'))) and '--weights' in line and '1 done' in out


def test_the_name_means_the_network_whatever_lies_here(capsys):
    """A folder of results may well be called x4."""
    assert main(['upscale', '-i', str(LQ / 'cat.png'), '-o', 'x4', '-w', 'x4']) == 0
    assert main(['upscale', '-i', str(LQ / 'tower.png'), '-o', 'x4', '-w', 'x4']) == 0
    capsys.readouterr()
    assert main(['upscale', '-i', str(LQ / 'cat.png'), '-o', 'out', '-w', os.path.join('.', 'x4')]) == 1
    assert 'Folder x4 has no checkpoint' in capsys.readouterr().err


def test_explore_takes_the_small_network(capsys):
    cv2.imwrite('lr.png', cv2.imread(str(LQ / 'cat.png'))[:16, :16])
    assert main(['explore', '-i', 'lr.png', '-o', 'out', '-n', '1', '--temperatures', '0']) == 0
    assert 'network: x4' in capsys.readouterr().err and Path('out/lr_sheet.png').is_file()


@pytest.mark.parametrize('task', DEFAULTS)
def test_recipes_have_their_networks(task):
    """The option files of options/ that train, test or fine-tune a shipped network name its arguments."""
    arguments = load_pretrained(DEFAULTS[task]).arguments
    part = '' if task == 'sr' else 'rescaling_'
    for name in (f'train_small_{part}x4', f'test_small_{part}x4', *(['train_finetune_x4'] if task == 'sr' else [])):
        network = yaml.safe_load((ROOT / 'options' / f'{name}.yml').read_text())['network_g']
        assert network.pop('type') == 'HCFlowNet'
        assert HCFlowNet(**{**network, 'start': arguments['start']}).arguments == arguments


@pytest.mark.slow
def test_fine_tuning_begins_where_the_network_ended(command):
    """With the loss that the network has on this data, not that of a new one; and it takes the name."""
    recipe = yaml.safe_load((ROOT / 'options' / 'train_finetune_x4.yml').read_text())
    opt = demo_options({'network_g': recipe['network_g'], 'train': {**recipe['train'], 'total_iter': 1},
                        'path.pretrain_network_g': recipe['path']['pretrain_network_g']})
    Path('opt.yml').write_text(yaml.safe_dump(opt))
    code, out, errors = command('train', '-opt', 'opt.yml')
    assert code == 0, errors
    trained = load_pretrained(Path('experiments', opt['name']))
    for name, value in load_pretrained('x4').state_dict().items():
        assert torch.allclose(trained.state_dict()[name].float(), value.float(), atol=2e-4), name


def test_commands_in_the_recipe_parse():
    text = (ROOT / 'options' / 'train_small_x4.yml').read_text().partition('\n\n')[0].replace('\\\n#', '')
    commands = [shlex.split(line.removeprefix('#')) for line in text.splitlines() if '-opt' in line]
    start, pixel, both = (read_option_file(str(ROOT / words[3]), words[5:]) for words in commands)
    assert start['train']['total_iter'] == 200 and start['train']['scheduler']['periods'] == [1000000]
    assert pixel['train']['nll_opt'] is None
    for opt, before in ((pixel, start), (both, pixel)):
        assert opt['path']['pretrain_network_g'] == f'experiments/{before["name"]}/models/net_g_latest.pth'
    assert both['train']['scheduler']['periods'] == [both['train']['total_iter']]
