"""Every option file of options/: its numbers are the paper's, it is accepted, and shrunk it trains or tests."""
import gc
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.utils import FileClient
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.matlab_functions import imresize
from helpers import DATA, ROOT, SMALL, command_line, perturb, small_net, write_random_vgg

import hcflow_model.data.hr_only_dataset  # noqa: F401  (registers it)
from hcflow_arch import HCFlowVGGDiscriminator
from hcflow_model.checkpoints.named import NAMED
from hcflow_model.options import check as option_check
from hcflow_model.options import read as safe_yaml
from hcflow_model.options import schema as option_schema
from hcflow_model.pipeline.parsing import complete_options, options_parser
from hcflow_model.pipeline.repairs import backends

OPTIONS = ROOT / 'options'
FILES = sorted(OPTIONS.glob('*.yml'))
PAPER = [path for path in FILES if path.stem.startswith(('train_HCFlow_', 'test_HCFlow_'))]
TRAIN, TEST = ([path for path in FILES if ('train' in path.stem) == is_train] for is_train in (True, False))
PATCH = 32  # of shrunk options: the smallest that the discriminator takes

TOP = ['name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'plugins', 'gt_usm', 'high_order_degradation',
       *option_schema.SECOND_ORDER, 'queue_size', 'datasets', 'network_g', 'network_d', 'path',
       'train', 'val', 'logger', 'dist_params']
TRAIN_ORDER = ['ema_decay', 'optim_g', 'optim_d', 'scheduler', 'total_iter', 'warmup_iter', 'losses', 'compression',
               'net_d_iters', 'net_d_init_iters', 'temperature', 'accumulate', 'amp', 'grad_clip_value',
               'grad_clip_norm']
SR, RESCALING = 'HCFlowModel', 'HCFlowRescalingModel'
PLUS = {'nll_opt': 2e-3, 'pixel_opt': 1}
PLUS_PLUS = {**PLUS, 'perceptual_opt': 0.05, 'gan_opt': 0.5}
OF_RESCALING = {'lq_opt': 0.05, 'latent_opt': 1e-5, 'pixel_opt': 1}

# file: model, scale, iterations, learning rate, halved at, weights of the losses, run that it goes on from
RECIPES = {
    'x4': (SR, 4, 300_000, 2.5e-4, [150_000, 225_000, 270_000, 285_000], {'nll_opt': 1}, None),
    'x8': (SR, 8, 350_000, 2.5e-4, [200_000, 250_000, 280_000, 310_000, 340_000], {'nll_opt': 1}, None),
    'plus_x4': (SR, 4, 50_000, 5e-5, [20_000, 40_000], PLUS, 'x4'),
    'plus_x8': (SR, 8, 50_000, 5e-5, [20_000, 40_000], PLUS, 'x8'),
    'plusplus_x4': (SR, 4, 50_000, 1.25e-5, [20_000, 40_000], PLUS_PLUS, 'x4'),
    'plusplus_x8': (SR, 8, 50_000, 1.25e-5, [20_000, 40_000], PLUS_PLUS, 'x8'),
    'rescaling_x4': (RESCALING, 4, 500_000, 2.5e-4, [100_000, 200_000, 300_000, 400_000, 450_000], OF_RESCALING, None),
    'rescaling_x2': (RESCALING, 2, 500_000, 2.5e-4, [100_000, 200_000, 300_000, 400_000, 450_000], OF_RESCALING, None),
    'rescaling_x4_jpeg': (RESCALING, 4, 100_000, 1e-4, [50_000, 75_000, 90_000, 95_000], OF_RESCALING, 'rescaling_x4'),
    'x4_fast': (SR, 4, 30_000, 2.5e-4, [15_000, 22_500, 27_000, 28_500], {'nll_opt': 1}, None),
    'x8_fast': (SR, 8, 35_000, 2.5e-4, [20_000, 25_000, 28_000, 31_000, 34_000], {'nll_opt': 1}, None),
    'rescaling_x4_fast': (RESCALING, 4, 50_000, 2.5e-4, [10_000, 20_000, 30_000, 40_000, 45_000], OF_RESCALING, None),
}
SR_NETWORK = {'type': 'HCFlowNet', 'task': 'sr', 'num_flow_steps': 13, 'num_cond_steps': 13, 'hidden_channels': 64,
              'num_feat': 64, 'num_grow_ch': 32}
