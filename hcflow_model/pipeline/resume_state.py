"""Which training state a run goes on from: BasicSR's `load_resume_state`, for any device and for broken files."""
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_file
from hcflow_model.checkpoints.training_state import check_fits, is_count

from .sampler import EpochSampler


class _Chosen:
    model = None  # what is trained
    state = None  # what BasicSR was given: it reads epoch and iteration from it after the model is built


def load_resume_state(opt: dict) -> dict | None:
    """In place of BasicSR's (train.py), which asks CUDA for its device before it looks whether there is one, and takes
    the newest state whether it can be read or not.

    With `auto_resume` the newest state counts that can be read together with the networks it needs, and that fits (see
    :func:`build_model`); newer ones are set aside as `N.state.unusable` with one warning. States are loaded onto the
    CPU; optimizers move theirs to where the parameters are.

    Raises:
        InputError: The state that is asked for cannot be used, or there are states but none that can; processes see
            different states.
    """
    from basicsr.utils import check_resume
    _Chosen.state = None
    path = opt['path'].get('resume_state')
    if opt['auto_resume']:
        state, found = _newest_usable(opt)
        _check_processes_agree(opt, -1 if state is None else state['iter'])
        if state is not None:
            path = opt['path']['resume_state'] = str(found)
    else:
        state = None
    if not path:
        return None
    if state is None:
        state = _read_state(path)
    if 'gan_opt' in opt.get('train', {}) and len(state['optimizers']) == 1:
        raise InputError(f'{path} was saved by a training without a discriminator, so none can go on from there. Start '
                         'from its network by path.pretrain_network_g, under a new name, or remove train.gan_opt, '
                         'network_d and train.optim_d.')
    check_resume(opt, state['iter'])
    _Chosen.state = state
    return state


def build_model(opt: dict):
    """In place of BasicSR's (models/__init__.py) in training: with `auto_resume`, a state that does not fit the model
    gives way to the newest one that does.

    Raises:
        InputError: The state that is asked for does not fit, or none does.
    """
    from basicsr.models import build_model
    from basicsr.utils import check_resume
    model, state = build_model(opt), _Chosen.state
    try:
        if state is not None:
            check_fits(model, state)
    except InputError:
        if not opt['auto_resume']:
            raise
        older, path = _newest_usable(opt, functools.partial(check_fits, model))
        _check_processes_agree(opt, older['iter'])
        opt['path']['resume_state'] = str(path)
        check_resume(opt, older['iter'])
        state.clear()
        state.update(older)
        model = build_model(opt)
    if state is not None and EpochSampler.newest:
        _leave_epochs(opt, state, EpochSampler.newest)
    _Chosen.model = model
    return model


def _leave_epochs(opt, state, sampler):
    """BasicSR trains a number of epochs that follows from the dataset. Where that has grown, or the batch has shrunk,
    the epoch of a state may lie beyond them, and nothing would be trained: begin as early as is needed."""
    dataset_opt, total = opt['datasets']['train'], int(opt['train']['total_iter'])
    batch = dataset_opt['batch_size_per_gpu']
    images = len(sampler.dataset) * dataset_opt.get('dataset_enlarge_ratio', 1)
    epochs = math.ceil(total / math.ceil(images / (batch * opt['world_size'])))
    if state['epoch'] > epochs and state['iter'] < total:
        batch *= 1 if opt['dist'] else max(opt['num_gpu'], 1)
        needed = math.ceil((total - state['iter']) / (sampler.num_samples // batch))
        state['epoch'] = max(epochs + 1 - needed, 0)
        state.pop('taken', None)  # of an epoch of other images


@contextmanager
def saved_on_error() -> Iterator[None]:
    """Within it an error that ends training loses no iteration, where the model can save what it has.

    A signal is no error: the model stops by itself.
    """
    _Chosen.model = None
    try:
        yield
    except Exception:
        if hasattr(_Chosen.model, 'save_after_error'):
            _Chosen.model.save_after_error()
        raise
    finally:
        _Chosen.model = None


def _newest_usable(opt, check: Callable[[dict], None] = lambda state: None):
    """(state, path) of the newest state that passes a check and loads with its networks; (None, None) where there is
    no state at all."""
    folder = Path(opt['path']['training_states'])
    names = os.listdir(folder) if folder.exists() else []  # unlike glob(), it does not take a closed folder as empty
    paths = sorted((folder / name for name in names if re.fullmatch(r'\d+\.state', name)),
                   key=lambda path: -int(path.stem))
    problems = []
    for path in paths:
        try:
            state = _read_state(path)
            if state['iter'] != int(path.stem):
                raise InputError(f'{path} is a state of iteration {state["iter"]}: it was renamed or is damaged.')
            check(state)
            _check_networks(opt, path.stem)
        except InputError as error:
            problems.append(str(error))
            continue
        if problems and opt.get('rank', 0) == 0:
            for newer in paths[:len(problems)]:  # its networks will be written anew and would not belong to it
                newer.rename(f'{newer}.unusable')
            # not by the logger, which has no file yet and would never get one
            sys.stderr.write(f'basicsr: warning: {len(problems)} newer training state(s) cannot be used and are now '
                             f'called *.state.unusable ({problems[0]}) Training goes on from {path}.\n')
        return state, path
    if problems:
        raise InputError(f'--auto_resume: none of the {len(paths)} training states in {folder} can be used. The '
                         f'newest: {problems[0]} To start anew, leave out --auto_resume: the old experiment is kept '
                         'under another name.')
    return None, None


def _read_state(path):
    state = load_file(path)
    missing = [key for key in ('iter', 'epoch', 'optimizers', 'schedulers') if key not in state]
    if missing:
        raise InputError(f'{path} is not a training state of BasicSR: {", ".join(missing)} is missing.')
    for keys, kind, what in ((('iter', 'epoch'), int, 'whole number'), (('optimizers', 'schedulers'), list, 'list')):
        for key in keys:
            if not isinstance(state[key], kind) or (kind is int and not is_count(state[key])):
                raise InputError(f'{path} is not a training state of BasicSR: its {key} is no {what}.')
    return state


def _check_networks(opt, stem):
    """Read the networks that BasicSR (utils/misc.py check_resume) will load with a state.

    Models of other packages may have networks that they never save, such as a teacher.
    """
    models = Path(opt['path']['models'])
    left_out = opt['path'].get('ignore_resume_networks') or []
    for network in [key for key in opt if key.startswith('network_') and key not in left_out]:
        label = f'net_{network.removeprefix("network_")}'
        if any(models.glob(f'{label}_*.pth')):
            path = models / f'{label}_{stem}.pth'
            weights = [value for value in load_file(path).values() if isinstance(value, Mapping)]
            nan = [name for values in weights for name, value in values.items()
                   if torch.is_tensor(value) and value.isnan().any()]
            if nan:
                raise InputError(f'Checkpoint {path} has weights that are NaN in {len(nan)} tensors, such as {nan[0]}.')


def _check_processes_agree(opt, iteration):
    """States lie where all processes see them, or training would begin at different iterations."""
    import torch.distributed as dist
    if not opt.get('dist'):
        return
    found = [None] * opt['world_size']
    dist.all_gather_object(found, iteration)
    if len(set(found)) > 1:
        raise InputError(f'--auto_resume: the processes see training states of different iterations ({found}; -1: '
                         f'none). {opt["path"]["training_states"]} must be a folder that all machines share.')
