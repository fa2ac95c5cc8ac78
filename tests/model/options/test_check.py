"""Every mistake in an option file is one error that names the key and the way out."""
import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from helpers import L1, REMOVED, SMALL_NET, demo_options, gan_opts

from hcflow_arch import InputError
from hcflow_model import HCFlowModel
from hcflow_model.options.check import check_options, check_structure
from hcflow_model.options.read import check_plain
from hcflow_model.options.schema import Option

GAN = {'network_d': {'type': 'HCFlowVGGDiscriminator', 'input_size': 64},
       **{f'train.{name}': block for name, block in gan_opts().items()}}
RESCALING = {'model_type': 'HCFlowRescalingModel', 'network_g.task': 'rescaling', 'train.nll_opt': REMOVED,
             'train.lq_opt': {'type': 'MSELoss'}}
JPEG = {'type': 'jpeg', 'quality': [50, 95]}


def check(changes, is_train=True):
    """What the command does with options between reading and running them, and the network it builds first."""
    opt = demo_options({**SMALL_NET, **copy.deepcopy(changes)})
    check_plain(opt)
    check_structure(opt, is_train)
    opt['is_train'] = is_train  # BasicSR's parser adds this and the phases
    for phase, dataset in opt['datasets'].items():
        dataset['phase'] = phase.split('_')[0]
    check_options(opt)
    build_network(opt['network_g'])
    return opt


