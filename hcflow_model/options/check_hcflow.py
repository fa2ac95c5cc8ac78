"""What the HCFlow models need of an option file beyond what every model needs."""
import inspect

import torch
from basicsr.models import lr_scheduler
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

from hcflow_arch import InputError
from hcflow_arch.checks import check_temperature
from hcflow_arch.hcflow_arch import SCALES, TASKS
from hcflow_model.data.degrade import DEGRADATION_REGISTRY, degrade
from hcflow_model.utils.registries import is_known

from . import schema as option_schema
from .check_datasets import FLAT_DATASETS
from .rules import (
    check_block,
    check_component,
    check_names,
    check_type,
    check_value,
    did_you_mean,
    named,
    options_of,
    require,
)

ONLY_OF_OTHER_TASK = {'sr': ('lq_opt', 'latent_opt', 'compression'), 'rescaling': ('nll_opt',)}
SCHEDULERS = {'MultiStepLR': lr_scheduler.MultiStepRestartLR, 'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
              'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR}


def check_hcflow_options(opt: dict) -> None:
    """Check network, paths, validation and, in training, losses, optimizers and schedule of an HCFlow model."""
    model = MODEL_REGISTRY.get(opt['model_type'])
    general = {**options_of(model, 'general_options'), **dict.fromkeys(option_schema.SET_BY_COMMAND)}
    others = {key: value for key, value in opt.items() if not key.startswith('network_')}
    check_names('', others, general, cutoff=option_schema.ALIKE)
    _check_network(opt)
    for phase, dataset in opt['datasets'].items():
        if dataset['type'] not in FLAT_DATASETS:
            continue
        check_names(f'datasets.{phase}', dataset, (*option_schema.DATASET, *option_schema.DATASET_OF_BASICSR))
        for key, neutral in (('mean', 0), ('std', 1)):
            if any(number != neutral for number in dataset.get(key) or []):
                raise InputError(f"'datasets.{phase}.{key}' is {dataset[key]!r}; the flow's images are in [0, 1], so "
                                 'leave it out.')
    paths = [f'{key}_{name.removeprefix("network_")}' for name in opt if name.startswith('network_')
             for key in ('pretrain_network', 'param_key', 'strict_load')]
    check_names('path', opt['path'], (*option_schema.PATH, *option_schema.PATHS_OF_BASICSR, *paths))
    for block in ('val', *(('logger', 'train') if opt['is_train'] else ())):
        check_names(block, opt.get(block) or {}, options_of(model, f'{block}_options'))
    if opt.get('val') is not None:
        _drop_empty(opt['val'])
        opt['val'].setdefault('save_img', False)
        _check_validation(opt['val'], model.task)
    for block in ('train', 'val'):
        degradation = (opt.get(block) or {}).get('degradation')
        if isinstance(degradation, dict):  # a model of a plugin may mean something else by it
            _check_degradation(f'{block}.degradation', degradation, opt['scale'], model.task)
            if block == 'train' and opt['datasets']['train']['type'] == 'PairedImageDataset':
                raise InputError("'train.degradation' would be ignored: datasets.train has LR images of its own. Take "
                                 'type HROnlyDataset, or remove train.degradation.')
    if opt['is_train']:
        _drop_empty(opt['train'])
        _check_training(opt['train'], model.task)
        _check_accumulate(opt['train'].get('accumulate', 1), opt['datasets']['train'].get('batch_size_per_gpu') or 1)
        _check_gan(opt)


def _check_network(opt):
    require('The option file', opt, ('scale',))
    network = opt['network_g']
    if not hasattr(ARCH_REGISTRY.get(network['type']), 'encode'):
        raise InputError(f"model_type {opt['model_type']} trains flows, but 'network_g.type' {network['type']} is "
                         'none; use HCFlowNet, or SRModel for this network.')
    if network['type'] != 'HCFlowNet':
        return
    for key, default, allowed in (('scale', 4, SCALES), ('task', 'sr', TASKS)):
        if network.get(key, default) not in allowed:
            raise InputError(f"'network_g.{key}' is {network[key]!r}; allowed are {allowed}.")
    scale = network.get('scale', 4)
    if opt['scale'] != scale:
        raise InputError(f'scale is {opt["scale"]!r}, network_g.scale is {scale!r}; they must be equal.')
    if network.get('temperature') is not None:
        check_temperature('network_g.temperature', network['temperature'])


def _check_degradation(name, block, scale, task):
    if task != 'sr':
        raise InputError(f"'{name}': a rescaling network makes its LR images itself; remove it.")
    check_component(name, block, DEGRADATION_REGISTRY, given=('gt', 'scale'))
    for key in ('gt', 'scale'):
        if key in block:
            raise InputError(f"'{name}.{key}' is set by the model; remove it.")
    if is_known(block['type'], DEGRADATION_REGISTRY):
        with named(name):  # says which of its values cannot be
            degrade(torch.zeros(1, 3, 8 * scale, 8 * scale), scale, block)


def _drop_empty(block):
    """~ is the same as leaving a key out; `get` with a default must see it so."""
    for key in [key for key, value in block.items() if value is None]:
        del block[key]


def _check_validation(val, task):
    for temperature in val.get('temperatures', []):
        check_temperature('a value of val.temperatures', temperature)
    if val.get('temperatures') == [] and task != 'sr':  # there the nll is left to measure
        raise InputError("'val.temperatures' is empty, so nothing would be drawn; give one or more, such as [0, 0.9].")
    metrics = val.get('metrics', {})
    types = [metric.get('type') for metric in metrics.values() if isinstance(metric, dict)]
    if 'calculate_diversity' in types and val.get('num_samples', 1) < 2:
        raise InputError('val.metrics has calculate_diversity, which needs two or more samples per image; set '
                         'val.num_samples to 2 or more, or remove the metric.')
    if 'nll' in metrics or 'calculate_nll' in types:
        raise InputError('val.metrics asks for the nll, which is always reported where HR is known; remove it.')
    if val.get('refine') and task != 'rescaling':
        raise InputError(f"'val.refine' refines the small images of rescaling, and the task is {task!r}; remove it.")
    if 'compression' in val:
        _check_qualities('val.compression', val['compression'], task)


def _check_qualities(name, qualities, task):
    if task != 'rescaling':
        raise InputError(f"'{name}' stores the images of rescaling, and the task is {task!r}; remove it.")
    for quality in qualities:
        if quality is not None:
            check_value(name, quality, option_schema.JPEG_QUALITY)
    if not qualities or len(set(qualities)) < len(qualities):
        raise InputError(f"'{name}' is {qualities!r}; it must be one or more different qualities, such as [~, 90, 50].")


def _check_training(train, task):
    require('train', train, ('optim_g', 'scheduler', 'total_iter'), option_schema.TRAIN)
    for key in ONLY_OF_OTHER_TASK[task]:
        if key in train:
            raise InputError(f"'train.{key}' has no effect in training of task {task!r}; remove it.")
    for key in [key for key in train if key.endswith('_opt')]:
        check_component(f'train.{key}', train[key], LOSS_REGISTRY)
        for weight in [weight for weight in train[key] if weight.endswith('_weight')]:
            check_value(f'train.{key}.{weight}', train[key][weight], option_schema.LOSS_WEIGHT)
    if 'temperature' in train:
        check_temperature('train.temperature', train['temperature'])
    if 'compression' in train:
        _check_compression('train.compression', train['compression'])
    for part in train.get('freeze', []):
        check_type('train.freeze', part, str, option_schema.TRAIN['freeze'].meaning)
    for key in ('optim_g', 'optim_d'):
        if key in train:
            _check_optimizer(f'train.{key}', train[key])
    if train.get('ema_decay') == 1:
        raise InputError("'train.ema_decay' is 1; the average would stay what training starts from. Give a number "
                         'below 1, such as 0.999.')
    _check_scheduler(train['scheduler'], train['total_iter'])


def _check_compression(name, block):
    _drop_empty(block)
    check_block(name, block, option_schema.COMPRESSION)
    require(name, block, ('type',), option_schema.COMPRESSION)
    quality = block.get('quality', [1, 100])
    for number in quality:
        check_value(f'{name}.quality', number, option_schema.JPEG_QUALITY)
    if len(quality) != 2 or quality[0] > quality[1]:
        raise InputError(f"'{name}.quality' is {quality!r}; it must be the lowest and the highest quality, such as "
                         '[50, 95].')


def _check_accumulate(accumulate, batch_size):
    if accumulate > batch_size:
        raise InputError(f"'train.accumulate' is {accumulate}; datasets.train.batch_size_per_gpu, which it splits, is "
                         f'{batch_size}. Give {batch_size} or less.')


def _check_gan(opt):
    train, network_d = opt['train'], opt.get('network_d')
    if ('gan_opt' in train) != (network_d is not None):
        have, lack = ('train.gan_opt', 'network_d') if 'gan_opt' in train else ('network_d', 'train.gan_opt')
        raise InputError(f'The option file has {have} but no {lack}; a GAN needs both. Give {lack} or remove {have}.')
    if ('gan_opt' in train) != ('optim_d' in train):
        raise InputError('train.gan_opt needs an optimizer for the discriminator, and train.optim_d a discriminator; '
                         'give both or neither.')
    gan_type = train.get('gan_opt', {}).get('gan_type', 'vanilla')
    if gan_type not in option_schema.GAN_TYPES:
        raise InputError(f"'train.gan_opt.gan_type' is {gan_type!r}; allowed are {', '.join(option_schema.GAN_TYPES)}.")


def _check_optimizer(name, block):
    _drop_empty(block)
    if block.get('type') != 'Adam':
        raise InputError(f"'{name}.type' is {block.get('type')!r}; BasicSR offers Adam.")
    allowed = set(inspect.signature(torch.optim.Adam).parameters) - {'params'} | {'type'}
    if name == 'train.optim_g':
        allowed.add('lr_mul')
    check_names(name, block, allowed)
    require(name, block, ('lr',), allowed)
    for key in ('lr', 'weight_decay', 'eps'):
        if block.get(key) is not None:
            check_type(f'{name}.{key}', block[key], (int, float), 'write small numbers as !!float 2.5e-4')
            if block[key] < 0:
                raise InputError(f"'{name}.{key}' is {block[key]!r}; it must not be below 0.")
    if 'lr_mul' in block:
        check_type(f'{name}.lr_mul', block['lr_mul'], dict, option_schema.LR_MUL.meaning)
        for part, factor in block['lr_mul'].items():
            check_type(f'{name}.lr_mul.{part}', factor, (int, float))
            if factor <= 0:
                raise InputError(f"'{name}.lr_mul.{part}' is {factor!r}; it must be above 0. To keep a part as it is, "
                                 'name it in train.freeze.')
    if block['lr'] == 0:
        raise InputError(f"'{name}.lr' is 0; nothing would be learned. Give a number above 0.")
    betas = block.get('betas', [0.9, 0.99])
    if not isinstance(betas, (list, tuple)) or len(betas) != 2 or not all(
            isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in betas):
        raise InputError(f"'{name}.betas' is {betas!r}; it must be two numbers from 0 to 1, such as [0.9, 0.99].")


def _check_scheduler(block, total_iter):
    name = 'train.scheduler'
    _drop_empty(block)
    if not isinstance(block.get('type'), str) or block['type'] not in SCHEDULERS:
        raise InputError(f"'{name}.type' is {block.get('type')!r}{did_you_mean(block.get('type'), SCHEDULERS)}; "
                         f'BasicSR offers {", ".join(SCHEDULERS)}.')
    parameters = dict(inspect.signature(SCHEDULERS[block['type']]).parameters)
    del parameters['optimizer']
    check_names(name, block, {*parameters, 'type'})
    require(name, block, [key for key, value in parameters.items() if value.default is value.empty], parameters)
    for key in ('milestones', 'restarts', 'restart_weights', 'periods'):
        if key in block:
            check_type(f'{name}.{key}', block[key], (list, tuple))
            for number in block[key]:
                check_type(f'{name}.{key}', number, (int, float), 'in a list')
    for key in ('gamma', 'eta_min', 'last_epoch'):
        if key in block:
            check_type(f'{name}.{key}', block[key], (int, float))
    for key in ('restarts', 'periods'):
        weights = block.get('restart_weights', (1,))
        if key in parameters and len(block.get(key, (0,))) != len(weights):
            raise InputError(f"'{name}.{key}' is {block.get(key, [0])!r} and restart_weights {list(weights)!r}; give "
                             'one weight for each.')
    if 'periods' in block and sum(block['periods']) < total_iter - 1:  # its first iteration takes no step
        raise InputError(f"'{name}.periods' is {block['periods']!r}, {sum(block['periods'])} iterations in all; "
                         f'train.total_iter is {total_iter}. Give periods that last so long.')
    if block.get('gamma', 0) < 0:
        raise InputError(f"'{name}.gamma' is {block['gamma']!r}; it must not be below 0: it multiplies learning rates.")
