"""Metrics as the HCFlow paper reports them, registered in BasicSR's METRIC_REGISTRY.

Images are NumPy arrays as BasicSR's: BGR or gray, (H, W, C), (C, H, W) with `input_order='CHW'`, or (H, W), uint8 or
float in [0, 255]. :func:`metric` registers one more. Unused keyword arguments are ignored, as in BasicSR's own
metrics: its models hand the whole option block on, `better` included.
"""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import METRIC_REGISTRY

from hcflow_arch.errors import InputError

from .lpips import LPIPS_NETS, check_lpips_available, check_net_type


def metric(function: Callable | None = None, /, *, lower_is_better: bool = False,
           takes_float: bool = False) -> Callable:
    """Decorator that registers a metric for `val.metrics`, under the name of the function.

    In validation the function gets those of these arguments that it names: `img` and `img2` (sample and ground truth,
    (H, W, 3), BGR, in [0, 255]), `lq`, `samples` (list of all samples at a temperature), `net`, `scale`; and the other
    keys of its block. It returns a number. A ValueError says that an image does not fit; the others go on.

    Args:
        lower_is_better: Which values are kept as the best, where the block has no `better`. Default: higher ones.
        takes_float: Whether images are float64, not rounded. Default: uint8, as they are saved.

    Example:
        >>> @metric(lower_is_better=True)
        ... def calculate_mae(img, img2):
        ...     return abs(img.astype(float) - img2).mean()
    """
    def register(function):
        function.lower_is_better, function.takes_float = lower_is_better, takes_float
        if function.__module__ != __name__:  # these are registered by the package
            METRIC_REGISTRY.register(function)
        return function

    return register if function is None else register(function)


def is_lower_better(name: str) -> bool:
    """Whether low values of a registered metric are the good ones."""
    return getattr(METRIC_REGISTRY.get(name), 'lower_is_better', name == 'calculate_niqe')


def _check_image(name: str, image: np.ndarray, input_order: str) -> np.ndarray:
    """Reject what no metric here can take.

    Args:
        name (str): The argument's name, for the message.
        image (ndarray): See the module's docstring.
        input_order (str): 'HWC' or 'CHW'; means nothing for (H, W).

    Returns:
        ndarray: The image, (H, W, C), float64.
    """
    if input_order not in ('HWC', 'CHW'):
        raise InputError(f"input_order must be 'HWC' or 'CHW', got {input_order!r}")
    if not isinstance(image, np.ndarray):
        raise InputError(f'{name} must be a NumPy array, got {type(image).__module__}.{type(image).__name__}; '
                         'convert a tensor with basicsr.utils.tensor2img')
    if image.dtype != np.uint8 and image.dtype.kind != 'f':
        raise InputError(f'{name} must be uint8 or float, got {image.dtype}; bring it to [0, 255] and convert it '
                         'with .astype(np.float32)')
    hwc = image[..., None] if image.ndim == 2 else image
    if image.ndim == 3 and input_order == 'CHW':
        hwc = image.transpose(1, 2, 0)
    if hwc.ndim != 3 or hwc.shape[2] not in (1, 3) or 0 in hwc.shape:
        raise InputError(f"{name} must be one image with 1 or 3 channels, (H, W, C) for input_order 'HWC' and "
                         f"(C, H, W) for 'CHW', got the shape {image.shape} with input_order {input_order!r}")
    hwc = hwc.astype(np.float64)
    if not np.isfinite(hwc).all():
        raise InputError(f'{name} must be finite, got nan or inf; look for a diverged network or a division by zero')
    if hwc.min() < -1e-3 or hwc.max() > 255.001:  # the margin lets rounding errors of float32 pass
        raise InputError(f'{name} must lie in [0, 255], got [{hwc.min():g}, {hwc.max():g}]; scale and clip it first')
    return hwc


