"""Every repair that BasicSR 1.4.2 needs on today's Python packages and on machines without a GPU.

`hcflow_arch.basicsr_import` makes `import basicsr` work; these make its training and testing pipelines work. `run.py`
puts them in place for the time of a command. Each names the upstream issue or the place in BasicSR, so that it can be
deleted when BasicSR releases the fix.
"""
import functools
import logging
import os
import pickle
import random
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import basicsr.utils
import numpy as np
import torch
from basicsr.utils import FileClient, dist_util

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.weights.safe_load import unsafe_checkpoint
from hcflow_model.checkpoints import files as checkpoints
from hcflow_model.data.lmdb import LmdbBackend
from hcflow_model.images.files import write_image
from hcflow_model.utils.files import file_name

from .stopping import SIGNALS

LAUNCHED_WITH = {'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
                 'slurm': ('SLURM_NODELIST', 'SLURM_NTASKS', 'SLURM_PROCID')}


@contextmanager
def replaced(replacements: Iterable[tuple[object, str, object]]) -> Iterator[None]:
    """Give attributes of modules and classes other values; at the end, also after an error, they have theirs again.

    Args:
        replacements: (module or class, name of the attribute, value).
    """
    before = []
    try:
        for owner, name, value in replacements:
            before.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def worker_init_fn(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """BasicSR's `worker_init_fn` (data/__init__.py) for a process that loads data.

    It ignores signals: they reach the whole process group, and training needs its data to finish an iteration and save.
    BasicSR seeds Python and NumPy by numbers that stay the same, so workers, which start in every epoch, would repeat
    its crops and flips. PyTorch's seed differs in every epoch and worker.
    """
    FileClient._backends = backends()  # a worker that was not forked has BasicSR's own
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    words = np.random.SeedSequence([torch.initial_seed(), rank, seed]).generate_state(4, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(words[1:3].view(np.uint32))
    torch.manual_seed(int(words[3]))


def get_root_logger(*args, **kwargs) -> logging.Logger:
    """BasicSR's `get_root_logger` (utils/logger.py), whose file takes every text, also where the locale is ASCII."""
    logger = basicsr.utils.get_root_logger(*args, **kwargs)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.reconfigure(encoding='utf-8')
    return logger


def imwrite(img: np.ndarray, file_path: str, params: list | None = None, auto_mkdir: bool = True) -> None:
    """BasicSR's `imwrite` (utils/img_util.py) for every name: OpenCV ends the process at bytes that are no UTF-8."""
    folder, name = os.path.split(file_path)
    write_image(os.path.join(folder, file_name(*os.path.splitext(name))), img)


def backends() -> dict[str, type]:
    """BasicSR's backends of `io_backend`, with that for LMDBs which datasets of one process share, and without that for
    memcached, which imports a module from a folder that an option names."""
    return {kind: backend for kind, backend in FileClient._backends.items() if kind != 'memcached'} | {
        'lmdb': LmdbBackend}


def name_checkpoint(load_network: Callable) -> Callable:
    """BasicSR's `load_network` (models/base_model.py): errors are one line with the file, and HCFlowNet in any model
    takes the checkpoints that HCFlowModel takes."""
    @functools.wraps(load_network)
    def load(self, net, load_path, strict=True, param_key='params'):
        if isinstance(self.get_bare_model(net), HCFlowNet):
            return checkpoints.load_network(self, net, load_path, strict, param_key)
        try:
            load_network(self, net, load_path, strict, param_key)
        except pickle.UnpicklingError as error:
            raise unsafe_checkpoint(load_path) from error
        except KeyError as error:
            raise InputError(f'Checkpoint {load_path} has no {error}. Set path.param_key_g (or _d) to the key of its '
                             'weights, or to ~ if the file holds nothing but weights.') from error
        except (RuntimeError, TypeError, AttributeError, EOFError, OSError) as error:  # of PyTorch
            reason = f'{type(error).__name__}: {error}'[:300]
            raise InputError(f'Checkpoint {load_path} does not fit {type(net).__name__} ({reason}).') from error
    return load


def init_dist(launcher: str, backend: str = 'nccl', **kwargs) -> None:
    """BasicSR's `init_dist` (utils/dist_util.py), also for processes without a GPU: gloo in place of nccl.

    BasicSR divides by the number of GPUs.
    """
    missing = [name for name in LAUNCHED_WITH.get(launcher, ()) if name not in os.environ]
    if missing:
        command = {'pytorch': 'torchrun --nproc_per_node=N $(which basicsr) train -opt FILE', 'slurm': 'srun'}[launcher]
        raise InputError(f'--launcher {launcher} needs {", ".join(missing)} in the environment; start it by {command}, '
                         'or leave the launcher out.')
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
