"""Option files are checked before anything is made: every mistake is one error that names the key and the way out."""
import importlib.util
from pathlib import Path

import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_file
from hcflow_model.utils.registries import is_known, is_registered

from . import schema as option_schema
from .check_datasets import check_dataset
from .rules import (
    check_block,
    check_component,
    check_file_name,
    check_names,
    check_registered,
    check_type,
    check_value,
    check_values,
    did_you_mean,
    named,
    options_of,
    require,
)

MAX_SEED = 2 ** 31  # numpy takes 2 ** 32; every process and worker adds its number


def check_structure(opt: dict, is_train: bool) -> None:
    """Refuse options that BasicSR could not even parse, or would stop at in the middle of its work."""
    blocks = ['datasets', 'network_g', 'path', *(['train', 'logger'] if is_train else ['val'])]
    require('The option file', opt, ('name', 'model_type', 'num_gpu', *blocks))
    num_gpu = opt['num_gpu']
    if num_gpu != 'auto' and (isinstance(num_gpu, bool) or not isinstance(num_gpu, int) or num_gpu < 0):
        raise InputError(f'num_gpu is {num_gpu!r}; it must be auto or a whole number from 0.')
    check_values('', opt, option_schema.GENERAL)
    check_file_name('name', opt['name'])
    for key in option_schema.SET_BY_COMMAND:
        if key in opt:
            raise InputError(f"'{key}' is set by the command, not by the option file; remove it.")
    for key, value in opt['path'].items():
        if not any(part in key for part in option_schema.NO_FOLDERS):
            raise InputError(f"Unknown option 'path.{key}'{did_you_mean(key, option_schema.PATH)}. A run's own folders "
                             'are called by `name`.')
        if value is not None and key not in option_schema.PATH and not key.startswith('strict_load'):
            check_type(f'path.{key}', value, str)
    check_values('path', opt['path'], option_schema.PATH)
    if not 0 <= (opt.get('manual_seed') or 0) <= MAX_SEED:
        raise InputError(f"'manual_seed' is {opt['manual_seed']}; it must be a whole number from 0 to {MAX_SEED}.")
    if is_train:
        require('logger', opt['logger'], ('print_freq', 'save_checkpoint_freq', 'use_tb_logger'), option_schema.LOGGER)
        check_values('logger', opt['logger'], option_schema.LOGGER)
        _check_wandb(opt['logger'])
        require('datasets', opt['datasets'], ('train',), ('val',))
        if opt.get('val') is not None:
            require('val', opt['val'], ('val_freq',), option_schema.VAL)
            check_value('val.val_freq', opt['val']['val_freq'], option_schema.VAL['val_freq'])
    if not opt['datasets']:
        raise InputError("'datasets' names no dataset; give one, such as test_1.")
    _check_phases(opt['datasets'], ('train', 'val') if is_train else ('test', 'val'))
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
        check_values(f'datasets.{phase}', dataset, _options_of_dataset(dataset['type']))
        check_file_name(f'datasets.{phase}.name', dataset['name'])
        if dataset['name'] in names:
            raise InputError(f"'datasets.{phase}.name' is {dataset['name']!r} like that of another; results are "
                             'told apart by name, so give each its own.')
        names.append(dataset['name'])


def _options_of_dataset(kind):
    if not is_registered(kind, DATASET_REGISTRY):
        return option_schema.DATASET
    known = is_known(kind, DATASET_REGISTRY)
    if known and kind == 'RealESRGANDataset':
        return {**option_schema.DATASET, **option_schema.REAL_ESRGAN_DATASET}
    return {**{key: option for key, option in option_schema.DATASET.items() if known or key in option_schema.LOADER},
            **options_of(DATASET_REGISTRY.get(kind), 'dataset_options')}


def check_options(opt: dict) -> None:
    """Check options that `pipeline.parsing` has completed: types, names, and for HCFlow models every key."""
    check_registered('model_type', opt['model_type'], MODEL_REGISTRY)
    num_gpu, visible = opt['num_gpu'], torch.cuda.device_count()
    # with a launcher it is the number of all processes, of which each may see but one GPU
    if num_gpu != 'auto' and num_gpu > visible and not (opt.get('dist') and visible):
        raise InputError(f'num_gpu is {num_gpu}, but this machine has {visible}; '
                         'set num_gpu: auto to use what is there.')
    for name in ('network_g', 'network_d'):
        if opt.get(name) is not None:
            check_component(name, opt[name], ARCH_REGISTRY)
    model = MODEL_REGISTRY.get(opt['model_type'])
    for block in ('general', 'train', 'val', 'logger'):
        place, given = ('', opt) if block == 'general' else (block, opt.get(block) or {})
        check_values(place, given, options_of(model, f'{block}_options'))
    if hasattr(model, 'check_options'):
        model.check_options(opt)
    for phase, dataset in opt['datasets'].items():
        check_registered(f'datasets.{phase}.type', dataset['type'], DATASET_REGISTRY)
        declared = options_of(DATASET_REGISTRY.get(dataset['type']), 'dataset_options')
        if declared:
            check_names(f'datasets.{phase}', dataset, {**option_schema.DATASET, **declared}, cutoff=option_schema.ALIKE)
        check_dataset(f'datasets.{phase}', dataset, opt)
    metrics = (opt.get('val') or {}).get('metrics') or {}
    check_type('val.metrics', metrics, dict, option_schema.VAL['metrics'].meaning)
    for name, metric in metrics.items():
        check_component(f'val.metrics.{name}', metric, METRIC_REGISTRY, extra=('better',))
        if not is_known(metric['type'], METRIC_REGISTRY):
            metric = {'better': metric.get('better')}  # the others may mean something else
        check_values(f'val.metrics.{name}', metric, option_schema.METRIC)


def _check_files_of_network(name, block):
    """Arguments such as BasicVSR's spynet_path name checkpoints, which BasicSR's networks load while they are built."""
    for key, path in block.items():
        if key.endswith('_path') and isinstance(path, str) and is_known(block['type'], ARCH_REGISTRY):
            with named(f'{name}.{key}'):
                load_file(path)


def check_checkpoints_exist(opt: dict) -> None:
    """Refuse names of checkpoints that are not there, before the folders of an earlier run are archived."""
    for name in ('network_g', 'network_d'):
        _check_files_of_network(name, opt.get(name) or {})
    if opt.get('auto_resume') or opt['path'].get('resume_state'):
        if opt['is_train'] and not opt['auto_resume']:
            _check_networks_of_state(opt)
        return  # the networks of the state are taken instead
    for key, path in opt['path'].items():
        if not key.startswith('pretrain_network') or path is None:
            continue
        if Path(path).is_dir():
            raise InputError(f"'path.{key}': checkpoint {path} is a folder; name a file, such as "
                             'experiments/NAME/models/net_g_latest.pth.')
        if not Path(path).is_file():
            raise InputError(f"'path.{key}': checkpoint {path} does not exist (looked from {Path.cwd()}).")


def _check_networks_of_state(opt):
    """They are looked for in the folder of this run, wherever the state is."""
    path, state = opt['path'], Path(opt['path']['resume_state'])
    network, beside = (Path(folder) / f'net_g_{state.stem}.pth' for folder in (
        path['models'], state.parent.parent / 'models'))
    if not network.is_file() and beside.is_file() and 'network_g' not in (path.get('ignore_resume_networks') or []):
        raise InputError(f"'path.resume_state': {state} belongs to another run than this one, which is called "
                         f"{opt['name']}: training goes on in its own folder, and {network} does not exist. Set name: "
                         f'{beside.parent.parent.name}, or copy {beside} there.')