RESCALING_NETWORK = {'type': 'HCFlowNet', 'task': 'rescaling', 'num_flow_steps': 8, 'num_cond_steps': 6,
                     'hidden_channels': 64, 'num_subnet_grow_ch': 32, 'num_feat': 64, 'num_block': [2, 1],
                     'num_grow_ch': 16}
NETWORKS = {  # (model, scale): network_g
    (SR, 4): {**SR_NETWORK, 'scale': 4, 'quant_bins': 64, 'num_block': [7, 7]},
    (SR, 8): {**SR_NETWORK, 'scale': 8, 'quant_bins': 256, 'num_block': [5, 5]},
    (RESCALING, 4): {**RESCALING_NETWORK, 'scale': 4},
    (RESCALING, 2): {**RESCALING_NETWORK, 'scale': 2},
}
TEMPERATURES = {(SR, 4): [0, 0.9], (SR, 8): [0, 0.8], (RESCALING, 4): [1.0, 0], (RESCALING, 2): [1.0, 0]}


def stem(path):
    return path.stem


def read(path):
    return safe_yaml.read_option_file(str(path))


def run_of(checkpoint):
    """experiments/NAME/models/net_g_latest.pth -> NAME."""
    experiments, name, *rest = Path(checkpoint).parts
    assert experiments == 'experiments' and rest == ['models', 'net_g_latest.pth']
    return name


# ---- as they are ----

def test_every_recipe_has_its_files():
    names = {path.stem for path in PAPER}
    tested = [name for name in RECIPES if not name.endswith(('_fast', '_jpeg')) and name != 'rescaling_x2']
    assert names == {f'train_HCFlow_{name}' for name in RECIPES} | {f'test_HCFlow_{name}' for name in tested} | {
        'test_HCFlow_x4_woGT', 'train_HCFlow_real_x4'}


@pytest.mark.parametrize('recipe', RECIPES)
def test_numbers_of_the_recipe(recipe):
    model, scale, total_iter, lr, milestones, losses, start_run = RECIPES[recipe]
    opt = read(OPTIONS / f'train_HCFlow_{recipe}.yml')
    train, data, fast = opt['train'], opt['datasets']['train'], recipe.endswith('_fast')
    assert (opt['model_type'], opt['scale'], train['total_iter']) == (model, scale, total_iter)
    assert opt['network_g'] == {**NETWORKS[model, scale], **({'start': 'wavelet'} if fast else {})}
    assert (data['batch_size_per_gpu'], data['gt_size']) == (16, 160)
    assert (data['use_hflip'], data['use_rot']) == (True, model == RESCALING)

    assert train['optim_g'] == {'type': 'Adam', 'lr': lr, 'weight_decay': 0, 'betas': [0.9, 0.99]}
    assert train['scheduler'] == {'type': 'MultiStepLR', 'milestones': milestones, 'gamma': 0.5}
    assert (train['warmup_iter'], train['ema_decay']) == (500 if fast else -1, 0.999)
    assert (train['grad_clip_value'], train['grad_clip_norm']) == (5, 100)

    blocks = {key: train[key] for key in train if key.endswith('_opt')}
    weights = {key: block.get('perceptual_weight', block.get('loss_weight')) for key, block in blocks.items()}
    assert weights == losses
    types = {'nll_opt': 'NLLLoss', 'pixel_opt': 'L1Loss', 'lq_opt': 'MSELoss', 'latent_opt': 'LatentLoss',
             'perceptual_opt': 'PerceptualLoss', 'gan_opt': 'GANLoss'}
    assert {key: block['type'] for key, block in blocks.items()} == {key: types[key] for key in losses}
    assert all(block.get('reduction', 'mean') == 'mean' for block in blocks.values())

    assert opt['val']['temperatures'] == TEMPERATURES[model, scale]
    start = opt['path']['pretrain_network_g']
    assert start is None if start_run is None else run_of(start) == f'train_HCFlow_{start_run}'


