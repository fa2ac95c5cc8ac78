"""What BasicSR's `parse_options` (utils/options.py) does after it has read the file: ours is read before."""
import argparse
import os
import random
from collections.abc import Callable

import torch
from basicsr.utils import set_random_seed
from basicsr.utils.dist_util import get_dist_info

from .repairs import init_dist


def complete_options(opt: dict, args: argparse.Namespace, root_path: str) -> None:
    """Add what BasicSR's code expects beyond the file: flags, phases of datasets, folders.

    Args:
        opt: Checked for its structure (`check_structure`). It is changed.
        args: Arguments of the command.
        root_path: Folder in which experiments/ and results/ lie.
    """
    is_train = args.command == 'train'
    opt.update(is_train=is_train, dist=args.launcher != 'none', auto_resume=args.auto_resume, root_path=root_path,
               option_file=args.opt, force_yml=args.force_yml)
    if args.debug and not opt['name'].startswith('debug'):
        opt['name'] = f'debug_{opt["name"]}'
    if opt['num_gpu'] == 'auto':
        opt['num_gpu'] = torch.cuda.device_count()
    for phase, dataset in opt['datasets'].items():
        dataset['phase'] = phase.split('_')[0]
        if 'scale' in opt:
            dataset['scale'] = opt['scale']
        for key in ('dataroot_gt', 'dataroot_lq'):
            if isinstance(dataset.get(key), str):
                dataset[key] = os.path.expanduser(dataset[key])
            elif isinstance(dataset.get(key), list):
                dataset[key] = [os.path.expanduser(root) if isinstance(root, str) else root for root in dataset[key]]
    path = opt['path']
    for key, value in path.items():
        if isinstance(value, str) and ('resume_state' in key or 'pretrain_network' in key):
            path[key] = os.path.expanduser(value)
    root = os.path.join(root_path, 'experiments' if is_train else 'results', opt['name'])
    path.update(log=root, visualization=os.path.join(root, 'visualization'))
    if not is_train:
        path['results_root'] = root
        return
    path.update(experiments_root=root, models=os.path.join(root, 'models'),
                training_states=os.path.join(root, 'training_states'))
    if 'debug' in opt['name']:
        if opt.get('val') is not None:
            opt['val']['val_freq'] = 8
        opt['logger'].update(print_freq=1, save_checkpoint_freq=8)


def options_parser(opt: dict, args: argparse.Namespace) -> Callable:
    """A function in place of BasicSR's `parse_options`: it starts the other processes and the random generators."""
    def parse_options(root_path, is_train=True):
        if opt['dist']:
            init_dist(args.launcher, **(opt.get('dist_params') or {} if args.launcher == 'slurm' else {}))
        opt['rank'], opt['world_size'] = get_dist_info()
        if opt.get('manual_seed') is None:
            opt['manual_seed'] = random.randint(1, 10000)
        set_random_seed(opt['manual_seed'] + opt['rank'])
        return opt, args
    return parse_options
