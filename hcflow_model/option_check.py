"""Option files are checked before anything is made: every mistake is one error that names the key and the way out."""
import difflib
import inspect
import re
from collections.abc import Iterable

import torch
from basicsr.models import lr_scheduler
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from hcflow_arch import InputError
from hcflow_arch.image_checks import check_temperature

from . import option_schema
from .dataset_check import check_dataset

GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')


def check_structure(opt: dict, is_train: bool) -> None:
    """Refuse options that BasicSR could not even parse."""
    blocks = ['datasets', 'network_g', 'path', *(['train', 'logger'] if is_train else [])]
    for key in ('name', 'model_type', 'num_gpu', *blocks):
        if key not in opt or opt[key] is None:
            raise InputError(f"The option file has no '{key}'{_did_you_mean(key, opt)}.")
        if key in blocks and not isinstance(opt[key], dict):
            raise InputError(f"'{key}' is {opt[key]!r}; it must be a block of options.")
    for key in ('val', 'logger', 'dist_params'):
        if opt.get(key) is not None and not isinstance(opt[key], dict):
            raise InputError(f"'{key}' is {opt[key]!r}; it must be a block of options.")
    for key in ('print_freq', 'save_checkpoint_freq', 'use_tb_logger') if is_train else ():
        if key not in opt['logger']:
            raise InputError(f"logger has no '{key}'{_did_you_mean(key, opt['logger'])}.")
    for phase in opt['datasets'] if is_train else ():
        if phase.split('_')[0] not in ('train', 'val'):
            raise InputError(f"'datasets.{phase}': in training the blocks of datasets are train, val, val_2 and so on.")
    if is_train and 'train' not in opt['datasets']:
        raise InputError(f"datasets has no 'train'{_did_you_mean('train', opt['datasets'])}.")
    if not is_train and opt.get('val') is None:
        raise InputError("The option file has no 'val'; tests read there what to save and measure.")
    if is_train and opt.get('val') is not None and 'val_freq' not in opt['val']:
        raise InputError(f"val has no 'val_freq'{_did_you_mean('val_freq', opt['val'])}; "
                         'give it, or leave val out to train without validation.')
    for phase, dataset in opt['datasets'].items():
        if not isinstance(dataset, dict):
            raise InputError(f"'datasets.{phase}' is {dataset!r}; it must be a block of options.")
        for key in ('name', 'type'):
            if key not in dataset:
                raise InputError(f"datasets.{phase} has no '{key}'{_did_you_mean(key, dataset)}.")
    num_gpu = opt['num_gpu']
    if num_gpu != 'auto' and (isinstance(num_gpu, bool) or not isinstance(num_gpu, int) or num_gpu < 0):
        raise InputError(f'num_gpu is {num_gpu!r}; it must be auto or a whole number from 0.')
    if num_gpu != 'auto' and num_gpu > torch.cuda.device_count():
        raise InputError(f'num_gpu is {num_gpu}, but this machine has {torch.cuda.device_count()}; '
                         'set num_gpu: auto to use what is there.')


def check_options(opt: dict) -> None:
    """Check parsed options: types, names, and for HCFlow models every key of `network_g`, `train` and `val`."""
    _check_number_texts(opt, '')
    _check_registered('model_type', opt['model_type'], MODEL_REGISTRY)
    scale = opt.get('scale', 1)
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise InputError(f'scale is {scale!r}; it must be a whole number from 1.')
    for name in ('network_g', 'network_d'):
        if opt.get(name) is not None:
            _check_component(name, opt[name], ARCH_REGISTRY)
    if opt['model_type'].startswith('HCFlow'):
        _check_hcflow(opt)
    for phase, dataset in opt['datasets'].items():
        _check_registered(f'datasets.{phase}.type', dataset['type'], DATASET_REGISTRY)
        check_dataset(f'datasets.{phase}', dataset, opt)
    metrics = (opt.get('val') or {}).get('metrics') or {}
    if not isinstance(metrics, dict):
        raise InputError(f"'val.metrics' is {metrics!r}; it must be a block such as "
                         '{psnr: {type: calculate_psnr, …}}.')
    for name, metric in metrics.items():
        _check_component(f'val.metrics.{name}', metric, METRIC_REGISTRY, extra=('better',))


def _check_hcflow(opt):
    if 'scale' not in opt:
        raise InputError("The option file has no 'scale'; set it to that of network_g.")
    arch = opt['network_g']['type']
    if not hasattr(ARCH_REGISTRY.get(arch), 'encode'):
        raise InputError(f"model_type {opt['model_type']} trains flows, but 'network_g.type' {arch} is none; "
                         'use HCFlowNet, or SRModel for this network.')
    scale = opt['network_g'].get('scale', 4)
    if opt['network_g'].get('temperature') is not None:
        check_temperature('network_g.temperature', opt['network_g']['temperature'])
    if opt['network_g']['type'] == 'HCFlowNet' and opt['scale'] != scale:
        raise InputError(f'scale is {opt["scale"]!r}, network_g.scale is {scale!r}; they must be equal.')
    if opt.get('val') is not None:
        opt['val'].setdefault('save_img', False)
        _check_block('val', opt['val'], option_schema.VAL)
        _check_temperatures(opt['val'])
    for name in ('train', 'val'):
        if (opt.get(name) or {}).get('amp') not in (None, 'bf16'):
            raise InputError(f'{name}.amp is {opt[name]["amp"]!r}; allowed are bf16 and ~. fp16 is not: exponents of '
                             'the flow leave its range.')
    if not opt['is_train']:
        return
    train = opt['train']
    _check_block('train', train, option_schema.TRAIN)
    for key in ('optim_g', 'scheduler', 'total_iter'):
        if key not in train:
            raise InputError(f"train has no '{key}'{_did_you_mean(key, train)}.")
    if train.get('temperature') is not None:
        check_temperature('train.temperature', train['temperature'])
    if train.get('accumulate') is not None and train['accumulate'] < 1:
        raise InputError(f'train.accumulate is {train["accumulate"]}; it must be 1 or more.')
    for key in [key for key in option_schema.TRAIN if key.endswith('_opt')]:
        if train.get(key):
            _check_component(f'train.{key}', train[key], LOSS_REGISTRY)
    _check_scheduler(train['scheduler'])
    gan_type = (train.get('gan_opt') or {}).get('gan_type', 'vanilla')
    if gan_type not in GAN_TYPES:
        raise InputError(f"'train.gan_opt.gan_type' is {gan_type!r}; allowed are {', '.join(GAN_TYPES)}.")
    for key in ('optim_g', 'optim_d'):
        if train.get(key):
            _check_optimizer(f'train.{key}', train[key])
    if bool(train.get('gan_opt')) != (opt.get('network_d') is not None):
        have, lack = ('train.gan_opt', 'network_d') if train.get('gan_opt') else ('network_d', 'train.gan_opt')
        raise InputError(f'The option file has {have} but no {lack}; a GAN needs both. Give {lack} or remove {have}.')
    if train.get('gan_opt') and not train.get('optim_d'):
        raise InputError('train.gan_opt needs an optimizer for the discriminator; give train.optim_d.')