def test_numbers_of_the_real_recipe():
    opt = read(OPTIONS / 'train_HCFlow_real_x4.yml')
    assert (opt['model_type'], opt['network_d']['type']) == ('HCFlowRealModel', 'UNetDiscriminatorSN')
    assert opt['network_g'] == NETWORKS[SR, 4] and run_of(opt['path']['pretrain_network_g']) == 'train_HCFlow_x4'
    ranges = {key: opt[key] for key in option_schema.SECOND_ORDER if key.startswith('resize_prob') or 'range' in key}
    assert ranges == {  # of the paper of Real-ESRGAN
        'resize_prob': [0.2, 0.7, 0.1], 'resize_range': [0.15, 1.5], 'noise_range': [1, 30],
        'poisson_scale_range': [0.05, 3], 'jpeg_range': [30, 95], 'resize_prob2': [0.3, 0.4, 0.3],
        'resize_range2': [0.3, 1.2], 'noise_range2': [1, 25], 'poisson_scale_range2': [0.05, 2.5],
        'jpeg_range2': [30, 95]}


@pytest.mark.parametrize('scale', [4, 8])
def test_numbers_of_the_adversary(scale):
    opt = read(OPTIONS / f'train_HCFlow_plusplus_x{scale}.yml')
    train = opt['train']
    assert opt['network_d'] == {'type': 'HCFlowVGGDiscriminator', 'num_in_ch': 3, 'num_feat': 64, 'input_size': 160}
    assert train['optim_d'] == {'type': 'Adam', 'lr': 5e-5, 'weight_decay': 0, 'betas': [0.9, 0.99]}
    assert (train['net_d_iters'], train['net_d_init_iters']) == (1, 1500)
    assert train['temperature'] == {4: 0.9, 8: 0.8}[scale]
    assert train['gan_opt']['gan_type'] == 'vanilla'
    assert train['perceptual_opt'] == {
        'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}, 'vgg_type': 'vgg19', 'use_input_norm': True,
        'range_norm': False, 'perceptual_weight': 0.05, 'style_weight': 0, 'criterion': 'l1'}


@pytest.mark.parametrize('path', [path for path in TEST if path in PAPER and 'woGT' not in path.stem],
                         ids=stem)
def test_tests_fit_their_training(path):
    opt, trained = read(path), read(OPTIONS / f'{run_of(read(path)["path"]["pretrain_network_g"])}.yml')
    assert trained['name'] == opt['name'].replace('test_', 'train_')
    assert opt['network_g'] == trained['network_g'] and opt['path']['param_key_g'] == 'params_ema'
    assert opt['val']['temperatures'] == trained['val']['temperatures']
    metrics = opt['val']['metrics']
    of_samples = [] if opt['model_type'] == RESCALING else ['diversity', 'lr_psnr']
    assert list(metrics) == ['psnr', 'ssim', 'psnr_y', 'ssim_y', 'lpips', *of_samples]
    assert opt['val']['num_samples'] >= 2 or not of_samples
    names = [dataset['name'] for dataset in opt['datasets'].values()]
    assert names == (['CelebA-HQ'] if opt['scale'] == 8 else ['Set5', 'Set14', 'BSD100', 'Urban100', 'DIV2K100'])


@pytest.mark.parametrize('path', FILES, ids=stem)
def test_style(path):
    opt = read(path)
    assert path.stem.startswith('demo_') or opt['name'] == path.stem
    assert 'debug' not in opt['name']  # it would switch BasicSR's debug mode on
    assert opt['num_gpu'] == 'auto'  # runs with and without a GPU
    _assert_order(opt, TOP)
    train = opt.get('train', {})
    _assert_order(dict.fromkeys('losses' if key.endswith('_opt') else key for key in train), TRAIN_ORDER)
    assert train.keys() <= option_schema.TRAIN.keys() and opt['val'].keys() <= option_schema.VAL.keys()
    assert list(opt['val'])[-1] == 'metrics'
    for name, metric in opt['val']['metrics'].items():
        if metric['type'] in ('calculate_psnr', 'calculate_ssim'):
            assert metric['crop_border'] == opt['scale'] and metric['test_y_channel'] == name.endswith('_y')
    assert all(len(line) <= 120 for line in path.read_text().splitlines())


