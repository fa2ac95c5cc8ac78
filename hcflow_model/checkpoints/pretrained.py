"""Networks from checkpoints: the architecture is read from the file, or from the experiment it lies in."""
import json
import os
import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch.nn.modules.module import register_module_parameter_registration_hook

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.features.feature_net import is_registered
from hcflow_arch.weights.official import arguments_of, is_official_state_dict, load_official_state_dict
from hcflow_arch.weights.safe_load import load_file, weights_only
from hcflow_model.options.read import check_plain, read_option_file
from hcflow_model.utils.files import write_bytes
from hcflow_model.utils.plugins import load_plugins

from . import files as checkpoints
from .named import weights_path

PARAM_KEY_ADVICE = 'Name one of them by --param_key (in Python param_key).'
MAX_MESSAGE = 1500  # characters
MARGIN = 3  # a parameter may be registered again, as by weight normalization


def load_pretrained(path: str | os.PathLike, task: str | None = None, param_key: str = 'params_ema',
                    device: str | torch.device = 'cpu') -> HCFlowNet:
    """Rebuild a trained network.

    Args:
        path: A checkpoint (.pth or .safetensors), ours or a released one, the name of one (see :mod:`.named`), or an
            experiment's folder, whose newest checkpoint is taken.
        task: 'sr' or 'rescaling' where only such a network will do. Default: None, either.
        param_key: 'params_ema' (where there is none: 'params') or 'params'. Default: 'params_ema'.
        device: Where the network goes. Default: 'cpu'.

    Returns:
        HCFlowNet in eval mode.

    Raises:
        InputError: The file is missing, broken, of another network or task.
    """
    checkpoint = read_checkpoint(find_checkpoint(path), param_key)
    net = build(checkpoint)
    if task not in (None, net.task):
        other = {'sr': 'hcflow upscale', 'rescaling': 'hcflow downscale and hcflow restore'}[net.task]
        raise InputError(f'{checkpoint.path} is a checkpoint for task {net.task!r}, here one for {task!r} is needed; '
                         f'for this one use {other}.')
    return net.to(device)


class Checkpoint(NamedTuple):
    """What a checkpoint file holds of a network.

    Attributes:
        path: The file.
        arguments: Of HCFlowNet.
        state_dict: Tensors by our names.
        key: 'params_ema' or 'params', where they were found; None: the file holds nothing else.
        has_ema: Whether it holds averaged weights.
        iteration: None where none is stored.
        released: Whether its names are those of a released checkpoint.
    """
    path: Path
    arguments: dict
    state_dict: dict[str, torch.Tensor]
    key: str | None
    has_ema: bool
    iteration: int | None
    released: bool


def build(checkpoint: Checkpoint) -> HCFlowNet:
    """The network of a checkpoint, in eval mode, on the CPU.

    Raises:
        InputError: Arguments and weights do not fit each other.
    """
    path, state_dict = checkpoint.path, checkpoint.state_dict
    feature_nets = checkpoint.arguments.get('feature_net')
    if any(map(is_registered, feature_nets if isinstance(feature_nets, list) else [feature_nets])):
        load_plugins([])  # as in training: whose architectures it may name
    try:
        with weights_only(), _no_larger_than(state_dict):
            net = HCFlowNet(**checkpoint.arguments)
    except TypeError as error:  # arguments of a later version, or what is none
        raise InputError(f'{path} asks for a network that this version does not have: {_short(error)}.') from error
    except InputError as error:
        raise InputError(f'{path}: {_short(error)}') from error
    net.compile_blocks(False)  # that was a wish for the machine it was trained on
    checkpoints.check_names_and_shapes(net, state_dict, path)
    net.load_state_dict(state_dict)
    return net.eval()


def _short(error):
    """Its message, which may repeat what the file says, at any length."""
    text = str(error)
    return text if len(text) <= MAX_MESSAGE else f'{text[:MAX_MESSAGE]} …'


