"""The layer contract of the flow and its two linear layers (Glow, section 3)."""
import abc
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn as nn

from hcflow_arch.convs.modes import full_precision, is_traced

NO_FLOAT64 = ('mps',)  # types of devices


class FlowLayer(nn.Module, abc.ABC):
    """An invertible map between data and latent.

    Each layer returns its own log-determinant: `log_det[n] = log|det dz/dx|` of sample n, shape (N,), float32 or wider.
    It never changes a tensor that it got. `context`, (N, F, H, W) at the resolution of `x`, is the condition;
    unconditional layers ignore it.
    """

    @abc.abstractmethod
    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """data -> latent. x: (N, C, H, W). Returns (z, log_det)."""

    @abc.abstractmethod
    def inverse(self, z: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """latent -> data. z: as returned by :meth:`forward`. Returns x only."""


class ActNorm2d(FlowLayer):
    """`(x + bias) * exp(log_scale)` per channel, initialized from data (Glow, section 3.1).

    The first forward pass in training mode sets bias and log_scale so that its output has mean 0 and variance 1 over
    batch and pixels, in distributed training over all processes. `initialized` is a buffer, saved and loaded with the
    weights, so loaded weights are never initialized again.

    Args:
        num_channels (int): Channels of the input.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, num_channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, num_channels, 1, 1))
        self.register_buffer('initialized', torch.tensor(False))
        # A copy of `initialized` on the CPU, True only if the buffer is: reading the buffer in each training step would
        # synchronize with the GPU each time.
        self._known_initialized = False

    @torch.no_grad()
    def initialize(self, x: torch.Tensor) -> None:
        """Initialize from the statistics of x (N, C, H, W); if they are not finite, wait for the next batch."""
        mean = average_over_processes(x.mean(dim=0, keepdim=True).mean(dim=(2, 3), keepdim=True))
        std = average_over_processes(((x - mean)**2).mean(dim=(0, 2, 3), keepdim=True)).sqrt()
        if not (mean.isfinite().all() and std.isfinite().all()):
            return
        self.bias.copy_(-mean)
        # a constant channel keeps its scale: amplified a million times in each layer, the next image would overflow
        self.log_scale.copy_(torch.where(std > 1e-6, -torch.log(std + 1e-6), 0))
        self.mark_initialized()

    def mark_initialized(self) -> None:
        """Keep the present weights; data will not initialize them any more."""
        self.initialized.fill_(True)
        self._known_initialized = True

    def is_initialized(self) -> bool:
        """Whether the weights are initialized or loaded."""
        if not self._known_initialized:
            self._known_initialized = bool(self.initialized)
        return self._known_initialized

    def waits_for_data(self) -> bool:
        """Whether the next forward pass initializes this layer."""
        return self.training and not self.is_initialized()

    def normalize(self, x: torch.Tensor) -> torch.Tensor:
        """The output of :meth:`forward` without log_det, for use as an ordinary layer."""
        if self.waits_for_data():
            self.initialize(x)
        return (x + self.bias) * self.log_scale.exp()

    def forward(self, x, context=None):
        z = self.normalize(x)
        return z, (self.log_scale.sum() * x.shape[2] * x.shape[3]).expand(x.shape[0])

    def inverse(self, z, context=None):
        return z * torch.exp(-self.log_scale) - self.bias

    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialized = False


def average_over_processes(mean: torch.Tensor) -> torch.Tensor:
    """Average over processes; their batches have equal size, because training drops the last incomplete batch."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return mean


class InvertibleConv1x1(FlowLayer):
    """`y = W x` with a learned square matrix (Glow, section 3.2); starts as a random orthogonal matrix.

    Args:
        num_channels (int): Channels of the input.
    """

    def __init__(self, num_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, num_channels))
        nn.init.orthogonal_(self.weight)

    @full_precision
    def forward(self, x, context=None):
        z = conv1x1(x, self.weight)
        log_abs_det = sum_log_abs_det([self.weight]).to(torch.promote_types(x.dtype, torch.float32))
        return z, (log_abs_det * x.shape[2] * x.shape[3]).expand(x.shape[0])

    @full_precision
    def inverse(self, z, context=None):
        return conv1x1(z, invert([self.weight])[0].to(z.dtype))


def conv1x1(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """1x1 convolution of (N, C, H, W) by a matrix (K, C), bias (K,).

    A matrix product, because PyTorch computes it in full float32 on GPUs, whereas convolutions round to TF32.
    """
    n, _, h, w = x.shape
    return linear(x, weight, bias).view(n, -1, h, w)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """:func:`conv1x1` as (N, K, H * W)."""
    n, x = x.shape[0], x.flatten(2)
    # backward of expand is a sum, even of one; what is traced must take other numbers of images
    weight = weight[None] if not is_traced() and n == 1 else weight.expand(n, -1, -1)
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias.view(1, -1, 1), weight, x)


def sum_log_abs_det(weights: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Sum of log|det| of matrices of equal size, in one batched float64 call."""
    matrices = _stacked(weights)
    return _back(torch.linalg.slogdet(double(matrices))[1].sum(), matrices)


def invert(weights: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Inverses of matrices of equal size, (K, C, C), in one batched call; in float64, because errors add up.

    Unlike `torch.linalg.inv`, this does not check for singular matrices, which would synchronize with a GPU. Their
    inverse is not finite.
    """
    matrices = _stacked(weights)
    return _back(torch.linalg.inv_ex(double(matrices)).inverse, matrices)


def _stacked(weights):
    return weights if torch.is_tensor(weights) else torch.stack(tuple(weights))


def double(x: torch.Tensor) -> torch.Tensor:
    """x in float64; on the CPU if its device has no float64."""
    return (x.cpu() if x.device.type in NO_FLOAT64 else x).double()


def _back(result, matrices):
    """What :func:`double` moved to the CPU goes back, in the type of the device."""
    return result if result.device == matrices.device else result.to(matrices.dtype).to(matrices.device)
