"""Weights that are not in any package: looked for when training starts, not at the first validation."""
from pathlib import Path

import torch
from basicsr.archs.vgg_arch import NAMES, VGG_PRETRAIN_PATH, insert_bn
from basicsr.losses import build_loss

from hcflow_arch import InputError

from .hcflow_metric import check_lpips_available


def build_perceptual_loss(opt: dict) -> torch.nn.Module:
    """BasicSR's PerceptualLoss, with one clear error where its VGG weights or layers are not to be had.

    Args:
        opt (dict): `train.perceptual_opt`.

    Raises:
        InputError: A layer that does not exist, or weights that can be neither found nor downloaded.
    """
    vgg_type = opt.get('vgg_type', 'vgg19')
    names = NAMES.get(vgg_type.removesuffix('_bn'))
    if names is None:
        raise InputError(f'perceptual_opt.vgg_type is {vgg_type!r}; allowed are {", ".join(NAMES)}, also with _bn.')
    names = insert_bn(names) if vgg_type.endswith('_bn') else names
    layers = opt.get('layer_weights')
    if not isinstance(layers, dict) or not layers:
        raise InputError(f'perceptual_opt.layer_weights is {layers!r}; it must be a block such as {{conv5_4: 1.0}}.')
    unknown = [name for name in layers if name not in names]
    if unknown:
        raise InputError(f'perceptual_opt.layer_weights: {vgg_type} has no layer {unknown[0]!r}; it has '
                         f'{", ".join(names)}.')
    try:
        return build_loss(opt)
    except Exception as error:  # a failed download or a broken file can raise anything
        folder = Path(torch.hub.get_dir()) / 'checkpoints'
        raise InputError(
            f'The perceptual loss needs the ImageNet weights of {vgg_type}, which cannot be loaded or downloaded '
            f'({type(error).__name__}: {error}). Put the file {Path(VGG_PRETRAIN_PATH).name} to {VGG_PRETRAIN_PATH} '
            f'(vgg19), or the file torchvision names for {vgg_type} into {folder}.') from error


def check_metric_weights(metrics: dict | None) -> None:
    """Build the networks of LPIPS metrics in `val.metrics` now, so that a missing file is an early error."""
    for metric in (metrics or {}).values():
        if metric.get('type') == 'calculate_lpips':
            check_lpips_available(metric.get('net_type', 'alex'), metric.get('device'))
