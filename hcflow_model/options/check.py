"""Option files are checked before anything is made: every mistake is one error that names the key and the way out."""
import importlib.util
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from hcflow_arch import InputError
from hcflow_model.utils.registries import is_known, is_registered

from . import schema as option_schema
from .check_datasets import check_dataset
from .rules import (
    check_block,
    check_component,
    check_file_name,
    check_registered,
    check_type,
    check_value,
    did_you_mean,
    require,
)

NOT_PATHS = ('ignore_resume_networks',)
MAX_SEED = 2 ** 31  # numpy takes 2 ** 32; every process and worker adds its number


def check_structure(opt: dict, is_train: bool) -> None:
    """Refuse options that BasicSR could not even parse, or would stop at in the middle of its work."""
    blocks = ['datasets', 'network_g', 'path', *(['train', 'logger'] if is_train else ['val'])]
    require('The option file', opt, ('name', 'model_type', 'num_gpu', *blocks))
    for key in (*blocks, 'val', 'logger', 'dist_params'):
        if opt.get(key) is not None:
            check_type(key, opt[key], (dict,))
    check_file_name('name', opt['name'])
    for key in option_schema.SET_BY_COMMAND:
        if key in opt:
            raise InputError(f"'{key}' is set by the command, not by the option file; remove it.")
    for key, value in opt['path'].items():
        if not any(part in key for part in option_schema.NO_FOLDERS):
            raise InputError(f"Unknown option 'path.{key}'{did_you_mean(key, option_schema.PATH)}. A run's own folders "
                             'are called by `name`.')
        if value is not None and key not in NOT_PATHS and not key.startswith('strict_load'):
            check_type(f'path.{key}', value, (str,))
    seed = opt.get('manual_seed')
    if seed is not None:
        check_type('manual_seed', seed, (int,))
        if not 0 <= seed <= MAX_SEED:
            raise InputError(f"'manual_seed' is {seed}; it must be a whole number from 0 to {MAX_SEED}.")
    if is_train:
        require('logger', opt['logger'], ('print_freq', 'save_checkpoint_freq', 'use_tb_logger'), option_schema.LOGGER)
        check_block('logger', opt['logger'], option_schema.LOGGER, extra=opt['logger'].keys() - option_schema.LOGGER)
        _check_wandb(opt['logger'])
        require('datasets', opt['datasets'], ('train',), ('val',))
        if opt.get('val') is not None:
            require('val', opt['val'], ('val_freq',), option_schema.VAL)
            val_freq = option_schema.VAL['val_freq']
            check_block('val', {'val_freq': opt['val']['val_freq']}, {'val_freq': val_freq})
    if not opt['datasets']:
        raise InputError("'datasets' names no dataset; give one, such as test_1.")
    _check_phases(opt['datasets'], ('train', 'val') if is_train else ('test', 'val'))
    num_gpu = opt['num_gpu']
    if num_gpu != 'auto' and (isinstance(num_gpu, bool) or not isinstance(num_gpu, int) or num_gpu < 0):
        raise InputError(f'num_gpu is {num_gpu!r}; it must be auto or a whole number from 0.')
    check_block('dist_params', opt.get('dist_params') or {}, option_schema.DIST_PARAMS)
    if (opt.get('val') or {}).get('suffix') is not None:
        check_file_name('val.suffix', opt['val']['suffix'])


def _check_wandb(logger):
    wandb = logger.get('wandb') or {}
    check_block('logger.wandb', wandb, option_schema.WANDB)
    if wandb.get('project') is None:
        return
    if importlib.util.find_spec('wandb') is None:
        raise InputError("'logger.wandb.project' asks for Weights and Biases, which is not installed; pip install "
                         'wandb, or set it to ~.')
    if logger['use_tb_logger'] is not True:
        raise InputError("'logger.wandb.project' needs use_tb_logger: true, through which BasicSR logs to it.")


def _check_phases(datasets, phases):
    names = []
    for phase, dataset in datasets.items():
        if str(phase).split('_')[0] not in phases:
            raise InputError(f"'datasets.{phase}': the blocks of datasets are called {' and '.join(phases)} here, with "
                             f'_2 and so on for more{did_you_mean(phase, phases)}.')
        check_type(f'datasets.{phase}', dataset, (dict,))
        require(f'datasets.{phase}', dataset, ('name', 'type'))
        foreign = is_registered(dataset['type'], DATASET_REGISTRY) and not is_known(dataset['type'], DATASET_REGISTRY)
        keys = option_schema.LOADER if foreign else option_schema.DATASET
        for key in [key for key in keys if dataset.get(key) is not None]:
            check_value(f'datasets.{phase}.{key}', dataset[key], option_schema.DATASET[key])
        check_file_name(f'datasets.{phase}.name', dataset['name'])
        if dataset['name'] in names:
            raise InputError(f"'datasets.{phase}.name' is {dataset['name']!r} like that of another; results are "
                             'told apart by name, so give each its own.')
        names.append(dataset['name'])


def check_options(opt: dict) -> None:
    """Check options that `pipeline.parsing` has completed: types, names, and for HCFlow models every key."""
    check_registered('model_type', opt['model_type'], MODEL_REGISTRY)
    num_gpu = opt['num_gpu']  # with a launcher that of all processes, of which each may see but one
    if num_gpu != 'auto' and num_gpu > torch.cuda.device_count() and not opt.get('dist'):
        raise InputError(f'num_gpu is {num_gpu}, but this machine has {torch.cuda.device_count()}; '
                         'set num_gpu: auto to use what is there.')
    scale = opt.get('scale')
    if scale is not None:
        check_type('scale', scale, (int,))
        if scale < 1:
            raise InputError(f"'scale' is {scale!r}; it must be a whole number from 1.")
    for name in ('network_g', 'network_d'):
        if opt.get(name) is not None:
            check_component(name, opt[name], ARCH_REGISTRY)
    model = MODEL_REGISTRY.get(opt['model_type'])
    if hasattr(model, 'check_options'):
        model.check_options(opt)
    for phase, dataset in opt['datasets'].items():
        check_registered(f'datasets.{phase}.type', dataset['type'], DATASET_REGISTRY)
        check_dataset(f'datasets.{phase}', dataset, opt)
    metrics = (opt.get('val') or {}).get('metrics') or {}
    check_type('val.metrics', metrics, (dict,), option_schema.VAL['metrics'].meaning)
    for name, metric in metrics.items():
        check_component(f'val.metrics.{name}', metric, METRIC_REGISTRY, extra=('better',))
        if metric.get('better') not in (None, 'higher', 'lower'):
            raise InputError(f"'val.metrics.{name}.better' is {metric['better']!r}; it must be higher or lower.")
        if 'crop_border' in metric:
            check_value(f'val.metrics.{name}.crop_border', metric['crop_border'], option_schema.CROP_BORDER)


def check_checkpoints_exist(opt: dict) -> None:
    """Refuse names of checkpoints that are not there, before the folders of an earlier run are archived."""
    if opt.get('auto_resume') or opt['path'].get('resume_state'):
        return  # the networks of the state are taken instead
    for key, path in opt['path'].items():
        if not key.startswith('pretrain_network') or path is None:
            continue
        if Path(path).is_dir():
            raise InputError(f"'path.{key}': checkpoint {path} is a folder; name a file, such as "
                             'experiments/NAME/models/net_g_latest.pth.')
        if not Path(path).is_file():
            raise InputError(f"'path.{key}': checkpoint {path} does not exist (looked from {Path.cwd()}).")
