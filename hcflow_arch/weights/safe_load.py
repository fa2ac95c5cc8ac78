"""Loading checkpoint files safely."""
import json
import os
import pickle
import stat
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import safetensors
import torch

from hcflow_arch.errors import InputError

SWITCHES = ('TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')  # PyTorch's


MAX_EXPANSION = 4  # PyTorch stores tensors uncompressed, so a file holds about as many bytes as it has


def load_file(path: str | os.PathLike, lazily: bool = False) -> dict:
    """Load a checkpoint or training state onto the CPU with `weights_only=True`: nothing in it can run code.

    A .safetensors file holds only tensors; its metadata hold the arguments of the network.

    Args:
        path: A regular file: a FIFO would wait for a writer, and a device may never end.
        lazily: Read tensors when they are used, for a look at what is beside them. Default: False.

    Raises:
        InputError: The file is missing, unreadable, broken, or holds more than tensors and plain values.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError as error:
        raise InputError(f'Checkpoint {path} does not exist. Check its path.') from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise InputError(f'Checkpoint {path} cannot be read: {getattr(error, "strerror", None) or error}.') from error
    if not regular:
        raise InputError(f'Checkpoint {path} cannot be read: it is no regular file.')
    if str(path).endswith('.safetensors'):
        return load_safetensors(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as file:
                if sum(part.file_size for part in file.infolist()) > MAX_EXPANSION * os.path.getsize(path):
                    raise ValueError('it expands to many times its size')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of tensors that no checkpoint has, and that are refused
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=lazily and zipped)
    except PermissionError as error:
        raise InputError(f'Checkpoint {path} cannot be read: {error.strerror}. Give yourself access to it.') from error
    except pickle.UnpicklingError as error:
        raise unsafe_checkpoint(path) from error
    except Exception as error:  # a broken file can make the reader raise anything
        reason = (str(error) or type(error).__name__).split('\n')[0]
        raise InputError(f'Checkpoint {path} cannot be read ({reason}). It is broken or not a checkpoint.') from error
    if not isinstance(content, Mapping):
        raise InputError(f'{path} holds a {type(content).__name__}, not a state dict.')
    return content


def load_safetensors(path: str | os.PathLike) -> dict:
    """{'params': state dict} of a .safetensors file, with 'network_g' if the file has it.

    Raises:
        InputError: The file is broken.
    """
    try:
        with safetensors.safe_open(path, framework='pt') as file:
            metadata = file.metadata() or {}
            content = {'params': {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118  (no mapping)
        if 'network_g' in metadata:
            content['network_g'] = json.loads(metadata['network_g'])
    except Exception as error:  # its own class, and what broken JSON raises
        raise InputError(f'Checkpoint {path} cannot be read ({error}). It is broken or not a checkpoint.') from error
    return content


@contextmanager
def weights_only() -> Iterator[None]:
    """Context in which each `torch.load` of this process and of its child processes refuses pickled code.

    BasicSR, torchvision (VGG) and lpips call `torch.load` with `weights_only=False`, or without it, which depends on
    PyTorch's version and on TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD. PyTorch's own switch overrides them all.
    """
    before = {name: os.environ.pop(name, None) for name in SWITCHES}
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def load_problem(error: Exception) -> str:
    """The message of a loading error, without PyTorch's advice to load unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return 'it holds Python objects, which are never loaded, or is no checkpoint'
    return f'{type(error).__name__}: {error}'


def unsafe_checkpoint(path: str | os.PathLike) -> InputError:
    """The error for a file with more in it than PyTorch's safe loader accepts."""
    return InputError(f'{path} is not a safe checkpoint: it holds Python objects, which are never loaded, or is no '
                      'checkpoint at all. Save bare state dicts with torch.save.')
