"""The installed `basicsr` command in processes of its own: train, resume, test, on the bundled pictures."""
import hashlib
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from helpers import DATA, L1, REMOVED, RESCALING_OPTS, SMALL_NET, demo_options, gan_opts, read_report, write_random_vgg

COMMAND = Path(sysconfig.get_path('scripts'), 'basicsr')
IMAGES = ('cat', 'rocket', 'tower')
PSNR = {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': False}}
pytestmark = pytest.mark.slow
TINY = {
    **SMALL_NET, 'network_g.start': 'paper',
    'datasets.train.gt_size': 32, 'datasets.train.batch_size_per_gpu': 2, 'datasets.train.num_worker_per_gpu': 1,
    'datasets.train.dataset_enlarge_ratio': 1,
    'train.total_iter': 2, 'train.warmup_iter': -1, 'train.ema_decay': 0.9, 'train.optim_g.lr': 1e-3,
    'train.nll_opt': {'type': 'NLLLoss', 'loss_weight': 1.0}, 'train.pixel_opt': REMOVED,
    'val': {'val_freq': 2, 'save_img': False, 'temperatures': [0, 0.8], 'num_samples': 2, 'seed': 0, 'bicubic': True,
            'sheets': 1, 'metrics': PSNR},
    'logger.print_freq': 1, 'logger.save_checkpoint_freq': 2, 'logger.use_tb_logger': False,
}
HELD_OUT = {'name': 'held_out', 'type': 'PairedImageDataset', 'dataroot_gt': str(DATA / 'val_gt'),
            'dataroot_lq': str(DATA / 'val_lq_x4'), 'io_backend': {'type': 'disk'}}
OWN_IMAGES = {'name': 'own_images', 'type': 'SingleImageDataset', 'dataroot_lq': str(DATA / 'val_lq_x4'),
              'io_backend': {'type': 'disk'}}
NO_TRAINING = {'datasets': {'test_1': HELD_OUT}, 'train': REMOVED, 'logger': REMOVED, 'network_d': REMOVED}


class Workspace:
    """A folder in which the command is run."""

    def __init__(self, folder):
        self.folder = folder

    def run(self, what, name, changes, *flags):
        """Run `basicsr train|test` with the demo's options, changed. Returns the log that BasicSR wrote."""
        path = self.folder / f'{name}.yml'
        path.write_text(yaml.safe_dump(demo_options({**TINY, 'name': name, **changes}), sort_keys=False))
        root = self.folder / ('experiments' if what == 'train' else 'results') / name
        earlier = set(root.glob('*.log'))
        result = subprocess.run([COMMAND, what, '-opt', path.name, *flags], cwd=self.folder, capture_output=True,
                                text=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})
        assert result.returncode == 0, result.stderr[-3000:]
        log, = set(root.glob('*.log')) - earlier
        return log.read_text()

    def files(self, folder):
        return {path.name for path in (self.folder / folder).iterdir()}

    def load(self, path):
        return torch.load(self.folder / path, weights_only=True)

    def report(self, name):
        return read_report(self.folder / 'results' / name)


def losses_of(log):
    """{iteration: {loss: value}} of a training log."""
    lines = re.findall(r'iter: +(\d+),.*\] (.*)', log)
    return {int(number): {name: float(value) for name, value in re.findall(r'(\w+): (\S+)', text)}
            for number, text in lines}


def assert_resumed(log, at, until, *names):
    assert f'Resuming training from epoch: 0, iter: {at}.' in log
    losses = losses_of(log)
    assert list(losses) == list(range(at + 1, until + 1))
    assert all(name in losses[until] for name in names)


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp('workspace'))


@pytest.fixture(scope='module')
def hcflow_log(workspace):
    """HCFlow, trained for 4 iterations."""
    return workspace.run('train', 'hcflow', {'train.total_iter': 4, 'logger.use_tb_logger': True, 'val.save_img': True})