def _is_integer(value: object, smallest: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= smallest


def _crop(name: str, image: np.ndarray, crop_border: int) -> np.ndarray:
    """Cut `crop_border` pixels off each edge of an (H, W, C) image."""
    height, width = image.shape[:2]
    if not _is_integer(crop_border, 0) or 2 * crop_border >= min(height, width):
        raise InputError(f'crop_border must be an integer, 0 or more and less than half the smaller side of {name} '
                         f'({height}x{width}), got {crop_border!r}; lower it')
    return image[crop_border:height - crop_border, crop_border:width - crop_border]


def _check_same_shape(images: dict[str, np.ndarray]) -> None:
    if len({image.shape for image in images.values()}) > 1:
        shapes = ', '.join(f'{name} {image.shape}' for name, image in images.items())
        raise InputError(f'images of one size and one number of channels are needed, got {shapes}; crop or convert '
                         'them to the same shape')


def _to_rgb(image: np.ndarray) -> torch.Tensor:
    """BGR or gray (H, W, C) to RGB (1, 3, H, W) of the same range and type."""
    rgb = np.broadcast_to(image[..., ::-1], (*image.shape[:2], 3))
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]


@metric(lower_is_better=True, takes_float=True)
@torch.no_grad()
def calculate_lpips(img: np.ndarray, img2: np.ndarray, crop_border: int = 0, input_order: str = 'HWC',
                    net_type: str = 'alex', device: str | None = None, **kwargs) -> float:
    """Calculate LPIPS (Learned Perceptual Image Patch Similarity), lower is better.

    Ref: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, https://arxiv.org/abs/1801.03924.
    The network sees RGB in [-1, 1], not rounded; gray is repeated to three channels.

    Args:
        img (ndarray): Image with range [0, 255].
        img2 (ndarray): Image with range [0, 255], of the same shape.
        crop_border (int): Pixels cut off at each edge. Default: 0.
        input_order (str): 'HWC' or 'CHW'. Default: 'HWC'.
        net_type (str): 'alex', 'vgg' or 'squeeze'. Default: 'alex', as published figures use.
        device (str | None): Where its network runs. Default: None: 'cuda' if there is a GPU, else 'cpu'.

    Returns:
        float: LPIPS, 0 for equal images.

    Raises:
        InputError: Images that cannot be taken or are too small (alex 31, vgg 16, squeeze 17 pixels after cropping),
            or see :func:`check_lpips_available`.
    """
    images = {'img': _check_image('img', img, input_order), 'img2': _check_image('img2', img2, input_order)}
    _check_same_shape(images)
    images = [_crop(name, image, crop_border) for name, image in images.items()]
    check_net_type(net_type)
    height, width = images[0].shape[:2]
    smallest = LPIPS_NETS[net_type][1]
    if min(height, width) < smallest:
        raise InputError(f"LPIPS with net_type '{net_type}' needs images of at least {smallest}x{smallest} pixels "
                         f'after cropping, got {height}x{width}; use larger images or leave LPIPS out')
    net = check_lpips_available(net_type, device)
    weight = next(net.parameters())
    return net(*(_to_rgb(image / 127.5 - 1).to(weight) for image in images)).item()


@metric
def calculate_lr_psnr(img: np.ndarray, lq: np.ndarray, scale: int, crop_border: int = 0, input_order: str = 'HWC',
                      test_y_channel: bool = False, **kwargs) -> float:
    """Calculate LR-PSNR: the PSNR between the input and the downscaled result, higher is more consistent.

    Downscaled as MATLAB's bicubic imresize does (BasicSR's `imresize`), neither rounded nor clipped.

    Args:
        img (ndarray): Super-resolved image with range [0, 255], `scale` times as large as `lq`.
        lq (ndarray): Low-resolution input with range [0, 255], at least 2x2 pixels.
        scale (int): 2 or more.
        crop_border (int): Pixels of the low-resolution images cut off at each edge. Default: 0.
        input_order (str): 'HWC' or 'CHW'. Default: 'HWC'.
        test_y_channel (bool): Test on Y channel of YCbCr. Default: False.

    Returns:
        float: LR-PSNR in dB, inf for equal images.

    Raises:
        InputError: Images that cannot be taken, or whose sizes do not fit `scale`.
    """
    img, lq = _check_image('img', img, input_order), _check_image('lq', lq, input_order)
    if not _is_integer(scale, 2):
        raise InputError(f'scale must be an integer of 2 or more, got {scale!r}')
    wanted = (lq.shape[0] * scale, lq.shape[1] * scale, lq.shape[2])
    if img.shape != wanted:
        raise InputError(f'img must be {scale} times as large as lq {lq.shape}: {wanted}, got {img.shape}; '
                         'check the option scale and that the two show the same picture')
    if min(lq.shape[:2]) < 2:  # imresize mirrors the image at its edges by 1.5 * scale pixels
        raise InputError(f'lq must have at least 2x2 pixels, got {lq.shape[0]}x{lq.shape[1]}; use larger images')
    lq_hat = imresize(img / 255., 1 / scale) * 255.
    lq_hat, lq = _crop('lq', lq_hat, crop_border), _crop('lq', lq, crop_border)
    return float(calculate_psnr(lq_hat, lq, crop_border=0, test_y_channel=test_y_channel))


