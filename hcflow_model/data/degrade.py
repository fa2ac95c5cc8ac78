"""LR images made of HR images, on the device, in training and validation; :func:`degradation` registers another way."""
import math
import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from basicsr.data import degradations as noises
from basicsr.utils.img_process_util import filter2D
from basicsr.utils.registry import DATASET_REGISTRY, Registry

from hcflow_arch.checks import check_image, fit_to_scale
from hcflow_arch.errors import InputError
from hcflow_model.images.bicubic import bicubic_guide, round8
from hcflow_model.images.jpeg import RandomJPEG
from hcflow_model.utils.registries import is_registered

DEGRADATION_REGISTRY = Registry('degradation')
KERNELS = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')
MODES = ('area', 'bilinear', 'bicubic')


def degradation(function: Callable) -> Callable:
    """Decorator that registers a degradation for `train.degradation` and `val.degradation`, under the function's name.

    The function gets `gt`, (N, 3, H, W), RGB, float32 in [0, 1], H and W multiples of the scale, `scale`, and the keys
    of its block by name. It returns lq, (N, 3, H / scale, W / scale), in the same range and on the same device. Random
    numbers come from Python's, NumPy's or PyTorch's global generators: they are saved with a training and seeded in
    validation.

    Example:
        >>> @degradation
        ... def block_mean(gt, scale):
        ...     return torch.nn.functional.avg_pool2d(gt, scale)
    """
    DEGRADATION_REGISTRY.register(function)
    return function


def degradation_of(opt: Mapping, dataset_opt: Mapping, in_training: bool) -> Callable[[Mapping], torch.Tensor] | None:
    """What makes the LR images of a dataset that gives none.

    Its class may do it, by a static method `degrade(batch, opt)`: the batch as the loader gives it, with tensors on the
    device, and the dataset's block. Otherwise it is `train.degradation`, or `val.degradation` in validation.

    Args:
        opt: All options. Without `val.degradation`, validation in a training takes `train.degradation`.
        dataset_opt: The block of the dataset.
        in_training: Whether its images are trained on.

    Returns:
        A function of a batch, with gt (N, 3, H, W), that returns lq (N, 3, h, w); None if nothing makes LR images.
    """
    kind = dataset_opt.get('type')
    own = getattr(DATASET_REGISTRY.get(kind), 'degrade', None) if is_registered(kind, DATASET_REGISTRY) else None
    if own is not None:
        return lambda batch: own(batch, dataset_opt)
    blocks = [(opt.get(name) or {}).get('degradation') for name in (('train',) if in_training else ('val', 'train'))]
    block = next(filter(None, blocks), None)
    return block and (lambda batch: degrade(batch['gt'], opt['scale'], block))