def test_train(workspace, hcflow_log):
    losses = losses_of(hcflow_log)
    assert list(losses) == [1, 2, 3, 4] and all('l_g_nll' in loss for loss in losses.values())
    assert losses[4]['l_g_nll'] < losses[1]['l_g_nll']
    assert hcflow_log.count('Validation held_out') == 3  # every 2 iterations, and at the end
    assert '# psnr_t0.8: ' in hcflow_log and '# nll: ' in hcflow_log
    assert workspace.files('experiments/hcflow/models') == {'net_g_2.pth', 'net_g_4.pth', 'net_g_latest.pth'}
    assert workspace.files('experiments/hcflow/training_states') == {'2.state', '4.state'}
    assert {f'cat_{label}_{i}.png' for label in ('t0_1', 't0.8_1', 't0.8_2') for i in (2, 4)} <= workspace.files(
        'experiments/hcflow/visualization/cat')
    assert any('_sheet_' in name for name in workspace.files('experiments/hcflow/visualization/cat'))
    assert any(name.startswith('events') for name in workspace.files('tb_logger/hcflow'))
    rows, content = workspace.report('hcflow')
    assert {row['image'] for row in rows} == set(IMAGES)
    assert list(content['averages']['held_out']) == ['all', 'bicubic', '0', '0.8']
    table = hcflow_log[hcflow_log.index('test set'):]
    assert [line.split()[1] for line in table.splitlines()[2:5]] == ['bicubic', '0', '0.8']


def test_resume_and_test(workspace, hcflow_log):
    log = workspace.run('train', 'hcflow', {'train.total_iter': 4}, '--auto_resume', '--force_yml',
                        'train:total_iter=6')
    assert_resumed(log, 4, 6, 'l_g_nll')
    assert losses_of(log)[6]['l_g_nll'] < losses_of(hcflow_log)[1]['l_g_nll']
    assert workspace.files('experiments/hcflow/training_states') == {'2.state', '4.state', '6.state'}
    best = [workspace.load(f'experiments/hcflow/training_states/{i}.state')['best_metric_results'] for i in (4, 6)]
    assert best[0]['held_out']['nll']['iter'] == 4  # that of its own iteration, which came after it was saved
    assert best[1]['held_out']['nll']['val'] <= best[0]['held_out']['nll']['val']

    checkpoint = workspace.folder / 'experiments' / 'hcflow' / 'models' / 'net_g_6.pth'
    metrics = {**PSNR, 'lr_psnr': {'type': 'calculate_lr_psnr'}}
    log = workspace.run('test', 'test_hcflow', {
        **NO_TRAINING, 'datasets': {'test_1': HELD_OUT, 'test_2': OWN_IMAGES}, 'val.metrics': metrics,
        'val.save_img': True, 'path.pretrain_network_g': 'experiments/hcflow/models/net_g_6.pth',
        'path.param_key_g': 'params_ema'})
    assert 'param key: [params_ema]' in log and log.count('Metric psnr needs ground truth') == 1
    pictures = {f'{image}_{label}.png' for image in IMAGES for label in ('t0_1', 't0.8_1', 't0.8_2')}
    for name in ('held_out', 'own_images'):
        assert workspace.files(f'results/test_hcflow/visualization/{name}') == pictures | {'cat_sheet.png'}
    picture = workspace.folder / 'results' / 'test_hcflow' / 'visualization' / 'own_images' / 'cat_t0.8_2.png'
    assert cv2.imread(str(picture)).shape == (192, 256, 3)
    rows, content = workspace.report('test_hcflow')
    measured = {name: {row['metric'] for row in rows if row['dataset'] == name} for name in ('held_out', 'own_images')}
    assert measured == {'held_out': {'psnr', 'lr_psnr', 'nll'}, 'own_images': {'lr_psnr'}}
    assert content['checkpoint_sha256'] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (content['seed'], content['option_file']) == (0, 'test_hcflow.yml')


