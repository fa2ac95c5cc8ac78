"""Builds losses, and the networks that losses and metrics need, when training starts, so that errors come early."""
from pathlib import Path
from pickle import UnpicklingError

import torch
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH
from basicsr.losses import build_loss
from basicsr.losses.basic_loss import WeightedTVLoss
from basicsr.utils.registry import LOSS_REGISTRY

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_problem, weights_only
from hcflow_model.metrics.lpips import check_lpips_available
from hcflow_model.utils.errors import said_by
from hcflow_model.utils.registries import is_known

from .image_loss import check_vgg_layers

IMAGES = torch.zeros(2, 3, 16, 16)  # for trying losses


def build_loss_of(opt: dict) -> torch.nn.Module:
    """BasicSR's `build_loss`, with one clear error for arguments that the loss rejects.

    Raises:
        InputError: BasicSR's or our loss rejects an argument, or a plugin's says so. Others are bugs.
    """
    try:
        return build_loss(opt)
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        package = LOSS_REGISTRY.get(opt['type']).__module__.partition('.')[0]
        if not is_known(opt['type'], LOSS_REGISTRY) and not said_by(error, package):
            raise
        raise InputError(f'Loss {dict(opt)}: {error}') from error


def build_train_loss(train_opt: dict, name: str, *inputs, device: torch.device, **kwargs) -> torch.nn.Module | None:
    """Build the loss of a block of `train`. BasicSR's and our losses are also computed once, to reject wrong ones.

    Args:
        train_opt: The block `train`.
        name: Name of its block, such as pixel_opt.
        inputs, kwargs: What training passes to the loss, with any values, on the CPU.
        device: Device of the loss.

    Returns:
        The loss; None if there is no such block.

    Raises:
        InputError: It cannot be built or computed, or its result is not one number.
    """
    if not train_opt.get(name):
        return None
    loss = build_loss_of(train_opt[name])
    if isinstance(loss, WeightedTVLoss):
        loss = _OfTheImageAlone(loss)
    if is_known(train_opt[name]['type'], LOSS_REGISTRY):  # a plugin's may have state, or need a GPU
        _check_loss(f"'train.{name}' of type {train_opt[name]['type']}", loss, *inputs, **kwargs)
    return loss.to(device)


class _OfTheImageAlone(torch.nn.Module):
    """A loss without a target: what WeightedTVLoss takes second is a weight, for which the target would be taken."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, image, target):
        return self.loss(image)


def _check_loss(what, loss, *inputs, **kwargs):
    try:
        with torch.no_grad():
            value = loss(*inputs, **kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:  # of inputs of another kind
        raise InputError(f'{what} cannot be computed of what it is given here ({error}); take a loss that is made for '
                         'it.') from error
    if not torch.is_tensor(value) or value.numel() != 1:
        got = f'values of shape {tuple(value.shape)}' if torch.is_tensor(value) else f'a {type(value).__name__}'
        raise InputError(f'{what} gives {got}; it must be one number. Set its reduction to mean or sum, or take '
                         'another loss.')


def build_perceptual_loss(opt: dict) -> torch.nn.Module:
    """Build BasicSR's PerceptualLoss, with one clear error if its VGG weights or layers are missing.

    Args:
        opt (dict): `train.perceptual_opt`.

    Raises:
        InputError: A layer does not exist, or the weights can be neither found nor downloaded.
    """
    if opt['type'] != 'PerceptualLoss':
        return build_loss_of(opt)
    vgg_type = opt.get('vgg_type', 'vgg19')
    check_vgg_layers(vgg_type, opt.get('layer_weights'))
    try:
        with weights_only():
            return build_loss_of(opt)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:  # a failed download or a broken file
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        raise InputError(
            f'The perceptual loss needs the ImageNet weights of {vgg_type}, which cannot be loaded or downloaded '
            f'({load_problem(error)}). Put the file {Path(VGG_PRETRAIN_PATH).name} to {VGG_PRETRAIN_PATH} '
            f'(vgg19), or the file torchvision names for {vgg_type} into {folder}.') from error


def check_metric_weights(metrics: dict | None) -> None:
    """Build the networks of LPIPS metrics in `val.metrics`, so that a missing file is an early error."""
    for metric in (metrics or {}).values():
        if metric.get('type') == 'calculate_lpips':
            check_lpips_available(metric.get('net_type', 'alex'), metric.get('device'))
