"""Networks that losses and metrics need are built when training starts, so that a missing file is seen early."""
from pathlib import Path
from pickle import UnpicklingError

import torch
from basicsr.archs.vgg_arch import VGG_PRETRAIN_PATH

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_problem, weights_only

from .hcflow_loss import check_vgg_layers
from .hcflow_metric import check_lpips_available
from .train_losses import build_loss_of


def build_perceptual_loss(opt: dict) -> torch.nn.Module:
    """BasicSR's PerceptualLoss, with one clear error where its VGG weights or layers are not to be had.

    Args:
        opt (dict): `train.perceptual_opt`.

    Raises:
        InputError: A layer that does not exist, or weights that can be neither found nor downloaded.
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
    """Build the networks of LPIPS metrics in `val.metrics` now, so that a missing file is an early error."""
    for metric in (metrics or {}).values():
        if metric.get('type') == 'calculate_lpips':
            check_lpips_available(metric.get('net_type', 'alex'), metric.get('device'))