def test_fine_tuning_to_plus_and_plus_plus(workspace, hcflow_log):
    plus = {'train.nll_opt.loss_weight': 2e-3, 'train.pixel_opt': L1,
            'path.pretrain_network_g': 'experiments/hcflow/models/net_g_4.pth', 'path.strict_load_g': True}
    log = workspace.run('train', 'plus', plus)
    assert 'from experiments/hcflow/models/net_g_4.pth' in log
    assert set(losses_of(log)[2]) >= {'l_g_nll', 'l_g_pix'}
    assert losses_of(log)[1]['l_g_nll'] < 2e-3 * losses_of(hcflow_log)[1]['l_g_nll']  # it did not begin anew
    log = workspace.run('train', 'plus', {**plus, 'train.total_iter': 3}, '--auto_resume')
    assert_resumed(log, 2, 3, 'l_g_nll', 'l_g_pix')

    write_random_vgg(workspace.folder)
    plus_plus = {
        **plus, 'path.pretrain_network_g': 'experiments/plus/models/net_g_latest.pth',
        'network_d': {'type': 'HCFlowVGGDiscriminator', 'num_feat': 2, 'input_size': 32},
        'train.perceptual_opt': {'type': 'PerceptualLoss', 'layer_weights': {'conv1_2': 1.0}, 'vgg_type': 'vgg19',
                                 'perceptual_weight': 0.05, 'style_weight': 0, 'criterion': 'l1'},
        **{f'train.{key}': block for key, block in gan_opts().items()}}
    names = ['l_g_nll', 'l_g_pix', 'l_g_percep', 'l_g_gan', 'l_d_real', 'l_d_fake']
    log = workspace.run('train', 'plus_plus', plus_plus)
    assert set(losses_of(log)[2]) >= set(names)
    assert {'net_g_2.pth', 'net_d_2.pth'} <= workspace.files('experiments/plus_plus/models')
    assert len(workspace.load('experiments/plus_plus/training_states/2.state')['optimizers']) == 2
    log = workspace.run('train', 'plus_plus', {**plus_plus, 'train.total_iter': 3}, '--auto_resume')
    assert_resumed(log, 2, 3, *names)
    for net in ('net_g', 'net_d'):
        assert f'experiments/plus_plus/models/{net}_2.pth' in log


def test_rescaling(workspace):
    gt_only = {'type': 'HROnlyDataset', 'dataroot_lq': REMOVED}
    options = {
        'model_type': 'HCFlowRescalingModel', 'network_g.task': 'rescaling', 'train.nll_opt': REMOVED,
        **{f'train.{key}': block for key, block in RESCALING_OPTS.items()},
        **{f'datasets.train.{key}': value for key, value in gt_only.items()}, 'val.temperatures': [1.0, 0],
        'train.compression': {'type': 'jpeg'}, 'val.compression': [None, 50]}
    log = workspace.run('train', 'rescaling', options)
    assert set(losses_of(log)[2]) == {'l_g_lq', 'l_g_latent', 'l_g_pix', 'condition_1x1'}
    log = workspace.run('train', 'rescaling', {**options, 'train.total_iter': 3}, '--auto_resume')
    assert_resumed(log, 2, 3, 'l_g_pix')

    log = workspace.run('test', 'test_rescaling', {
        **options, **{key: REMOVED for key in options if '.' in key and key.split('.')[0] in ('train', 'datasets')},
        **NO_TRAINING, 'val.save_img': True,
        'path.pretrain_network_g': 'experiments/rescaling/models/net_g_latest.pth'})
    assert {'cat_lq.png', 'cat_t1_1.png', 'cat_t0_1.png', 'cat_sheet.png'} <= workspace.files(
        'results/test_rescaling/visualization/held_out')
    _, content = workspace.report('test_rescaling')
    averages = content['averages']['held_out']
    assert set(averages['all']) == {'lq_psnr_y', 'lq_ssim_y'}
    assert all('psnr' in averages[label] for label in ('bicubic', '0', '1', 'bicubic_jpeg50', '1_jpeg50'))


def test_option_file_of_basicsr(workspace):
    options = {
        'model_type': 'SRModel', 'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4},
        'train.nll_opt': REMOVED, 'train.grad_clip_value': REMOVED, 'train.grad_clip_norm': REMOVED,
        'train.pixel_opt': L1, 'val': {'val_freq': 2, 'save_img': False, 'metrics': PSNR}}
    log = workspace.run('train', 'srresnet', options)
    assert list(losses_of(log)) == [1, 2] and set(losses_of(log)[2]) == {'l_pix'}
    assert '# psnr: ' in log and 'Model [SRModel] is created' in log
    log = workspace.run('train', 'srresnet', {**options, 'train.total_iter': 3}, '--auto_resume')
    assert_resumed(log, 2, 3, 'l_pix')
