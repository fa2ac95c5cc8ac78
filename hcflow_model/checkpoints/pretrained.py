"""Networks from checkpoints: the architecture is read from the file, or from the experiment it lies in."""
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.weights.official import arguments_of, is_official_state_dict, load_official_state_dict
from hcflow_arch.weights.safe_load import import_safetensors, load_file
from hcflow_model.options.read import read_option_file
from hcflow_model.utils.files import write_bytes

from . import files as checkpoints
from .named import weights_path


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
    path = find_checkpoint(path)
    arguments, state_dict = read_checkpoint(path, param_key)
    try:
        net = HCFlowNet(**arguments)
    except TypeError as error:  # arguments of a later version, or what is none
        raise InputError(f'{path} asks for a network that this version does not have: {error}.') from error
    net.compile_blocks(False)  # that was a wish for the machine it was trained on
    if task not in (None, net.task):
        other = {'sr': 'hcflow upscale', 'rescaling': 'hcflow downscale and hcflow restore'}[net.task]
        raise InputError(f'{path} is a checkpoint for task {net.task!r}, here one for {task!r} is needed; for this one '
                         f'use {other}.')
    checkpoints.check_names_and_shapes(net, state_dict, path)
    net.load_state_dict(state_dict)
    return net.eval().to(device)


def save_pretrained(net: HCFlowNet, path: str | os.PathLike) -> None:
    """Save a network in one file that :func:`load_pretrained` needs nothing beside of.

    Args:
        net: The network.
        path: A name that ends in .safetensors (tensors alone, for other tools too) or .pth (BasicSR's form).

    Raises:
        InputError: Another ending, safetensors is not installed, or the file cannot be written.
    """
    path = Path(path)
    network = {'type': type(net).__name__, **net.arguments}
    state_dict = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if path.suffix == '.pth':
        checkpoints.atomic_save({'params': state_dict, 'network_g': network}, path)
    elif path.suffix == '.safetensors':
        import_safetensors()
        from safetensors.torch import save
        # other tools look at 'format'
        write_bytes(path, save(state_dict, {'format': 'pt', 'network_g': json.dumps(network)}))
    else:
        raise InputError(f'{path}: a network is saved as .safetensors or .pth; give a name that ends so.')


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The checkpoint that a path or a name means: of an experiment's folder net_g_latest.pth, else the newest.

    Raises:
        InputError: There is none.
    """
    path = weights_path(path)
    if not path.is_dir():
        return path
    files = sorted((path / 'models' if (path / 'models').is_dir() else path).glob('net_g_*.pth'),
                   key=lambda file: (file.stem == 'net_g_latest', *_numbers(file.stem)))
    if not files:
        raise InputError(f'Folder {path} has no checkpoint (models/net_g_*.pth); give a checkpoint or the folder of an '
                         'experiment, such as experiments/NAME.')
    return files[-1]


def read_checkpoint(path: Path, param_key: str) -> tuple[dict, dict]:
    """Constructor arguments of HCFlowNet, and its state dict."""
    content = load_file(path)
    state_dict, _ = checkpoints.select_state_dict(content, path, param_key)
    if is_official_state_dict(state_dict):
        state_dict, arguments = load_official_state_dict(state_dict)
        return arguments, state_dict
    network = content.get('network_g') or _network_of_experiment(path)
    if network is None:
        try:
            return arguments_of(state_dict), state_dict
        except InputError as error:
            raise InputError(f'{path}: {error}') from error
    network = dict(network) if isinstance(network, Mapping) else {'type': network}
    if network.pop('type', None) != 'HCFlowNet':
        raise InputError(f'{path} holds weights of another network, {network!r}; here HCFlowNet is needed.')
    return network, state_dict


def _network_of_experiment(path: Path) -> Mapping | None:
    """network_g of the option file that BasicSR copied into the experiment of a checkpoint; None if there is none."""
    for file in sorted(path.parent.parent.glob('*.yml')):
        network = read_option_file(str(file)).get('network_g')
        if isinstance(network, Mapping):
            return network
    return None


def _numbers(stem: str) -> tuple[int]:
    digits = stem.rpartition('_')[2]
    return (int(digits),) if digits.isdigit() else (-1,)
