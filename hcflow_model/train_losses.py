"""Losses are built when training starts, so that what is wrong with them is seen early."""
import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY

from hcflow_arch import InputError

from .option_rules import is_known

IMAGES = torch.zeros(2, 3, 16, 16)  # for trying losses


def build_loss_of(opt: dict) -> torch.nn.Module:
    """BasicSR's `build_loss`, with one clear error for arguments that the loss refuses."""
    try:
        return build_loss(opt)
    except InputError:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f'Loss {dict(opt)}: {error}') from error


def build_train_loss(train_opt: dict, name: str, *inputs, device: torch.device, **kwargs) -> torch.nn.Module | None:
    """The loss of a block of `train`; BasicSR's and ours are computed once, so that one which is made for something
    else is an early error.

    Args:
        train_opt: The block `train`.
        name: Of the loss's block in it, such as pixel_opt.
        inputs, kwargs: What training gives the loss, of any values, on the CPU.
        device: Where the loss goes.

    Returns:
        None where there is no such block.

    Raises:
        InputError: It cannot be built or computed, or is not one number.
    """
    if not train_opt.get(name):
        return None
    loss = build_loss_of(train_opt[name])
    if is_known(train_opt[name]['type'], LOSS_REGISTRY):  # others may keep what they have seen, or need a GPU
        _check_loss(f"'train.{name}' of type {train_opt[name]['type']}", loss, *inputs, **kwargs)
    return loss.to(device)


def _check_loss(what, loss, *inputs, **kwargs):
    try:
        with torch.no_grad():
            value = loss(*inputs, **kwargs)
    except Exception as error:  # whatever follows from inputs of another kind
        raise InputError(f'{what} cannot be computed of what it is given here ({error}); take a loss that is made for '
                         'it.') from error
    if not torch.is_tensor(value) or value.numel() != 1:
        got = f'values of shape {tuple(value.shape)}' if torch.is_tensor(value) else f'a {type(value).__name__}'
        raise InputError(f'{what} gives {got}; it must be one number. Set its reduction to mean or sum, or take '
                         'another loss.')
