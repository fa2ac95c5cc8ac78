"""Starting values of the flow. They change no layers, names or shapes, so all checkpoints load with either start."""
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from hcflow_arch.errors import InputError

from .layers import average_over_processes, double
from .squeeze import SpaceToDepth

STARTS = ('paper', 'wavelet')
MAX_ROWS = 16384  # pixels of the batch to fit a prior to: 14 per unknown of the paper's network
RESCALING_GAIN = 20.  # rescaling: noise at temperature 1 starts at 1/20 of the high frequencies


@torch.no_grad()
def apply_start(net: torch.nn.Module, start: str) -> None:
    """Set the starting values of an HCFlowNet that need no data.

    'paper': random orthogonal 1x1 matrices, and actnorms that the first batch initializes. Layers are made this way.

    'wavelet': the untrained network downsamples by averaging. In the main path, the first 1x1 matrix of each level is
    the averaging Haar transform of the squeezed pixels. Actnorms there start as the identity, without data, so the LR
    image is not standardized. All other 1x1 matrices reverse the order of the channels, an even number of them in each
    chain: the chain as a whole starts as the identity, but couplings change both halves in turn, and the LR image too.
    :func:`fit_start` does the rest with the first batch.

    Args:
        net: HCFlowNet.
        start: One of STARTS.

    Raises:
        InputError: Unknown start.
    """
    if start not in STARTS:
        raise InputError(f'network_g.start is {start!r}; allowed are {STARTS}.')
    if start == 'paper':
        return
    for level in net.levels:
        squeeze, *main_steps = level.main
        for step in main_steps:
            step.actnorm.mark_initialized()
        if isinstance(squeeze, SpaceToDepth):
            _reverse_channels(main_steps)
            weight = main_steps[0].conv1x1.weight
            weight.copy_(averaging_haar(weight.shape[0] // 4))
        _reverse_channels(level.prior[:-1])


def _reverse_channels(steps) -> None:
    """The first 1x1 matrix of a chain becomes the identity, an even number after it reversals, the rest identities."""
    num_reversed = (len(steps) - 1) // 2 * 2
    for index, step in enumerate(steps):
        torch.nn.init.eye_(step.conv1x1.weight)
        if 1 <= index <= num_reversed:
            step.conv1x1.weight.copy_(step.conv1x1.weight.flip(0))


def averaging_haar(num_channels: int) -> torch.Tensor:
    """The Haar transform of HaarSqueeze as a matrix on the channels of space-to-depth, (4C, 4C), entries +-1/4.

    Rows are band-major: the first C are the 2x2 means. (With the orthonormal +-1/2 they would not be averages.)
    """
    signs = torch.tensor([[1., 1., 1., 1.], [1., -1., 1., -1.], [1., 1., -1., -1.], [1., -1., -1., 1.]])
    matrix = torch.zeros(4, num_channels, num_channels, 4)
    for channel in range(num_channels):
        matrix[:, channel, channel] = signs / 4
    return matrix.reshape(4 * num_channels, 4 * num_channels)


@torch.no_grad()
def fit_start(net: torch.nn.Module, x: torch.Tensor, lq: torch.Tensor | None) -> None:
    """Initialize the conditional flows from the first batch: actnorms as usual, then each prior by least squares.

    The mean of each prior becomes the least-squares prediction of the high frequencies from the (random) features of
    the LR image, and its scale the standard deviation of the residual. So the untrained network predicts detail about
    as well as bicubic upsampling.

    Args:
        net: HCFlowNet in training mode, not yet initialized.
        x: HR images with dequantization noise, (N, 3, H, W).
        lq: LR images (N, 3, h, w); the coarsest prior is fitted to their features, as decode uses them.
    """
    # no autocast: its cache would reuse weights that were cast here, without gradients (PyTorch 2.6)
    with torch.autocast(x.device.type, enabled=False):
        parts = []
        for level in net.levels:
            x, high, _ = level.split(x)
            parts.append((x, high))
        features = []
        for level, (low, high) in zip(reversed(net.levels), reversed(parts), strict=True):
            features.append(level.features(low if lq is None or features else lq, features))
            for step in level.prior[:-1]:
                high, _ = step(high, features[-1])
            gaussian, last_norm = level.prior[-1], level.prior[-2].actnorm
            if gaussian.bounded:  # its scale is at least exp(-0.5), so its input is amplified instead
                last_norm.log_scale += math.log(RESCALING_GAIN)
                high = high * RESCALING_GAIN
            _fit_gaussian(gaussian, features[-1], high)


def _fit_gaussian(gaussian, features: torch.Tensor, target: torch.Tensor) -> None:
    """Ridge regression of target (N, C, h, w) on the 3x3 neighbourhoods of features (N, F, h, w)."""
    n, c, h, w = target.shape
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(n * h * w, generator=generator)[:MAX_ROWS].to(target.device)
    image, pixel = rows // (h * w), rows % (h * w)
    y, x = pixel // w, pixel % w
    padded = F.pad(features, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    columns = [padded[image, y + dy, x + dx] for dy in range(3) for dx in range(3)]
    inputs = double(torch.cat([*columns, padded.new_ones(len(rows), 1)], dim=1))
    outputs = double(target.permute(0, 2, 3, 1)[image, y, x])

    gram = average_over_processes(inputs.T @ inputs / len(rows))
    moments = average_over_processes(inputs.T @ outputs / len(rows))
    if not (gram.isfinite().all() and moments.isfinite().all()):
        return  # the actnorms wait as well; the next batch initializes all
    gram.diagonal().add_(1e-2 * gram.diagonal().mean())  # 1e-2 was best on unseen pictures, of 1e-4 to 3e-2
    solution = torch.linalg.solve(gram, moments)
    variance = average_over_processes(((outputs - inputs @ solution)**2).mean(dim=0))

    head = gaussian.head
    head.weight[0::2] = solution[:-1].view(3, 3, -1, c).permute(3, 2, 0, 1).to(head.weight)
    head.bias[0::2] = solution[-1].to(head.bias)
    if not gaussian.bounded:
        head.bias[1::2] = (0.5 * torch.log(variance + 1e-6)).to(head.bias)


@contextmanager
def no_data_start(net: torch.nn.Module) -> Iterator[None]:
    """Keep an HCFlowNet's decode from initializing actnorms, because its data run in the wrong direction.

    If a network is trained through decode alone (BasicSR's SRModel), its actnorms start with their present weights.
    """
    waiting = [norm for norm in net.actnorms() if norm.waits_for_data()] if net.training else []
    if torch.is_grad_enabled():
        for norm in waiting:
            norm.mark_initialized()
        waiting = []
    for norm in waiting:
        norm.training = False
    try:
        yield
    finally:
        for norm in waiting:
            norm.training = True
