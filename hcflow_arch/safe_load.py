"""Reading checkpoint files without trusting them."""
import os
import pickle
from collections.abc import Mapping

import torch

from .errors import InputError


def load_file(path: str | os.PathLike) -> dict:
    """Load a checkpoint or training state onto the CPU with `weights_only=True`: nothing in it can run code.

    Raises:
        InputError: The file is missing, unreadable, broken, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f'Checkpoint {path} does not exist. Check the path in the option file.') from error
    except pickle.UnpicklingError as error:
        raise unsafe_checkpoint(path) from error
    except Exception as error:  # whatever the bytes of a broken file make the reader raise
        reason = (str(error) or type(error).__name__).split('\n')[0]
        raise InputError(f'Checkpoint {path} cannot be read ({reason}). It is broken or not a checkpoint.') from error
    if not isinstance(content, Mapping):
        raise InputError(f'{path} holds a {type(content).__name__}, not a state dict.')
    return content


def unsafe_checkpoint(path: str | os.PathLike) -> InputError:
    """The error for a file whose pickle holds more than PyTorch's safe reader takes."""
    return InputError(f'{path} is not a safe checkpoint: it holds Python objects, which are never loaded, or is no '
                      'checkpoint at all. Save bare state dicts with torch.save.')
