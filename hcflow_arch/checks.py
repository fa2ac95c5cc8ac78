"""Checks of the arguments and inputs of a network, and the rule for sizes that do not fit the scale."""
import numbers
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .convs.modes import is_recording
from .errors import InputError

MAX_COUNT = 4096  # of steps, blocks and channels: a typing error must not fill the memory


def check_counts(**counts: int) -> None:
    """Check that arguments `network_g.NAME` are whole numbers from 1 to MAX_COUNT."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
            raise InputError(f'network_g.{name} is {value!r}; it must be a whole number from 1 to {MAX_COUNT}.')


def check_num_block(num_block: Sequence[int]) -> None:
    """Check that num_block is two numbers of RRDBs."""
    if isinstance(num_block, str) or not isinstance(num_block, Sequence) or len(num_block) != 2:
        raise InputError(f'network_g.num_block is {num_block!r}; it takes two numbers of RRDBs, such as [7, 7].')
    check_counts(**{f'num_block[{i}]': number for i, number in enumerate(num_block)})


def check_image(name: str, image: torch.Tensor, num_images: int | None = None, check_range: bool = False) -> None:
    """Check that `image` is a float RGB image tensor (N, 3, H, W); if not, InputError says why.

    Args:
        name: Name of the image in the message.
        image: The image.
        num_images: The batch size it must have. Default: any.
        check_range: Also refuse images that are far outside of [0, 1] or not finite. This reads values, so on a GPU it
            is done only without gradients: neither a training step nor the recording of a CUDA graph may wait for them.
    """
    if not torch.is_tensor(image):
        raise InputError(f'{name} is a {type(image).__name__}; give a float tensor (N, 3, H, W), RGB, in [0, 1].')
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise InputError(f'{name} has shape {tuple(image.shape)}; it must be (N, 3, H, W), RGB.')
    if not image.is_floating_point():
        raise InputError(f'{name} has type {image.dtype}; give floats in [0, 1], such as {name}.float() / 255.')
    if num_images is not None and image.shape[0] != num_images:
        raise InputError(f'{name} holds {image.shape[0]} images, its partner {num_images}; they must be pairs.')
    # a wide limit: an LR image before clamping may overshoot, but an image in [0, 255] must not pass
    readable = image.device.type == 'cpu' or not (torch.is_grad_enabled() or is_recording(image.device))
    if check_range and readable and not bool(image.detach().abs().max() <= 16):
        raise InputError(f'{name} has values from {image.min():.4g} to {image.max():.4g}; images are in [0, 1]. '
                         'Divide 8-bit values by 255.')


def check_latents(latents: Sequence[torch.Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    """Check that number and shapes of the latents fit the LR image."""
    got = [tuple(latent.shape) if torch.is_tensor(latent) else type(latent).__name__ for latent in latents]
    if got != list(shapes):
        raise InputError(f'latents have shapes {got}; this LR image needs {list(shapes)}, finest level first.')


def check_temperature(name: str, temperature: float | torch.Tensor, lq: torch.Tensor | None = None) -> None:
    """Check that a temperature is a number from 0 to 100, or for an LR image (N, 3, h, w) also a map (N, 1, h, w).

    Usual values are 0 to 1.
    """
    if lq is not None and torch.is_tensor(temperature):
        shape, wanted = tuple(temperature.shape), (lq.shape[0], 1, *lq.shape[2:])
        if shape != wanted or not temperature.is_floating_point():
            raise InputError(f'{name} is a map of shape {shape} and type {temperature.dtype}; this LR image needs '
                             f'floats of shape {wanted}.')
        if not bool(((temperature >= 0) & (temperature < 100)).all()):
            raise InputError(f'{name} has values from {temperature.min():.4g} to {temperature.max():.4g}; they must be '
                             'numbers from 0 (no noise); usual values are 0 to 1.')
    elif isinstance(temperature, bool) or not isinstance(temperature, numbers.Real) or not 0 <= temperature < 100:
        raise InputError(f'{name} is {temperature!r}; it must be a number from 0 (no noise); usual values are 0 to 1.')


def fit_to_scale(gt: torch.Tensor, scale: int, lq: torch.Tensor | None = None) -> torch.Tensor:
    """Crop an HR image, or pad it by reflection, at the bottom and right: to a multiple of the scale, or to fit `lq`.

    Args:
        gt: (N, C, H, W).
        scale: Ratio of HR to LR size.
        lq: If given, (N, C, h, w), its size decides. Default: the next multiple of the scale.

    Returns:
        (N, C, scale * h, scale * w); the input itself if it fits.
    """
    h, w = gt.shape[2:]
    if min(h, w) < scale:
        raise InputError(f'gt is {h}x{w}, smaller than the scale; give HR images of at least {scale}x{scale} pixels.')
    if lq is None:
        target = (h + -h % scale, w + -w % scale)
    else:
        target = (lq.shape[2] * scale, lq.shape[3] * scale)
        if abs(target[0] - h) >= scale or abs(target[1] - w) >= scale:
            raise InputError(f'gt is {h}x{w} and lq {lq.shape[2]}x{lq.shape[3]}; at scale {scale} this LR image '
                             f'belongs to an HR image of {target[0]}x{target[1]}. Check scale and the pairs.')
    if target == (h, w):
        return gt
    gt = gt[:, :, :target[0], :target[1]]
    return F.pad(gt, (0, target[1] - gt.shape[3], 0, target[0] - gt.shape[2]), mode='reflect')