@metric(takes_float=True)
def calculate_diversity(samples: Sequence[np.ndarray] | np.ndarray, input_order: str = 'HWC', **kwargs) -> float:
    """Calculate how much several samples for one input differ.

    The unbiased standard deviation over the samples, averaged over pixels and channels.

    Args:
        samples (Sequence[ndarray] | ndarray): Two or more images of one shape with range [0, 255], not rounded: a list
            or tuple, or an array whose first dimension counts them.
        input_order (str): 'HWC' or 'CHW'. Default: 'HWC'.

    Returns:
        float: Diversity in gray levels of [0, 255], 0 for equal images.

    Raises:
        InputError: Fewer than two samples, or images that cannot be taken.
    """
    if not isinstance(samples, list | tuple) and not (isinstance(samples, np.ndarray) and samples.ndim == 4):
        raise InputError(f'samples must be a list of images or one 4-dimensional array of them, as NumPy arrays, got '
                         f'{type(samples).__module__}.{type(samples).__name__} {getattr(samples, "shape", "")}')
    images = {f'samples[{i}]': _check_image(f'samples[{i}]', image, input_order) for i, image in enumerate(samples)}
    if len(images) < 2:
        raise InputError(f'diversity needs two or more samples per image, got {len(images)}; '
                         'raise val.num_samples or leave diversity out')
    _check_same_shape(images)
    return float(np.std(list(images.values()), axis=0, ddof=1).mean())


@metric(lower_is_better=True)
@torch.no_grad()
def calculate_nll(img2: np.ndarray, lq: np.ndarray, net: torch.nn.Module, input_order: str = 'HWC', seed: int = 0,
                  **kwargs) -> float:
    """Calculate the negative log-likelihood of the ground truth given its low-resolution image, lower is better.

    The network runs in eval mode and is left in the mode it came in.

    Args:
        img2 (ndarray): Ground truth with range [0, 255], three channels.
        lq (ndarray): Low-resolution image with range [0, 255], three channels.
        net (nn.Module): HCFlowNet of task 'sr'.
        input_order (str): 'HWC' or 'CHW'. Default: 'HWC'.
        seed (int): Of the dequantization noise, drawn on the CPU, so that every device gets the same. Default: 0.

    Returns:
        float: Bits per high-resolution pixel.

    Raises:
        InputError: Images that cannot be taken, a network without a likelihood, or (from the network) sizes that do
            not fit its scale.
    """
    if not isinstance(net, torch.nn.Module):
        raise InputError(f'net must be an HCFlowNet, got {type(net).__module__}.{type(net).__name__}')
    gt, lq = _check_image('img2', img2, input_order), _check_image('lq', lq, input_order)
    if gt.shape[2] != 3 or lq.shape[2] != 3:
        raise InputError(f'img2 and lq must have three channels, got {gt.shape[2]} and {lq.shape[2]}; '
                         'convert gray images with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)')
    weight = next(net.parameters())
    gt, lq = (_to_rgb(image / 255.).to(weight) for image in (gt, lq))
    noise = torch.rand(gt.shape, generator=torch.Generator().manual_seed(seed)).to(weight)
    was_training = net.training
    try:
        nll = net.eval()(lq, gt=gt, dequantization_noise=noise).nll
    finally:
        net.train(was_training)
    if nll is None:
        raise InputError("net has no likelihood: calculate_nll needs network_g of task 'sr'; leave nll out of the "
                         'metrics of a rescaling network')
    return nll.mean().item()