GOOD = {
    'demo': {},
    'no val': {'val': REMOVED},
    'no seed': {'val.seed': None},
    'no metrics': {'val.metrics': None},
    'metric with better': {'val.metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'better': 'higher'}}},
    'whole numbers for numbers': {'train.ema_decay': 0, 'train.grad_clip_value': 5, 'val.temperatures': [0, 1, 0.5]},
    'clipping off': {'train.grad_clip_value': None, 'train.grad_clip_norm': None},
    'gan': GAN,
    'relativistic gan': {**GAN, 'train.gan_opt.type': 'RelativisticGANLoss'},
    "basicsr's discriminator": {**GAN, 'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}},
    'feature net': {'network_g.feature_net': {'type': 'RRDBNet', 'scale': 1, 'num_out_ch': 4, 'num_feat': 4,
                                              'num_block': 1, 'num_grow_ch': 4}},
    'two validation sets': {'datasets.val_2': {'name': 'more', 'type': 'SingleImageDataset',
                                               'dataroot_lq': demo_options()['datasets']['val']['dataroot_lq'],
                                               'io_backend': {'type': 'disk'}}},
    'a model of BasicSR': {'model_type': 'SRModel', 'network_g': {'type': 'MSRResNet', 'num_block': 1, 'num_feat': 4},
                           'train': {'pixel_opt': L1, 'anything': 1}, 'val': {'val_freq': 1, 'anything': 1}},
    "basicsr's suffixed names": {'model_type': 'SRModel',
                                 'network_g': {'type': 'SRVGGNetCompact', 'num_feat': 4, 'num_conv': 1}},
}


@pytest.mark.parametrize('name', GOOD)
def test_good_options(name):
    check(GOOD[name])


def test_options_of_a_test():
    check({'train': REMOVED, 'logger': REMOVED, 'datasets.train': REMOVED}, is_train=False)


BAD = [
    # structure
    ({'name': REMOVED}, "has no 'name'"),
    ({'model_type': REMOVED, 'modeltype': 'HCFlowModel'}, "has no 'model_type'.*did you mean 'modeltype'"),
    ({'network_g': REMOVED, 'network': {}}, "has no 'network_g'.*did you mean 'network'"),
    ({'train': REMOVED}, "has no 'train'"),
    ({'logger': None}, "has no 'logger'"),
    ({'logger.print_freq': REMOVED}, "logger has no 'print_freq'"),
    ({'logger.save_checkpoint_freq': REMOVED}, "logger has no 'save_checkpoint_freq'"),
    ({'path': 'experiments'}, "'path' is 'experiments'; it must be a block"),
    ({'train': [1]}, r"'train' is \[1\]; it must be a block"),
    ({'val': 5}, "'val' is 5; it must be a block"),
    ({'datasets.train': 'photographs'}, "'datasets.train' is 'photographs'; it must be a block"),
    ({'datasets.train': REMOVED}, "datasets.*'train'"),
    ({'datasets.dev': {'name': 'x', 'type': 'SingleImageDataset'}}, "'?datasets.dev'?"),
    ({'datasets.val.name': REMOVED}, "datasets.val has no 'name'"),
    ({'datasets.val.type': REMOVED, 'datasets.val.typ': 'PairedImageDataset'}, "no 'type'.*did you mean 'typ'"),
    ({'num_gpu': -1}, 'num_gpu is -1; it must be auto or a whole number'),
    ({'num_gpu': 'two'}, "num_gpu is 'two'"),
    ({'num_gpu': torch.cuda.device_count() + 1}, r'num_gpu is \d+, but this machine has \d+; set num_gpu: auto'),
    # scale, task, network
    ({'scale': REMOVED}, "has no 'scale'"),
    ({'scale': 2}, 'scale is 2, network_g.scale is 4; they must be equal'),
    ({'scale': 3, 'network_g.scale': 3, 'datasets.train.gt_size': 48, 'datasets.train.io_backend.type': 'disk',
      'datasets.train.dataroot_gt': demo_options()['datasets']['val']['dataroot_gt'],
      'datasets.train.dataroot_lq': demo_options()['datasets']['val']['dataroot_lq']},
     r"scale' is 3; allowed are \(2, 4, 8, 16\)"),
    ({'scale': 'x4', 'network_g.scale': 'x4'}, "scale.* is 'x4'"),
    ({'scale': 0, 'network_g.scale': 0}, 'scale.* is 0'),
    ({'network_g.task': 'denoising'}, "network_g.task' is 'denoising'; allowed are .*'sr', 'rescaling'"),
    ({'network_g.num_flow_stepz': 4}, "Unknown option 'network_g.num_flow_stepz' of HCFlowNet "
                                      ".*did you mean 'num_flow_steps'"),
    ({'network_g.num_flow_steps': '4'}, "network_g.num_flow_steps is '4'; it must be a whole number"),
    ({'network_g.hidden_channels': True}, "network_g.hidden_channels' is True"),
    ({'network_g.temperature': 'hot'}, "temperature.* is 'hot'"),
    ({'network_g.feature_net': {'type': 'NoNet'}}, 'feature_net.type is .NoNet.*registered'),
    ({'network_g.type': 'HCFlow'}, "'network_g.type' is 'HCFlow', which is not registered in BasicSR"
                                   ".*did you mean 'HCFlowNet'.*plugins"),
    ({'network_g.type': REMOVED}, "'network_g' is .*; it must be a block with a 'type'"),
    ({'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1}}, 'network_g.type.*MSRResNet'),
    ({'model_type': 'HCFlowModle'}, "'model_type' is 'HCFlowModle'.*did you mean 'HCFlowModel'"),
    ({'model_type': 4}, "'model_type' is 4"),
    # train
    ({'train.grad_clip_vale': 5}, "Unknown option 'train.grad_clip_vale'.*did you mean 'grad_clip_value'"),
    ({'train.nlll_opt': {}}, "Unknown option 'train.nlll_opt'.*did you mean 'nll_opt'"),
    ({'train.total_iter': REMOVED}, "train has no 'total_iter'"),
    ({'train.total_iter': 200.5}, "'train.total_iter' is 200.5; it must be a whole number"),
    ({'train.total_iter': '200k'}, "'train.total_iter' is '200k'"),
    ({'train.ema_decay': 'no'}, "'train.ema_decay' is 'no'; it must be a whole number or a number"),
    ({'train.ema_decay': True}, "'train.ema_decay' is True"),
    ({'train.nll_opt': 1.0}, "'train.nll_opt' is 1.0; it must be a block"),
    ({'train.nll_opt.type': 'NLL'}, "'train.nll_opt.type' is 'NLL'.*did you mean 'NLLLoss'"),
    ({'train.nll_opt.weight': 2}, "Unknown option 'train.nll_opt.weight' of NLLLoss"),
    ({'train.pixel_opt.loss_wieght': 2}, "'train.pixel_opt.loss_wieght' of L1Loss.*did you mean 'loss_weight'"),
    ({'train.optim_g.lr': '1e-4'}, "'train.optim_g.lr' is the text '1e-4'.*Write !!float 1e-4"),
    ({'train.optim_g.lr': 'fast'}, "'train.optim_g.lr' is 'fast'"),
    ({'train.optim_g.lr': REMOVED}, "train.optim_g has no 'lr'"),
    ({'train.optim_g.type': 'SGD'}, "'train.optim_g.type' is 'SGD'; BasicSR offers Adam"),
    ({'train.optim_g.beta': [0.9, 0.99]}, "Unknown option 'train.optim_g.beta'.*did you mean 'betas'"),
    ({'train.optim_g': REMOVED}, "train has no 'optim_g'"),
    ({'train.scheduler': REMOVED}, "train has no 'scheduler'"),
    ({'train.scheduler.type': 'MultiStep'}, "scheduler.type.* 'MultiStep'"),
    ({'train.scheduler.type': REMOVED}, "scheduler.type' is None"),
    ({'train.scheduler.milestone': [5]}, "'train.scheduler.milestone'.*did you mean 'milestones'"),
    ({'train.accumulate': 0}, "train.accumulate' is 0"),
    ({'train.amp': 'fp16'}, "train.amp' is 'fp16'; allowed are bf16"),
    # GAN
    ({**GAN, 'network_d': REMOVED}, 'has train.gan_opt but no network_d; a GAN needs both'),
    ({**GAN, 'train.gan_opt': REMOVED}, 'has network_d but no train.gan_opt'),
    ({**GAN, 'train.optim_d': REMOVED}, 'train.gan_opt needs an optimizer for the discriminator'),
    ({**GAN, 'train.optim_d.lr': REMOVED}, "train.optim_d has no 'lr'"),
    ({**GAN, 'network_d.input_sise': 64}, "'network_d.input_sise' .*did you mean 'input_size'"),
    ({**GAN, 'train.gan_opt.gan_type': 'best'}, "gan_type' is 'best'"),
    # val
    ({'val.temperature': [0.9]}, "Unknown option 'val.temperature'.*did you mean 'temperatures'"),
    ({'val.temperatures': 0.9}, "'val.temperatures' is 0.9; it must be a list"),
    ({'val.temperatures': [0.9, 'hot']}, "of val.temperatures is 'hot'"),
    ({'val.temperatures': [-0.1]}, 'of val.temperatures is -0.1'),
    ({'val.num_samples': 0}, "val.num_samples' is 0; it must be 1 or more"),
    ({'val.num_samples': 2.5}, "'val.num_samples' is 2.5; it must be a whole number"),
    ({'val.sheets': -1}, "val.sheets' is -1"),
    ({'val.seed': 'random'}, "'val.seed' is 'random'"),
    ({'val.save_img': 'yes'}, "'val.save_img' is 'yes'; it must be true or false"),
    ({'val.val_freq': REMOVED}, "val has no 'val_freq'"),
    ({'val.metrics.psnr.type': 'calculate_psrn'}, "'val.metrics.psnr.type' .*did you mean 'calculate_psnr'"),
    ({'val.metrics.psnr.better': 'low'}, "'val.metrics.psnr.better' is 'low'; allowed are higher, lower and ~"),
    ({'val.metrics.psnr.crop_boarder': 4}, "'val.metrics.psnr.crop_boarder' .*did you mean 'crop_border'"),
    ({'val.metrics.psnr': 'calculate_psnr'}, "'val.metrics.psnr' is .*; it must be a block with a 'type'"),
    ({'val.metrics': ['psnr']}, "'val.metrics' is .*; it must be a block"),
    # datasets (their files: test_check_datasets.py)
    ({'datasets.train.type': 'PairedDataset'}, "'datasets.train.type' .*did you mean 'PairedImageDataset'"),
    ({'datasets.train.dataroot_gt': 5}, "'datasets.train.dataroot_gt' is 5; it must be text"),
    ({'datasets.train.gt_size': 0}, "'datasets.train.gt_size' is 0; it must be 1 or more"),
    ({'datasets.train.gt_size': 16.}, "'datasets.train.gt_size' is 16.0; it must be a whole number"),
    ({'datasets.train.gt_size': '16'}, "'datasets.train.gt_size' is '16'; it must be a whole number"),
    ({'datasets.val.io_backend': 'disk'}, "'datasets.val.io_backend' is 'disk'; it must be a block"),
    # what belongs together
    ({'val.num_samples': 1, 'val.metrics.diversity': {'type': 'calculate_diversity'}}, 'diversity, which needs two'),
    ({'val.metrics.nll': {'type': 'calculate_nll'}}, 'nll, which is always reported'),
    ({'train.lq_opt': {'type': 'MSELoss'}}, "'train.lq_opt' has no effect in training of task 'sr'"),
    ({**RESCALING, 'train.compression': {'type': 'webp'}}, "'train.compression.type' is 'webp'; allowed are jpeg"),
    ({**RESCALING, 'train.compression': {'qualty': [1, 9]}}, "'train.compression.qualty' .*did you mean 'quality'"),
    ({**RESCALING, 'train.compression': {'quality': [50, 95]}}, "train.compression has no 'type'"),
    ({**RESCALING, 'train.compression': {**JPEG, 'quality': [95, 50]}}, r'is \[95, 50\]; it must be the lowest and'),
    ({**RESCALING, 'train.compression': {**JPEG, 'quality': [0, 50]}}, "'train.compression.quality' is 0; it must be"),
    ({**RESCALING, 'train.compression': {**JPEG, 'prob': 80}}, "'train.compression.prob' is 80; it must be 1 or less"),
    ({'val.compression': [90]}, "'val.compression' stores the images of rescaling"),
    ({'val.refine': 2}, "'val.refine' refines the small images of rescaling"),
    ({**RESCALING, 'val.compression': [90, 101]}, "'val.compression' is 101; it must be 100 or less"),
    ({**RESCALING, 'val.compression': [None, 90, None]}, r'it must be one or more different qualities'),
    ({'train.compression': {'type': 'jpeg'}}, "'train.compression' has no effect in training of task 'sr'"),
    ({'train.nll_opt.loss_weight': 'high'}, "'train.nll_opt.loss_weight' is 'high'; it must be"),
    ({'train.scheduler.milestones': 5}, "'train.scheduler.milestones' is 5; it must be a list"),
    ({'train.optim_g.betas': 0.9}, "'train.optim_g.betas' is 0.9; it must be two numbers"),
    ({'train.optim_g.weight_decay': -1}, "'train.optim_g.weight_decay' is -1"),
    ({'train.total_iter': 0}, "'train.total_iter' is 0; it must be 1 or more"),
    ({'logger.print_freq': 'x'}, "'logger.print_freq' is 'x'; it must be"),
    ({'val.val_freq': 0}, "'val.val_freq' is 0; it must be 1 or more"),
    ({'manual_seed': 'x'}, "'manual_seed' is 'x'"),
    ({'path.pretrain_networkg': 'a'}, "'path.pretrain_networkg' .*did you mean 'pretrain_network_g'"),
    ({'datasets.train.gt_size': REMOVED}, "datasets.train has no 'gt_size'"),
    ({'datasets.val.name': 'photographs'}, "'datasets.val.name' is 'photographs' like that of another"),
    ({'datasets.train.dataset_enlarge_ratio': 0.1}, 'images, fewer than a batch of 16'),
    ({'logger.use_tb_log': True}, r"Unknown option 'logger.use_tb_log'.*did you mean 'use_tb_logger'"),
]


def _changes_as_text(changes):
    return ', '.join(f'{key}={"-" if value is REMOVED else value}' for key, value in changes.items())[-60:]


@pytest.mark.parametrize(('changes', 'message'), BAD, ids=[_changes_as_text(changes) for changes, _ in BAD])
def test_bad_options(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check(changes)
    assert '\n' not in str(caught.value)


def test_number_as_text_is_found_everywhere():
    for key, value in (('train.total_iter', '1e3'), ('train.optim_g.betas', [0.9, '1E-2']),
                       ('val.metrics.x', '-.5e+2')):
        with pytest.raises(InputError, match=f"'{key}' is the text"):
            check({key: value})
    check({'name': 'run_1e-4', 'datasets.train.name': '1e'})  # no numbers


def test_only_hcflow_models_are_held_to_our_keys():
    change = {'train.my_option': 1}
    with pytest.raises(InputError, match='my_option'):
        check(change)
    opt = check({**change, 'model_type': 'SRModel', 'train.nll_opt': REMOVED})
    assert opt['train']['my_option'] == 1


@pytest.mark.parametrize('key', ['train.ema_decay', 'train.warmup_iter', 'train.accumulate', 'train.grad_clip_norm',
                                 'val.temperatures', 'val.num_samples', 'val.sheets', 'val.seed'])
def test_empty_value_is_the_same_as_none(key):
    block, name = key.split('.')
    assert name not in check({key: None})[block]


def test_options_of_other_packages_are_theirs(registered):
    """Their keys may mean something else, and ~ something of its own."""
    class NormNet(torch.nn.Identity):
        def __init__(self, norm='batch'):
            super().__init__()

    class ArrayDataset(torch.utils.data.Dataset):
        pass

    for registry, kind in ((ARCH_REGISTRY, NormNet), (DATASET_REGISTRY, ArrayDataset)):
        registered(registry, kind)
    block = {'name': 'arrays', 'type': 'ArrayDataset', 'dataroot_gt': ['a.h5', 'b.h5'], 'gt_size': [32, 48]}
    changes = {'model_type': 'SRModel', 'network_g': {'type': 'NormNet', 'norm': None}, 'scale': None,
               'datasets.train': {**block, 'batch_size_per_gpu': 1}, 'logger.images': 3}
    assert check(changes)['network_g'] == {'type': 'NormNet', 'norm': None}
    for change, message in (({'batch_size_per_gpu': 0}, "'datasets.train.batch_size_per_gpu' is 0"),
                            ({'prefetch_mode': 'gpu'}, "'datasets.train.prefetch_mode' is 'gpu'")):
        with pytest.raises(InputError, match=message):
            check({**changes, 'datasets.train': {**block, **change}})


def test_blocks_of_other_packages_at_the_top():
    """No misspellings: Real-ESRGAN's, GFPGAN's and others' own."""
    check({'noise_range': [1, 30], 'network_identity': {'type': 'ResNetArcFace'}, 'network_d_left_eye': {},
           'network_d_mouth': {}, 'gt_usm': True, 'l1_gt_usm': True, 'queue_size': 180, 'use_amp': False,
           'gpu_ids': [0], 'degradation': 'bsrgan', 'high_order_degradation': True, 'path_batch_size': 4})


def test_gpus_of_all_processes(monkeypatch):
    """With a launcher num_gpu is that of all, of which a process may see but one (Slurm); none is too few."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    opt = check({})
    opt.update(num_gpu=8, dist=True)
    check_options(opt)
    for changes in ({'dist': False}, {}):
        with pytest.raises(InputError, match=r'num_gpu is 8, but this machine has \d; set num_gpu: auto'):
            check_options({**opt, **changes})
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


@pytest.fixture
def registered():
    """Register classes of a plugin for a test."""
    names = []

    def register(registry, kind):
        registry._do_register(kind.__name__, kind)
        names.append((registry, kind.__name__))
    yield register
    for registry, name in names:
        del registry._obj_map[name]


def test_model_with_options_of_its_own(registered):
    class DegradingModel(HCFlowModel):
        train_options = {'degradation': Option(str, 'how LR images are made', choices=('bicubic', 'bsrgan'))}
        val_options = {'noise': Option((int, float), 'standard deviation', 0, 1)}
        general_options = {'level': Option(int, 'of noise', 1)}

    class StrongerModel(DegradingModel):
        train_options = {'strength': Option(bool, 'more of it')}

    for kind in (DegradingModel, StrongerModel):
        registered(MODEL_REGISTRY, kind)
    good = {'model_type': 'DegradingModel', 'train.degradation': 'bicubic', 'val.noise': 0.5, 'level': 2}
    check(good)
    check({**good, 'model_type': 'StrongerModel', 'train.strength': True, 'train.ema_decay': 0.5})
    for change, message in (
            ({'train.degradation': 'blur'}, "'train.degradation' is 'blur'; allowed are bicubic, bsrgan and ~"),
            ({'train.degradation': 5}, r"'train.degradation' is 5; it must be text \(how LR images are made\)"),
            ({'train.degradatoin': 'bicubic'}, r"Unknown option 'train.degradatoin' \(did you mean 'degradation'"),
            ({'train.strength': True}, "Unknown option 'train.strength'"),
            ({'val.noise': 2}, "'val.noise' is 2; it must be 1 or less"),
            ({'level': 0}, "'level' is 0; it must be 1 or"),
            ({'levle': 1, 'levels': 1}, "Unknown option 'levels' .did you mean 'level'"),
            ({'train.ema_decay': 2}, "'train.ema_decay' is 2")):
        with pytest.raises(InputError, match=message):
            check({**good, **change})


def test_model_of_basicsr_with_options_of_its_own(registered):
    class DegradingSRModel(SRModel):
        train_options = {'degradation': Option(str, 'how LR images are made')}

    registered(MODEL_REGISTRY, DegradingSRModel)
    good = {**GOOD['a model of BasicSR'], 'model_type': 'DegradingSRModel'}
    check({**good, 'train.degradation': 'bicubic'})
    with pytest.raises(InputError, match="'train.degradation' is 5; it must be text"):
        check({**good, 'train.degradation': 5})


def test_dataset_with_options_of_its_own(registered):
    class NoisyDataset(PairedImageDataset):
        dataset_options = {'sigma': Option((int, float), 'standard deviation of the noise in grey levels', 0, 255)}

    registered(DATASET_REGISTRY, NoisyDataset)
    good = {'datasets.train.type': 'NoisyDataset', 'datasets.train.sigma': 5, 'datasets.train.anything': 1}
    check(good)
    for change, message in (({'sigma': 300}, "'datasets.train.sigma' is 300; it must be 255 or less"),
                            ({'sigmas': 3}, r"Unknown option 'datasets.train.sigmas' \(did you mean 'sigma'"),
                            ({'gt_sizes': 3}, r"Unknown option 'datasets.train.gt_sizes' \(did you mean 'gt_size'")):
        with pytest.raises(InputError, match=message):
            check({**good, **{f'datasets.train.{key}': value for key, value in change.items()}})


def test_metric_of_a_plugin(registered):
    def calculate_other_mae(img, img2, crop_border=(0, 0)):
        return 0

    registered(METRIC_REGISTRY, calculate_other_mae)
    check({'val.metrics.mae': {'type': 'calculate_other_mae', 'better': 'lower', 'crop_border': [1, 2]}})
    with pytest.raises(InputError, match="'val.metrics.mae.better' is 'less'; allowed are higher, lower and ~"):
        check({'val.metrics.mae': {'type': 'calculate_other_mae', 'better': 'less'}})


def test_more_networks_than_ours():
    changes = {'network_teacher': {'type': 'MSRResNet'}, 'path.pretrain_network_teacher': 'a.pth',
               'path.strict_load_teacher': True}
    check(changes)
    with pytest.raises(InputError, match='pretrain_network_teachers'):
        check({**changes, 'path.pretrain_network_teachers': 'a.pth'})
