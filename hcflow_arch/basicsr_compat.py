"""Every repair that BasicSR 1.4.2 needs on today's Python packages and on machines without a GPU.

Importing this module makes `import basicsr` work; :func:`repair_pipelines` makes its training and testing pipelines
work. Each repair is applied only where it is needed and names the upstream issue or the place in BasicSR, so that it
can be deleted when BasicSR releases the fix.
"""
import importlib.util
import os
import random
import re
import subprocess
import sys
import types
from ast import literal_eval
from collections import OrderedDict
from copy import deepcopy

from .errors import InputError


def repair_torchvision_import() -> None:
    """Give `basicsr.data.degradations` the module it imports one function from.

    torchvision 0.17 removed `transforms.functional_tensor`; BasicSR 1.4.2 still imports `rgb_to_grayscale` from it
    (https://github.com/XPixelGroup/BasicSR/issues/533, 649 and 663; fixed on master, never released).
    """
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale
    module = types.ModuleType(name)
    module.rgb_to_grayscale = rgb_to_grayscale
    sys.modules[name] = module


repair_torchvision_import()


def repair_pipelines() -> None:
    """Put the repairs below in place of what `basicsr.train` and `basicsr.test` call."""
    import basicsr.data
    import basicsr.train
    import basicsr.utils.options

    from .resume_state import load_resume_state
    basicsr.utils.options.ordered_yaml = safe_ordered_yaml
    basicsr.utils.options.init_dist = init_dist
    basicsr.train.load_resume_state = load_resume_state
    basicsr.data.worker_init_fn = worker_init_fn


def worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """BasicSR's `worker_init_fn` (data/__init__.py) in processes that load data, which signals are not for: they reach
    the whole process group, and training needs its data to finish an iteration and save."""
    import signal

    import numpy as np
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    np.random.seed(num_workers * rank + worker_id + seed)
    random.seed(num_workers * rank + worker_id + seed)


def safe_ordered_yaml():
    """BasicSR's `ordered_yaml` (utils/options.py) with PyYAML's safe loader: its own can construct any object."""
    import yaml

    class Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
        pass

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
                           lambda loader, node: OrderedDict(loader.construct_pairs(node)))
    return Loader, getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


def read_option_file(path: str) -> dict:
    """Read an option file by the safe loader.

    Raises:
        InputError: The file is missing, unreadable, no YAML, or no option file.
    """
    import yaml
    try:
        with open(path, encoding='utf-8') as file:
            opt = yaml.load(file, Loader=safe_ordered_yaml()[0])
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is not text'
        raise InputError(f'Option file {path} cannot be read: {reason}.') from error
    except yaml.YAMLError as error:
        raise InputError(f'Option file {path} is not valid YAML: {" ".join(str(error).split())}') from error
    if not isinstance(opt, dict):
        raise InputError(f'Option file {path} holds no options; it must be a YAML mapping (name: …, model_type: …).')
    return opt


def apply_force_yml(entries: list[str], opt: dict) -> dict:
    """The options with `--force_yml` applied, after refusing what BasicSR (utils/options.py) would run as code.

    BasicSR hands keys to `exec` and lists to `eval`; only plain names and literals may get there.

    Args:
        entries: 'key:key=value', as on the command line.
        opt: The options as read from the file; the keys must lead to a block in it. Not changed.

    Raises:
        InputError: Not of that form, or a value that is not plain.
    """
    from basicsr.utils.options import _postprocess_yml_value
    opt = deepcopy(opt)
    for entry in entries:
        match = re.fullmatch(r'\s*([\w-]+(?::[\w-]+)*)\s*=([^=]*)', entry)
        if not match:
            raise InputError(f"--force_yml takes 'key:key=value', such as train:ema_decay=0.999; got {entry!r}.")
        *parents, key = match.group(1).split(':')
        block = opt
        for parent in parents:
            block = block.get(parent) if isinstance(block, dict) else None
            if not isinstance(block, dict):
                raise InputError(f'--force_yml {entry!r}: the option file has no block {parent!r}.')
        value = match.group(2).strip()
        try:
            if value.startswith('['):
                literal_eval(value)
            block[key] = _postprocess_yml_value(value)
        except (ValueError, SyntaxError) as error:
            raise InputError(f'--force_yml {entry!r}: {value} is not a plain value: a number, a word, or a list of '
                             'literals.') from error
    return opt


def init_dist(launcher: str, backend: str = 'nccl', **kwargs) -> None:
    """BasicSR's `init_dist` (utils/dist_util.py), also for processes without a GPU: gloo in place of nccl.

    BasicSR divides by the number of GPUs.
    """
    import torch
    from basicsr.utils import dist_util
    if torch.cuda.is_available():
        dist_util.init_dist(launcher, backend, **kwargs)
        return
    if launcher == 'slurm':
        nodes = os.environ['SLURM_NODELIST']
        first_node = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True,
                                    check=True).stdout.split()[0]
        os.environ.update(MASTER_ADDR=first_node, WORLD_SIZE=os.environ['SLURM_NTASKS'],
                          RANK=os.environ['SLURM_PROCID'])
        os.environ.setdefault('MASTER_PORT', str(kwargs.get('port') or 29500))
    torch.distributed.init_process_group('gloo')