def _assert_order(keys, order):
    assert list(keys) == [key for key in order if key in keys]


@pytest.mark.parametrize('path', FILES, ids=stem)
def test_full_file_is_accepted(path, tmp_path, monkeypatch):
    """All checks but those of the data, which are not there."""
    monkeypatch.setattr(option_check, 'check_dataset', lambda *args: None)
    parsed(read(path), tmp_path)


# ---- shrunk ----

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Two HR pictures as hr/ and hr.lmdb, and bicubic LR ones of every scale as lr2/, lr2.lmdb, …"""
    root = tmp_path_factory.mktemp('pictures')
    for index, file in enumerate(sorted((DATA / 'val_gt').glob('*.png'))[:2]):
        hr = cv2.imread(str(file))[64:112, 64:128]
        _write(root / 'hr' / f'{index}.png', hr)
        for scale in (2, 4, 8):
            lr = imresize(hr.astype(np.float32) / 255, 1 / scale)
            _write(root / f'lr{scale}' / f'{index}.png', (lr * 255).round().clip(0, 255).astype(np.uint8))
    for folder in list(root.iterdir()):
        make_lmdb_from_imgs(str(folder), f'{folder}.lmdb', ['0.png', '1.png'], ['0', '1'], map_size=2**20)
    return root


def _write(path, image):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope='module')
def vgg_file(tmp_path_factory):
    return write_random_vgg(tmp_path_factory.mktemp('vgg'))


@pytest.fixture
def run_dir(tmp_path, monkeypatch, vgg_file):
    """An empty folder to work in, with VGG19 where BasicSR looks for it."""
    folder = tmp_path / 'experiments' / 'pretrained_models'
    folder.mkdir(parents=True)
    (folder / vgg_file.name).symlink_to(vgg_file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FileClient, '_backends', backends())
    return tmp_path


def shrink(opt, pictures):
    """Tiny networks, pictures and batches; everything else stays."""
    scale = opt['scale']
    opt['network_g'].update({key: value for key, value in SMALL.items() if key in opt['network_g']})
    for feature_net in opt['network_g'].get('feature_net', []):
        feature_net.update(num_feat=4, num_block=1)
    if opt.get('network_d'):
        opt['network_d'].update(num_feat=4)
        if 'input_size' in opt['network_d']:
            opt['network_d'].update(input_size=PATCH)
    for phase, dataset in opt['datasets'].items():
        ending = '.lmdb' if dataset['io_backend']['type'] == 'lmdb' else ''
        for key, name in (('dataroot_gt', 'hr'), ('dataroot_lq', f'lr{scale}')):
            if key in dataset:
                dataset[key] = str(pictures / f'{name}{ending}')
        dataset.pop('filename_tmpl', None)
        dataset.pop('meta_info_file', None)
        if phase == 'train':
            dataset.update(gt_size=PATCH, batch_size_per_gpu=2, num_worker_per_gpu=0)
    if 'queue_size' in opt:
        opt.update(queue_size=2)
    if 'train' in opt:
        opt['train'].update(total_iter=2)
        if 'net_d_init_iters' in opt['train']:
            opt['train'].update(net_d_init_iters=0)  # the one step is to be a whole one
    opt['val']['metrics'].pop('lpips', None)  # its weights are a download
    return opt


def parsed(opt, root):
    """What the command makes of options."""
    option_check.check_structure(opt, 'train' in opt)
    args = command_line('train' if 'train' in opt else 'test')
    complete_options(opt, args, str(root))
    option_check.check_options(opt)
    return options_parser(opt, args)(str(root))[0]


def loaders(opt):
    """{phase: BasicSR's data loader}."""
    return {phase: build_dataloader(build_dataset(dataset), dataset, num_gpu=0, seed=0)
            for phase, dataset in opt['datasets'].items()}


def first_batch(opt, phase):
    """The first batch of a phase. Its LMDBs are closed again: a process cannot open one twice."""
    batch = next(iter(loaders(opt)[phase]))
    gc.collect()
    return batch


def save_checkpoint(opt):
    """A shrunk network that a run before might have left; in place of one of the package another file."""
    if opt['path']['pretrain_network_g'] in NAMED:
        opt['path']['pretrain_network_g'] = 'package/net_g.pth'
    path = opt['path']['pretrain_network_g']
    kwargs = {key: value for key, value in opt['network_g'].items() if key != 'type'}
    weights = perturb(small_net(**kwargs), 0.01).state_dict()
    Path(path).parent.mkdir(parents=True)
    torch.save({'params': weights, 'params_ema': weights}, path)
    return weights


@pytest.mark.slow
@pytest.mark.parametrize('path', TRAIN, ids=stem)
def test_shrunk_file_trains(path, run_dir, pictures):
    opt = parsed(shrink(read(path), pictures), run_dir)
    if opt['path']['pretrain_network_g']:
        loaded = save_checkpoint(opt)
    model = build_model(opt)
    if opt['path']['pretrain_network_g']:
        assert all(torch.equal(weight.cpu(), loaded[name]) for name, weight in model.net_g.state_dict().items())
    before = [parameter.detach().clone() for parameter in model.net_g.parameters() if parameter.requires_grad]

    batch = first_batch(opt, 'train')
    if 'kernel1' in batch:
        batch['gt'] = batch['gt'][:, :, :64, :64]  # RealESRGANDataset always gives 400x400, which take long
    model.feed_data(batch)
    assert model.gt.shape == (2, 3, PATCH, PATCH)
    model.update_learning_rate(1, warmup_iter=opt['train'].get('warmup_iter', -1))
    model.optimize_parameters(1)
    names = {'nll_opt': ['l_g_nll'], 'pixel_opt': ['l_g_pix'], 'perceptual_opt': ['l_g_percep'], 'lq_opt': ['l_g_lq'],
             'latent_opt': ['l_g_latent'], 'gan_opt': ['l_g_gan', 'l_d_real', 'l_d_fake']}
    log = model.get_current_log()
    assert {name for key in names if key in opt['train'] for name in names[key]} <= log.keys()
    assert all(np.isfinite(value) for value in log.values()) and log.get('l_g_percep', 1) > 0
    after = [parameter for parameter in model.net_g.parameters() if parameter.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.isfinite().all() for parameter in after)
    if 'network_d' in opt and opt['network_d']['type'] == 'HCFlowVGGDiscriminator':
        assert isinstance(model.get_bare_model(model.net_d), HCFlowVGGDiscriminator)

    loader = loaders(opt)['val']
    model.validation(loader, 1, None, opt['val']['save_img'])
    results = model.metric_results
    assert {f'{metric}_t{temperature:g}' for temperature in opt['val']['temperatures']
            for metric in opt['val']['metrics'] if metric != 'diversity'} <= results.keys()
    assert all(np.isfinite(value) for value in results.values())


@pytest.mark.slow
@pytest.mark.parametrize('path', TEST, ids=stem)
@pytest.mark.usefixtures('far_pixels_pass')
def test_shrunk_file_tests(path, run_dir, pictures):
    opt = parsed(shrink(read(path), pictures), run_dir)
    save_checkpoint(opt)
    model = build_model(opt)
    loader = next(iter(loaders(opt).values()))
    loader.dataset.paths = loader.dataset.paths[:1]
    model.validation(loader, opt['name'], None, opt['val']['save_img'])

    results = run_dir / 'results' / opt['name']
    averages = json.loads((results / 'metrics.json').read_text())['averages'][loader.dataset.opt['name']]
    for temperature in opt['val']['temperatures']:
        wanted = set(opt['val']['metrics']) - ({'diversity'} if temperature == 0 else set())
        assert averages[f'{temperature:g}'].keys() == wanted
    images = {image.name for image in (results / 'visualization' / loader.dataset.opt['name']).glob('*.png')}
    highest = max(opt['val']['temperatures'])
    assert {'0_t0_1.png', f'0_t{highest:g}_{opt["val"]["num_samples"]}.png', '0_sheet.png'} <= images
    assert ('nll' in averages.get('all', {})) == (opt['model_type'] == SR and 'woGT' not in path.stem)
