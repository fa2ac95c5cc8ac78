"""Folds actnorms, 1x1 matrices and scales into the weights of convolutions, for all flow steps of a chain at once.

The layers define what is computed (`FlowStep`, `FCN`, `ZeroConv2d`). Step by step their small arithmetic on weights
takes more kernels than the images do; stacked over a chain it takes one per operation.
"""
from typing import NamedTuple

import torch

from hcflow_arch.convs.layout import is_channels_last
from hcflow_arch.convs.modes import in_autocast_type

from .fused_coupling import FoldedFCN
from .layers import invert, sum_log_abs_det


class FoldedStep(NamedTuple):
    """A flow step as one 1x1 convolution and a coupling.

    Attributes:
        matrix: (C, C), of actnorm and 1x1 convolution, or their inverse.
        bias: (C,).
        fcn: The subnet of the coupling, in autocast's type.
    """
    matrix: torch.Tensor
    bias: torch.Tensor
    fcn: FoldedFCN


def fold(steps) -> tuple[list[FoldedStep], torch.Tensor]:
    """Folded weights for data -> latent, and log|det| per pixel of all actnorms and 1x1 convolutions.

    Args:
        steps: FlowSteps of equal sizes, with a 1x1 convolution and an affine coupling by an FCN.
    """
    weights, log_scales, biases = _linear(steps)
    matrices = weights * log_scales.exp()[:, None]
    with torch.autocast(weights.device.type, enabled=False):
        offsets = torch.bmm(matrices, biases[:, :, None])[..., 0]
    # the gradient of log|det| is an inverse transposed, in memory, too: of the transposed matrix, it needs no copy
    log_det = log_scales.sum() + sum_log_abs_det(weights.mT).to(log_scales.dtype)
    return _steps(matrices, offsets, _fold_fcns(steps, inverse=False)), log_det


def fold_inverse(steps) -> list[FoldedStep]:
    """Folded weights for latent -> data."""
    weights, log_scales, biases = _linear(steps)
    matrices = (invert(weights) * torch.exp(-log_scales)[:, :, None]).to(weights.dtype)
    return _steps(matrices, -biases, _fold_fcns(steps, inverse=True))


def values_of(steps) -> torch.Tensor:
    """All parameters of the steps in one vector, to see whether they have changed: two kernels."""
    parameters = [parameter.detach() for step in steps for parameter in step.parameters()]
    return torch.cat([(parameter.permute(0, 2, 3, 1) if is_channels_last(parameter) else parameter).reshape(-1)
                      for parameter in parameters])


def _steps(matrices, biases, fcns):
    return [FoldedStep(*parts) for parts in zip(matrices.unbind(), biases.unbind(), fcns, strict=True)]


def _linear(steps):
    """1x1 matrices (K, C, C), log_scales (K, C) and biases (K, C)."""
    return (torch.stack([step.conv1x1.weight for step in steps]), *_norms([step.actnorm for step in steps]))


def _norms(norms):
    return (torch.stack([norm.log_scale.flatten() for norm in norms]),
            torch.stack([norm.bias.flatten() for norm in norms]))


def _fold_fcns(steps, inverse):
    fcns = [step.coupling.subnet for step in steps]
    log_scales, biases = _norms([fcn.norm1 for fcn in fcns] + [fcn.norm2 for fcn in fcns])
    scales = log_scales.exp()
    (scale1, scale2), (bias1, bias2) = scales.chunk(2), (biases * scales).chunk(2)

    conv1, to_weights1 = _stack([fcn.conv1.weight for fcn in fcns])
    conv1 = conv1 * _like(scale1, conv1)
    num_kept = steps[0].coupling.num_first
    channels = [num_kept, fcns[0].conv1.weight.shape[1] - num_kept]
    of_kept, of_context = conv1.split(channels, dim=2 if to_weights1 is _planes else -1)
    conv2 = torch.stack([fcn.conv2.weight.flatten(1) for fcn in fcns])
    conv2 = (conv2 * _like(scale2, conv2))[..., None, None]

    # even channels are the shift and odd ones the raw scale, of which the coupling needs twice the value
    log_scales = torch.stack([fcn.conv3.log_scale.flatten() for fcn in fcns])
    of_shift, of_raw = torch.exp(3 * log_scales).unflatten(1, (-1, 2)).unbind(2)
    scale3 = torch.stack([-of_shift if inverse else of_shift, 2 * of_raw], dim=1)  # (K, 2, C)
    conv3, to_weights3 = _stack([fcn.conv3.weight for fcn in fcns])
    conv3 = conv3.unflatten(1, (-1, 2)).transpose(1, 2)
    conv3 = (conv3 * _like(scale3, conv3)).contiguous().flatten(1, 2)
    bias3 = torch.stack([fcn.conv3.bias for fcn in fcns]).unflatten(1, (-1, 2)).transpose(1, 2)
    bias3 = (bias3 * scale3).flatten(1)

    stacks = in_autocast_type(of_kept.contiguous(), of_context.contiguous(), bias1, conv2, bias2, conv3, bias3)
    of_kept, of_context, *others, conv3, bias3 = (stack.unbind() for stack in stacks)
    of_context = to_weights1(of_context) if channels[1] else [None] * len(fcns)
    return map(FoldedFCN, to_weights1(of_kept), of_context, *others, to_weights3(conv3), bias3)


def _stack(weights):
    """Weights of 3x3 convolutions as a stack in the order of their memory, and a function that turns slices back."""
    if not is_channels_last(weights[0]):
        return torch.stack(weights), _planes
    return torch.stack([weight.permute(0, 2, 3, 1) for weight in weights]), _channels_last


def _planes(weights):
    return weights


def _channels_last(weights):
    return [weight.permute(0, 3, 1, 2) for weight in weights]


def _like(scale, weights):
    """(K, ..., C) -> (K, ..., C, 1, ...), to multiply weights by."""
    return scale.view(*scale.shape, *[1] * (weights.dim() - scale.dim()))