@torch.no_grad()
def degrade(gt: torch.Tensor, scale: int, block: Mapping) -> torch.Tensor:
    """Make LR images of HR images.

    Args:
        gt: (N, 3, H, W), RGB in [0, 1]; padded where a side is no multiple of the scale.
        scale: Ratio of HR to LR size.
        block: {type: registered name, **arguments}.

    Returns:
        (N, 3, h, w), h and w rounded up.

    Raises:
        InputError: An HR image or argument that cannot be taken.
    """
    check_image('gt', gt)
    gt = fit_to_scale(gt, scale)
    arguments = {key: value for key, value in block.items() if key != 'type'}
    lq = DEGRADATION_REGISTRY.get(block['type'])(gt, scale, **arguments)
    size = (*gt.shape[:2], *(side // scale for side in gt.shape[2:]))
    if not torch.is_tensor(lq) or lq.shape != size:
        got = tuple(lq.shape) if torch.is_tensor(lq) else type(lq).__name__
        raise TypeError(f'Degradation {block["type"]} returns {got} for HR images {tuple(gt.shape)}; at scale {scale} '
                        f'it must be a tensor {size}.')
    return lq


@degradation
def bicubic(gt, scale):
    """MATLAB's bicubic downscaling, in 8 bits: the guide of rescaling, and what `hcflow prepare` writes.

    Args:
        gt (Tensor): (N, 3, H, W), RGB in [0, 1].
        scale (int): Ratio of HR to LR size.
    """
    return bicubic_guide(gt, scale)


@degradation
def blur_noise_jpeg(gt: torch.Tensor, scale: int, blur_prob: float = 1., kernel_size: Sequence[int] = (7, 21),
                    kernel_list: Sequence[str] = KERNELS,
                    kernel_prob: Sequence[float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
                    blur_sigma: Sequence[float] = (0.2, 3.), betag_range: Sequence[float] = (0.5, 4.),
                    betap_range: Sequence[float] = (1., 2.), sinc_prob: float = 0.1,
                    resize_prob: Sequence[float] = (0.3, 0.4, 0.3), resize_range: Sequence[float] = (0.3, 1.2),
                    noise_prob: float = 1., gaussian_noise_prob: float = 0.5, noise_range: Sequence[float] = (1., 25.),
                    poisson_scale_range: Sequence[float] = (0.05, 2.5), gray_noise_prob: float = 0.4,
                    jpeg_prob: float = 1., jpeg_range: Sequence[int] = (30, 95)) -> torch.Tensor:
    """Blur, resize, add noise, and store as JPEG, each image by random settings of its own.

    One pass of what BasicSR's RealESRGANModel does twice (Wang et al., Real-ESRGAN, ICCVW 2021), of the same parts;
    JPEG is that of libjpeg.

    Args:
        gt (Tensor): (N, 3, H, W), RGB in [0, 1].
        scale (int): Ratio of HR to LR size.
        blur_prob (float): Share of the images that are blurred. Default: 1.
        kernel_size (Sequence[int]): Smallest and largest side of blur kernels in HR pixels, odd. Default: (7, 21).
        kernel_list (Sequence[str]): Kinds of blur kernels: iso, aniso, generalized_iso, generalized_aniso,
            plateau_iso, plateau_aniso. Default: all.
        kernel_prob (Sequence[float]): Weight of each kind. Default: (0.45, 0.25, 0.12, 0.03, 0.12, 0.03).
        blur_sigma (Sequence[float]): Standard deviation of kernels in HR pixels. Default: (0.2, 3).
        betag_range (Sequence[float]): Exponents of generalized Gaussian kernels, around 1. Default: (0.5, 4).
        betap_range (Sequence[float]): Exponents of plateau kernels. Default: (1, 2).
        sinc_prob (float): Share of sinc kernels, which ring. Default: 0.1.
        resize_prob (Sequence[float]): Weights of a size in between that is larger than the LR image, smaller, or the
            same. Default: (0.3, 0.4, 0.3).
        resize_range (Sequence[float]): Smallest and largest such size, relative to the LR image. Default: (0.3, 1.2).
        noise_prob (float): Share of the images with noise, added at the size in between. Default: 1.
        gaussian_noise_prob (float): Share of Gaussian noise; the rest is Poisson noise. Default: 0.5.
        noise_range (Sequence[float]): Standard deviation of Gaussian noise in grey levels. Default: (1, 25).
        poisson_scale_range (Sequence[float]): Factor of Poisson noise. Default: (0.05, 2.5).
        gray_noise_prob (float): Share of noise that is the same in all channels. Default: 0.4.
        jpeg_prob (float): Share of the images that are compressed, last of all. Default: 1.
        jpeg_range (Sequence[int]): JPEG quality, whole numbers from 1 to 100. Default: (30, 95).

    Returns:
        Tensor: (N, 3, H / scale, W / scale) in [0, 1], 8 bits.

    Raises:
        InputError: A range, a list or a share that cannot be.
    """
    for name, value in (('blur_prob', blur_prob), ('sinc_prob', sinc_prob), ('noise_prob', noise_prob),
                        ('gaussian_noise_prob', gaussian_noise_prob), ('gray_noise_prob', gray_noise_prob),
                        ('jpeg_prob', jpeg_prob)):
        if not 0 <= value <= 1:
            raise InputError(f'{name} is {value!r}; it must be from 0 to 1.')
    for name, value, lowest, highest in (
            ('kernel_size', kernel_size, 1, 101), ('blur_sigma', blur_sigma, 0.01, 100),
            ('betag_range', betag_range, 0.01, 100), ('betap_range', betap_range, 0.01, 100),
            ('resize_range', resize_range, 0.01, 8), ('noise_range', noise_range, 0, 255),
            ('poisson_scale_range', poisson_scale_range, 0, 100), ('jpeg_range', jpeg_range, 1, 100)):
        if not _are_numbers(value, 2) or not lowest <= value[0] <= value[1] <= highest:
            raise InputError(f'{name} is {value!r}; it must be two numbers, the smaller one first, from {lowest} to '
                             f'{highest}.')
    if any(side != int(side) or side % 2 == 0 for side in kernel_size):
        raise InputError(f'kernel_size is {kernel_size!r}; sides of kernels are odd whole numbers.')
    if any(quality != int(quality) for quality in jpeg_range):
        raise InputError(f'jpeg_range is {jpeg_range!r}; qualities of JPEG are whole numbers.')
    if not isinstance(kernel_list, (list, tuple)) or not kernel_list or any(
            kind not in KERNELS for kind in kernel_list):
        raise InputError(f'kernel_list is {kernel_list!r}; it must be a list of some of {", ".join(KERNELS)}.')
    for name, weights, num in (('kernel_prob', kernel_prob, len(kernel_list)), ('resize_prob', resize_prob, 3)):
        if not _are_numbers(weights, num) or min(weights) < 0 or sum(weights) <= 0:
            raise InputError(f'{name} is {weights!r}; it must be {num} weights, none below 0 and not all 0.')

    size = [side // scale for side in gt.shape[2:]]
    images = []
    for image in gt.split(1):
        if np.random.uniform() < blur_prob:
            side = min(random.randrange(int(kernel_size[0]), int(kernel_size[1]) + 1, 2), 2 * min(gt.shape[2:]) - 1)
            if np.random.uniform() < sinc_prob:
                kernel = noises.circular_lowpass_kernel(np.random.uniform(math.pi / (3 if side < 13 else 5), math.pi),
                                                        side)
            else:
                sigma = blur_sigma[0], math.nextafter(blur_sigma[1], math.inf)  # BasicSR refuses equal ones
                kernel = noises.random_mixed_kernels(kernel_list, kernel_prob, side, sigma, sigma, [-math.pi, math.pi],
                                                     betag_range, betap_range)
            image = filter2D(image, torch.from_numpy(kernel)[None].to(image))
        way = random.choices(('up', 'down', 'keep'), resize_prob)[0]
        factor = {'up': np.random.uniform(min(1, resize_range[1]), resize_range[1]), 'keep': 1,
                  'down': np.random.uniform(resize_range[0], max(1, resize_range[0]))}[way]
        image = F.interpolate(image, size=[max(1, int(side * factor)) for side in size], mode=random.choice(MODES))
        image = image.clamp(0, 1)
        if np.random.uniform() < noise_prob:
            if np.random.uniform() < gaussian_noise_prob:
                image = noises.random_add_gaussian_noise_pt(image, noise_range, gray_noise_prob)
            else:
                image = noises.random_add_poisson_noise_pt(image, poisson_scale_range, gray_noise_prob)
        images.append(F.interpolate(image, size=size, mode=random.choice(MODES)))
    lq = round8(torch.cat(images).clamp(0, 1))
    return RandomJPEG([int(quality) for quality in jpeg_range], jpeg_prob).to(lq.device)(lq)


def _are_numbers(value, num):
    return isinstance(value, (list, tuple)) and len(value) == num and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) for number in value)
