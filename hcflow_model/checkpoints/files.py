"""Checkpoints and training states: safe to load, and never half-written."""
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from hcflow_arch import InputError, load_official_state_dict
from hcflow_arch.weights.official import is_official_state_dict
from hcflow_arch.weights.safe_load import load_file
from hcflow_model.utils.files import whole_file

MAX_KEYS = 10  # that a message names
MAX_NAME = 255  # characters of a tensor's name
MAX_REPEATED = 2**29  # bytes of tensors that repeat what the file holds, as torch.zeros(1).expand(9) does
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16,
          torch.int32, torch.int64)


def atomic_save(content: object, path: str | os.PathLike) -> None:
    """torch.save beside the final name, then rename: a kill or a full disk leaves what was there before.

    Raises:
        InputError: The file cannot be written; says where and why.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have moved it away
        with whole_file(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise InputError(f'Cannot save {path}: {error}. Free some space or make the folder writable; '
                         'the checkpoints before it are whole.') from error


def select_state_dict(content: Mapping, path: str | os.PathLike, param_key: str | None,
                      advice: str = 'Set path.param_key_g (or param_key_d) to one of them.'
                      ) -> tuple[dict[str, torch.Tensor], str | None]:
    """The state dict in a checkpoint: under its key in BasicSR's files, all of it in bare (released) ones.

    Args:
        content: Of the file.
        path: The file, for messages.
        param_key: 'params_ema' (where there is none: 'params') or 'params'.
        advice: What to do where the key is not there. Default: for option files.

    Returns:
        State dict without `module.` prefixes, of dense tensors on the CPU, and the key it was found under (None: bare).

    Raises:
        InputError: There is no such state dict.
    """
    if {'iter', 'optimizers'} <= content.keys() and 'params' not in content:
        raise InputError(f'Checkpoint {path} is a training state, which holds no networks; take '
                         f'models/net_g_{iteration_of(content) or "ITERATION"}.pth.')
    nested = [key for key, value in content.items() if isinstance(value, Mapping)]
    if nested:
        if param_key == 'params_ema' and param_key not in nested and 'params' in nested:
            param_key = 'params'  # no EMA inside
        if param_key not in nested:
            raise InputError(f'Checkpoint {path} has no {param_key!r}; it has '
                             f'{[str(key)[:MAX_NAME] for key in nested[:MAX_KEYS]]}. {advice}')
        trained = content['params'] if 'params' in nested else {}
        content = _check_tensors(content[param_key], path)
        if param_key == 'params_ema':  # an average by BasicSR's SRModel has parameters alone: flags as at its start
            content = {name: trained.get(name, value) if name.endswith('.initialized') else value
                       for name, value in content.items()}
    else:
        param_key = None
    content = _check_tensors(content, path)
    return {name.removeprefix('module.'): value for name, value in content.items()}, param_key


def _check_tensors(content, path):
    """The state dict, with tensors that are nothing but their values: dense, on the CPU, in the file."""
    bad = [f'{str(name)[:MAX_NAME]} is {problem}' for name, value in content.items()
           if (problem := _problem_of(name, value))]
    if bad or not content:
        raise InputError(f'Checkpoint {path} is not a state dict of tensors ({_first(bad) or "it is empty"}).')
    tensors = {name: torch.Tensor.detach(value) for name, value in content.items()}  # without attributes of their own
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors.values()}
    size = sum(value.nbytes for value in tensors.values())
    if size > max(sum(held.values()), MAX_REPEATED):
        raise InputError(f'Checkpoint {path} is not a state dict of tensors (few values, repeated up to '
                         f'{size} bytes).')
    return tensors


def _problem_of(name, value):
    if not isinstance(name, str) or len(name) > MAX_NAME:
        return f'no name, which is text of up to {MAX_NAME} characters'
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        return f'a {type(value).__name__}'
    value = torch.Tensor.detach(value)
    if value.is_nested or value.layout != torch.strided or value.is_quantized or value.device.type != 'cpu':
        return 'a nested tensor' if value.is_nested else 'a quantized tensor' if value.is_quantized else (
            f'a tensor on {value.device}, {value.layout}')
    return None if value.dtype in DTYPES else f'a tensor of {value.dtype}'


def iteration_of(content: Mapping) -> int | None:
    """The iteration that a checkpoint names; None where it names none, or what is none."""
    value = content.get('iter')
    return value if type(value) is int and 0 <= value < 2**63 else None


def read_network_weights(path: str | os.PathLike, param_key: str | None) -> tuple[dict, str | None]:
    """State dict of a network in our naming, from our own or a released checkpoint, and the key it was under."""
    state_dict, param_key = select_state_dict(load_file(path), path, param_key)
    if is_official_state_dict(state_dict):
        state_dict, _ = load_official_state_dict(state_dict)
    return state_dict, param_key


def check_names_and_shapes(net: torch.nn.Module, state_dict: Mapping, path: str | os.PathLike,
                           advice: str = '') -> None:
    """Refuse a state dict that does not fit the network, saying what is missing, extra or of another shape.

    Args:
        net: The network.
        state_dict: Tensors by name.
        path: Its file, for the message.
        advice: What else can be done where some of it fits. Default: nothing.
    """
    wanted = net.state_dict()
    if not wanted.keys() & state_dict.keys():
        raise InputError(f'Checkpoint {path} does not fit {type(net).__name__}: none of its names is one of this '
                         f'network ({_first(list(state_dict))}; needed are {_first(list(wanted))}). Is it of another '
                         'network? Of an experiment, net_g_*.pth are generators and net_d_*.pth discriminators.')
    missing = [name for name in wanted if name not in state_dict]
    extra = [name for name in state_dict if name not in wanted]
    shapes = [f'{name} {tuple(state_dict[name].shape)}, network {tuple(wanted[name].shape)}' for name in wanted
              if name in state_dict and state_dict[name].shape != wanted[name].shape]
    if not (missing or extra or shapes):
        return
    problems = [f'{len(names)} {what}: {_first(names)}' for names, what in
                ((missing, 'missing'), (extra, 'too many'), (shapes, 'of another shape')) if names]
    raise InputError(f'Checkpoint {path} does not fit {type(net).__name__}: {"; ".join(problems)}. '
                     f'Match the network options (scale first of all) to the checkpoint{advice}.')


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], path: str | os.PathLike) -> None:
    """Refuse weights that are NaN or infinite: nothing that is computed with them is finite.

    Args:
        weights: Name and tensor of each. Not of buffers: the masks of some networks are infinite.
        path: Their file, for the message.
    """
    bad = [name for name, value in weights if not value.isfinite().all()]
    if bad:
        raise InputError(f'Checkpoint {path} has weights that are NaN or infinite in {len(bad)} tensors '
                         f'({_first(bad)}); take an older one.')


def load_network(model, net: torch.nn.Module, load_path: str | os.PathLike, strict: bool = True,
                 param_key: str | None = 'params') -> None:
    """In place of BasicSR's method (models/base_model.py): also loads our own checkpoints and released ones.

    Args:
        model (BaseModel): Of which this is a method.
        net: The network, also in DistributedDataParallel.
        load_path: The checkpoint.
        strict: Refuse a checkpoint whose names or shapes differ. Default: True.
        param_key: Where the weights are in the file, if it has several state dicts. Default: 'params'.

    Raises:
        InputError: The file cannot be read, or it does not fit.
    """
    from basicsr.utils import get_root_logger  # here: `hcflow info` needs no BasicSR
    net = model.get_bare_model(net)
    state_dict, found_key = read_network_weights(load_path, param_key or 'params')
    key = 'bare state dict' if found_key is None else f'param key: [{found_key}]'
    get_root_logger().info(f'Loading {type(net).__name__} model from {load_path}, with {key}.')
    check_task(net, state_dict, load_path)
    check_finite(((name, state_dict[name]) for name, _ in net.named_parameters() if name in state_dict), load_path)
    if strict:
        check_names_and_shapes(net, state_dict, load_path,
                               ', or load what fits of it by path.strict_load_g (or _d): false')
    else:
        model._print_different_keys_loading(net, state_dict, strict)
    net.load_state_dict(state_dict, strict=strict)


def check_task(net: torch.nn.Module, state_dict: Mapping, path: str | os.PathLike) -> None:
    """Refuse a rescaling checkpoint for super-resolution and the reverse: what they share means something else."""
    wanted, got = ('rescaling' if any(name.endswith('haar_weights') for name in names) else 'sr'
                   for names in (net.state_dict(), state_dict))
    if wanted != got and any(name.startswith('levels.') for name in state_dict):
        raise InputError(f'Checkpoint {path} is a checkpoint for task {got!r}, the network is for {wanted!r}; take the '
                         'checkpoint or the option file of the other task.')


def _first(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', …' if len(names) > 3 else '')


def random_states() -> dict:
    """States of all random generators, as tensors and plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        'python': random.getstate(),
        'numpy': (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        'torch': torch.get_rng_state(),
        'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: Mapping) -> None:
    """Restore what :func:`random_states` gave; CUDA only where the number of GPUs is the same."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states['numpy']
    if not 0 <= position <= len(keys):  # NumPy would read beyond them
        raise ValueError(f'position {position}')
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states['torch'])
    if torch.cuda.is_available() and len(states['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states['cuda'])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, all random generators start from a seed (below 2**32); at its end they are as they were before."""
    states = random_states()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        set_random_states(states)
