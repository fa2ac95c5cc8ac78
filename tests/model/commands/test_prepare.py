"""`hcflow prepare` from its command line to training on what it made."""
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import DATA, ROOT, SMALL_NET, demo_options

from hcflow_model.commands import main

TRAINING = {
    **SMALL_NET, 'network_g.start': 'paper', 'num_gpu': 0,
    'train.total_iter': 3, 'train.warmup_iter': -1, 'logger.print_freq': 1, 'logger.save_checkpoint_freq': 3,
    'logger.use_tb_logger': False, 'val.val_freq': 3, 'val.sheets': 0, 'val.temperatures': [0]}
RESCALING = {'model_type': 'HCFlowRescalingModel', 'network_g.task': 'rescaling', 'train.nll_opt': None,
             'train.lq_opt': {'type': 'MSELoss', 'loss_weight': 0.05, 'reduction': 'mean'}}


@pytest.fixture
def hcflow(tmp_path, monkeypatch, capsys):
    """Run `hcflow prepare ARGUMENTS` in an empty folder. Returns exit code, output and error output."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = main(['prepare', *argv])
        return (code, *capsys.readouterr())
    return run


@pytest.fixture
def train(command):
    """Run `basicsr train` on the options of the demo with another `datasets` block. Returns the log."""
    def run(block, changes):
        opt = demo_options({**TRAINING, 'name': 'own', **changes})
        opt['datasets'] = block['datasets']
        opt['datasets']['train'].update(num_worker_per_gpu=0, batch_size_per_gpu=2)
        Path('opt.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
        code, _, errors = command('train', '-opt', 'opt.yml')
        assert code == 0, errors
        log, = Path('experiments', 'own').glob('*.log')
        return log.read_text()
    return run


def write_photos(folder, count=50, height=97, width=130):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        small = rng.integers(0, 256, (13, 17, 3), np.uint8)
        cv2.imwrite(str(folder / f'IMG {index:04d}.png'), cv2.resize(small, (width, height), interpolation=3))


def test_prepare_then_train(hcflow, train, tmp_path):
    write_photos(tmp_path / 'photos')
    code, output, errors = hcflow('-i', 'photos', '-o', 'datasets/own', '--crop', '64', '--step', '32', '--lmdb',
                                  '--val', '2', '--workers', '2')
    assert code == 0
    for line in ('datasets/own/train_HR_sub: 288 images', 'datasets/own/train_LR_bicubic_X4_sub: 288 images',
                 'datasets/own/val_HR: 2 images', '50 images done, 0 were done before, 0 left out',
                 'gt_size is 64, not 160'):
        assert line in errors
    block = yaml.safe_load(output)
    assert block['datasets']['train']['gt_size'] == 64
    assert block['datasets']['train']['dataroot_gt'] == 'datasets/own/train_HR_sub.lmdb'
    log = train(block, {})
    assert 'Number of train images: 288' in log and 'Number of val images/folders in own_val: 2' in log
    assert 'iter:       3' in log and 'Validation' in log
    assert torch.load('experiments/own/models/net_g_3.pth', weights_only=True)['params']


def test_prepare_a_pickled_list_then_train_rescaling(hcflow, train, tmp_path):
    images = [np.random.default_rng(seed).integers(0, 256, (32, 40, 3), np.uint8) for seed in range(4)]
    (tmp_path / 'DF-tr.pklv4').write_bytes(pickle.dumps(images, 4))
    code, output, _ = hcflow('-i', 'DF-tr.pklv4', '-o', 'datasets/DF', '--hr_only', '--val', '1')
    assert code == 0
    log = train(yaml.safe_load(output), RESCALING)
    assert 'Number of train images: 3' in log and 'iter:       3' in log and 'l_g_lq' in log


def test_several_sizes_and_least_detail(hcflow, tmp_path):
    write_photos(tmp_path / 'photos', 3)
    cv2.imwrite(str(tmp_path / 'photos' / 'flat.png'), np.full((64, 128, 3), 99, np.uint8))
    arguments = ['-i', 'photos', '-o', 'datasets/own', '--crop', '32', '--step', '32', '--workers', '1', '--lmdb']
    new = ['--resize', '1', '.5', '--min_detail', '2', '1', '--val_names', 'IMG 0001', '--val_resize', '.25']
    for done in (4, 0):
        code, output, errors = hcflow(*arguments, *new)
        assert code == 0 and f'{done} images done, {4 - done} were done before, 0 left out' in errors
        assert 'train_HR_sub: 32 images' in errors and 'val_HR: 1 images' in errors
        assert '\n10 sub-images with less detail than --min_detail were not written\n' in errors
    assert yaml.safe_load(output)['datasets']['val']['dataroot_gt'] == 'datasets/own/val_HR'
    assert cv2.imread('datasets/own/val_HR/IMG_0001.png').shape == (24, 32, 3)
    code, _, errors = hcflow(*arguments)
    assert code == 1 and 'made with --val 1, now it is 0' in errors


def test_left_out_images_are_listed(hcflow, tmp_path):
    write_photos(tmp_path / 'photos', 3)
    (tmp_path / 'photos' / 'broken.jpg').write_bytes(b'x')
    for _ in range(2):  # a second run still has nothing whole to show for them
        code, output, errors = hcflow('-i', 'photos', '-o', 'out', '--workers', '1')
        assert code == 1 and '1 left out:\n  photos/broken.jpg is broken, or no image\n' in errors
        assert yaml.safe_load(output)['datasets']['train']['gt_size'] == 96
    assert '0 images done, 3 were done before' in errors
    assert (tmp_path / 'out' / 'left_out.txt').read_text() == 'photos/broken.jpg is broken, or no image\n'
    for index in range(30):
        (tmp_path / 'photos' / f'broken{index}.jpg').write_bytes(b'x')
    _, _, errors = hcflow('-i', 'photos', '-o', 'out', '--workers', '1')
    assert '31 left out' in errors and errors.count('is broken') == 20 and 'all in out/left_out.txt' in errors


@pytest.mark.parametrize(('argv', 'message'), [
    (['-i', 'photos', '-o', 'photos'], 'within each other'),
    (['-i', 'photos', '-o', 'photos/out'], 'within each other'),
    (['-i', 'photos/.', '-o', '.'], 'within each other'), (['-i', 'nothing', '-o', 'out'], 'does not exist'),
    (['-i', 'empty', '-o', 'out'], 'holds no images'), (['-i', 'photos', '-o', 'out', '--scale', '3'], '--scale is 3'),
    (['-i', 'photos', '-o', 'out', '--crop', '30'], '--crop is 30'),
    (['-i', 'photos', '-o', 'out', '--workers', '0'], '--workers is 0'),
    (['-i', 'photos', '-o', 'out', '--min_detail', '5'], 'give --crop'),
    (['-i', 'photos', '-o', 'out', '--val_names', 'cat'], 'no image is called cat; there are IMG_0000.'),
    (['-i', 'photos', '-o', 'out', '--val', '2'], '--val is 2'), (['-i', 'photos', '-o', 'file'], 'did not make'),
    (['-i', 'photos', '-o', 'file/out'], 'Cannot write file/out: Not a directory')])
def test_refusals_are_one_line(argv, message, hcflow, tmp_path):
    write_photos(tmp_path / 'photos', 1)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('x')
    before = sorted(tmp_path.rglob('*'))
    code, output, errors = hcflow(*argv)
    assert code == 1 and output == '' and errors.count('\n') == 1
    assert errors.startswith('hcflow: error: ') and message in errors
    assert sorted(tmp_path.rglob('*')) == before


def test_commands_and_block_of_the_documentation(hcflow, tmp_path):
    (tmp_path / 'tests').symlink_to(DATA.parent)
    text = (ROOT / 'docs' / 'data.md').read_text().replace('\\\n', '')
    commands = re.findall(r'^hcflow prepare (-i tests/.*)$', text, re.MULTILINE)
    outputs = [hcflow(*command.split()) for command in commands]
    assert [code for code, _, _ in outputs] == [0, 0, 0, 0] and (tmp_path / 'my_x4.yml').is_file()
    block, = re.findall(r'```yaml\n(.*?)```', text, re.DOTALL)
    assert outputs[0][1] == block
    written, dropped = re.search(r'writes (\d+) sub-images and leaves out (\d+)', text).groups()
    assert f'train_HR_sub: {written} images' in outputs[2][2] and f'\n{dropped} sub-images with less' in outputs[2][2]
    assert yaml.safe_load(outputs[3][1])['datasets']['train']['type'] == 'HROnlyDataset'