def _check_temperatures(val):
    for temperature in val.get('temperatures') or []:
        check_temperature('a value of val.temperatures', temperature)
    for key, smallest in (('num_samples', 1), ('sheets', 0)):
        if val.get(key) is not None and val[key] < smallest:
            raise InputError(f'val.{key} is {val[key]}; it must be {smallest} or more.')


def _check_block(name: str, block: dict, schema: dict) -> None:
    """Unknown keys and wrong types of a block."""
    for key, value in block.items():
        if key not in schema:
            raise InputError(f"Unknown option '{name}.{key}'{_did_you_mean(key, schema)}.")
        types, meaning = schema[key]
        types = types if isinstance(types, tuple) else (types,)
        right = isinstance(value, types) and not (isinstance(value, bool) and bool not in types)
        if value is not None and not right:
            allowed = ' or '.join({'dict': 'a block', 'int': 'a whole number', 'float': 'a number', 'str': 'text',
                                   'list': 'a list', 'bool': 'true or false'}[t.__name__] for t in types)
            raise InputError(f"'{name}.{key}' is {value!r}; it must be {allowed} ({meaning}).")


def _check_component(name: str, block: dict, registry, extra: Iterable[str] = ()) -> None:
    """A block {type: registered name, **arguments of its constructor or function}."""
    if not isinstance(block, dict) or 'type' not in block:
        raise InputError(f"'{name}' is {block!r}; it must be a block with a 'type'.")
    _check_registered(f'{name}.type', block['type'], registry)
    parameters = inspect.signature(registry.get(block['type'])).parameters.values()
    known = {parameter.name for parameter in parameters} | {'type', *extra}
    # BasicSR's metrics take **kwargs only to ignore `better`; a misspelt key would be ignored with it
    open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters) and registry is not METRIC_REGISTRY
    for key in block:
        if key not in known and not open_ended:
            raise InputError(f"Unknown option '{name}.{key}' of {block['type']}{_did_you_mean(key, known)}.")


def _check_optimizer(name, block):
    allowed = set(inspect.signature(torch.optim.Adam).parameters) - {'params'} | {'type'}
    if block.get('type') != 'Adam':
        raise InputError(f"'{name}.type' is {block.get('type')!r}; BasicSR offers Adam.")
    if 'lr' not in block:
        raise InputError(f"{name} has no 'lr'{_did_you_mean('lr', block)}.")
    if isinstance(block['lr'], bool) or not isinstance(block['lr'], (int, float)) or block['lr'] <= 0:
        raise InputError(f"'{name}.lr' is {block['lr']!r}; it must be a number above 0, such as !!float 2.5e-4.")
    for key in block:
        if key not in allowed:
            raise InputError(f"Unknown option '{name}.{key}' of Adam{_did_you_mean(key, allowed)}.")


def _check_scheduler(block):
    choices = {'MultiStepLR': lr_scheduler.MultiStepRestartLR, 'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
               'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR}
    if block.get('type') not in choices:
        raise InputError(f"'train.scheduler.type' is {block.get('type')!r}{_did_you_mean(block.get('type'), choices)}; "
                         f'BasicSR offers {", ".join(choices)}.')
    allowed = set(inspect.signature(choices[block['type']]).parameters) - {'optimizer'} | {'type'}
    for key in block:
        if key not in allowed:
            raise InputError(f"Unknown option 'train.scheduler.{key}'{_did_you_mean(key, allowed)}.")


def _check_registered(name: str, value: object, registry) -> None:
    # BasicSR registers some of its own names as NAME_basicsr and finds them as NAME
    if not isinstance(value, str) or not (value in registry or f'{value}_basicsr' in registry):
        raise InputError(f"'{name}' is {value!r}, which is not registered in BasicSR"
                         f'{_did_you_mean(str(value), registry.keys())}. '
                         'If it comes from another package, name its module in `plugins:`.')


def _check_number_texts(value: object, name: str) -> None:
    """`lr: 1e-4` is text in YAML 1.1; BasicSR would hand it on as such."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_number_texts(inner, f'{name}.{key}' if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            _check_number_texts(inner, name)
    elif isinstance(value, str) and re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+', value):
        raise InputError(f"'{name}' is the text {value!r}; YAML reads it as a number only with a dot and a sign. "
                         f'Write !!float {value}.')


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ''