@contextmanager
def _no_larger_than(state_dict):
    """Ends the construction of a network of many more weights than a checkpoint holds: a few bytes ask for any size."""
    most = [MARGIN * len(state_dict), MARGIN * sum(value.numel() for value in state_dict.values())]
    seen, thread = [0, 0], threading.get_ident()

    def count(module, name, parameter):
        if parameter is None or threading.get_ident() != thread:
            return
        seen[0] += 1
        seen[1] += parameter.numel()
        if seen[0] > most[0] or seen[1] > most[1]:
            raise InputError(f'it asks for a network of many more weights than the {len(state_dict)} tensors that it '
                             'holds.')

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def save_pretrained(net: HCFlowNet, path: str | os.PathLike) -> None:
    """Save a network in one file that :func:`load_pretrained` needs nothing beside of.

    Args:
        net: The network.
        path: A name that ends in .safetensors (tensors alone, for other tools too) or .pth (BasicSR's form).

    Raises:
        InputError: Another ending, or the file cannot be written.
    """
    path = Path(path)
    network = {'type': type(net).__name__, **net.arguments}
    state_dict = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if path.suffix == '.pth':
        checkpoints.atomic_save({'params': state_dict, 'network_g': network}, path)
    elif path.suffix == '.safetensors':
        # other tools look at 'format'
        write_bytes(path, save(state_dict, {'format': 'pt', 'network_g': json.dumps(network)}))
    else:
        raise InputError(f'{path}: a network is saved as .safetensors or .pth; give a name that ends so.')


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The checkpoint that a path or a name means: of an experiment's folder that of the latest iteration.

    Raises:
        InputError: There is none.
    """
    path = weights_path(path)
    if not os.path.isdir(path):
        return path
    folder = path / 'models' if os.path.isdir(path / 'models') else path
    with os.scandir(folder) as entries:
        files = sorted((Path(entry) for entry in entries
                        if re.fullmatch(r'net_g_.*\.pth', entry.name) and entry.is_file()), key=_number)
    if not files:
        raise InputError(f'Folder {path} has no checkpoint (models/net_g_*.pth); give a checkpoint or the folder of an '
                         'experiment, such as experiments/NAME.')
    latest = folder / 'net_g_latest.pth'
    return latest if latest in files and not _is_newer(files[-1], latest) else files[-1]


def _number(file):
    digits = file.stem.removeprefix('net_g_')
    return int(digits) if digits.isdecimal() else -1


def _is_newer(numbered, latest):
    """Whether a numbered checkpoint is of a later iteration than net_g_latest.pth, which an earlier end may have left.

    Where that does not say which iteration it is of (BasicSR's own), the times of the files decide.
    """
    try:
        iteration = checkpoints.iteration_of(load_file(latest, lazily=True))
    except InputError:
        return True
    if iteration is None:
        return numbered.stat().st_mtime_ns > latest.stat().st_mtime_ns
    return _number(numbered) > iteration


def read_checkpoint(path: Path, param_key: str) -> Checkpoint:
    """Read a checkpoint file.

    Raises:
        InputError: It is missing, broken, or of another network.
    """
    if path.suffix == '.onnx':
        raise InputError(f'{path} is an ONNX network, which hcflow upscale, downscale and restore run; here the '
                         'checkpoint is needed that it was exported from.')
    content = load_file(path)
    state_dict, key = checkpoints.select_state_dict(content, path, param_key, PARAM_KEY_ADVICE)
    released = is_official_state_dict(state_dict)
    try:
        if released:
            state_dict, arguments = load_official_state_dict(state_dict)
        else:
            arguments = _stored_arguments(content, path)
            arguments = arguments_of(state_dict) if arguments is None else arguments
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    return Checkpoint(path, arguments, state_dict, key, key is not None and 'params_ema' in content,
                      checkpoints.iteration_of(content) if key else None, released)


def _stored_arguments(content, path):
    """Arguments of HCFlowNet that are stored beside the weights, or in the option file of their experiment."""
    network = content['network_g'] if 'network_g' in content else _network_of_experiment(path)
    if network is None:
        return None
    try:
        check_plain(network, 'network_g')
    except RecursionError as error:
        raise InputError('network_g is nested too deeply.') from error
    network = dict(network) if isinstance(network, Mapping) else {'type': network}
    if (kind := network.pop('type', None)) != 'HCFlowNet':
        raise InputError(f'it holds weights of another network, {kind!r}; here HCFlowNet is needed.')
    return network


def _network_of_experiment(path: Path) -> Mapping | None:
    """network_g of the option file that BasicSR copied into the experiment of a checkpoint; None if there is none."""
    folder = Path(os.path.abspath(path)).parent
    for file in sorted(folder.parent.glob('*.yml')) if folder.name == 'models' else ():
        network = read_option_file(str(file)).get('network_g')
        if isinstance(network, Mapping):
            return network
    return None

