"""An affine coupling and its FCN as one autograd function: the numbers of `AffineCoupling` with few kernels.

What is computed is defined by :class:`.couplings.AffineCoupling` and :class:`.subnets.FCN`. Here the weights are folded
(`folding.py`), so the last convolution gives all shifts, then all raw scales, already times 2. The arithmetic writes
into the image itself, and backward is written by hand.
"""
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from hcflow_arch.convs.direct import conv_backward
from hcflow_arch.convs.fcn_tail import conv1x1_relu, hidden_convs_backward
from hcflow_arch.convs.layout import layout_like

from .couplings import BOUND

BASE = math.exp(BOUND)  # exp(log_scale) = BASE**atan(2 * raw)


class FoldedFCN(NamedTuple):
    """Weights of an FCN with its actnorms and the scale of its zero convolution folded in.

    Attributes:
        conv1: (D, C, 3, 3), for the part of the image that is kept.
        context_conv: (D, F, 3, 3), for the context; None without one.
        bias1: (D,).
        conv2: (D, D, 1, 1).
        bias2: (D,).
        conv3: (2K, D, 3, 3), gives the shifts of K channels (negative for the inverse), then twice the raw scales.
        bias3: (2K,).
    """
    conv1: torch.Tensor
    context_conv: torch.Tensor | None
    bias1: torch.Tensor
    conv2: torch.Tensor
    bias2: torch.Tensor
    conv3: torch.Tensor
    bias3: torch.Tensor


def change(y: torch.Tensor, shape: torch.Size, context: torch.Tensor | None, fcn: FoldedFCN,
           recompute: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """data -> latent.

    Args:
        y: (N, C, H * W), changed in place.
        shape: (N, C, H, W).
        context: (N, F, H, W) in the type of the weights, or None.
        fcn: Weights.
        recompute: Store only one of the two hidden features for backward.

    Returns:
        z (N, C, H * W), which is y, and log_scale / BOUND of the changed channels, (N, K, H, W).
    """
    if torch.is_grad_enabled():
        return _Forward.apply(y, shape, context, recompute, *fcn)
    return _forward(y, shape, context, fcn)[:2]


def change_back(z: torch.Tensor, context: torch.Tensor | None, fcn: FoldedFCN, recompute: bool,
                in_place: bool = False) -> torch.Tensor:
    """latent -> data. z: (N, C, H, W); in_place: may be overwritten, if gradients are disabled."""
    if torch.is_grad_enabled():
        return _Inverse.apply(z, context, recompute, *fcn)
    return _inverse(z, context, fcn, z if in_place else torch.empty_like(z))[0]


def _forward(y, shape, context, fcn):
    kept, changed = _split(y.view(shape), fcn)
    hidden, middle, shift, raw = _subnet(kept, context, fcn, y.dtype)
    angle = raw.atan()
    scale = torch.pow(BASE, angle)
    changed.add_(shift).mul_(scale)
    return y, angle, hidden, middle, scale


def _inverse(z, context, fcn, x):
    kept, changed = _split(z, fcn)
    hidden, middle, shift, raw = _subnet(kept, context, fcn, z.dtype)
    angle = raw.atan()
    scale = torch.pow(1 / BASE, angle)
    if x is not z:
        x[:, :kept.shape[1]].copy_(kept)
    torch.addcmul(shift, changed, scale, out=x[:, kept.shape[1]:])
    return x, angle, hidden, middle, scale


class _Forward(torch.autograd.Function):

    @staticmethod
    def forward(ctx, y, shape, context, recompute, *weights):
        z, angle, hidden, middle, scale = _forward(y, shape, context, FoldedFCN(*weights))
        ctx.mark_dirty(y)
        ctx.shape = shape
        ctx.save_for_backward(z, context, hidden, None if recompute else middle, angle, scale, *weights)
        return z, angle

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, of_angle):
        z, context, hidden, middle, angle, scale, *weights = ctx.saved_tensors
        fcn, grad = FoldedFCN(*weights), grad.view(ctx.shape)
        kept, changed = _split(z.view(ctx.shape), fcn)
        num_kept, num_channels = kept.shape[1], z.shape[1]
        # gradients of the kept channels, the changed ones (that of the shift, too), and the raw scales
        grads = grad.new_empty(len(z), num_channels + angle.shape[1], *ctx.shape[2:])
        torch.mul(grad[:, num_kept:], scale, out=grads[:, num_kept:num_channels])
        of_angle = torch.addcmul(of_angle, grad[:, num_kept:], changed, value=BOUND)
        _of_raw(of_angle, angle, out=grads[:, num_channels:])
        of_kept, *others = _subnet_backward(grads[:, num_kept:], kept, context, hidden, middle, fcn,
                                            ctx.needs_input_grad[2], ctx.needs_input_grad[4:])
        torch.add(grad[:, :num_kept], of_kept, out=grads[:, :num_kept])
        return grads[:, :num_channels].flatten(2), None, others[0], None, *others[1:]


class _Inverse(torch.autograd.Function):

    @staticmethod
    def forward(ctx, z, context, recompute, *weights):
        x, angle, hidden, middle, scale = _inverse(z, context, FoldedFCN(*weights), torch.empty_like(z))
        ctx.save_for_backward(z, context, hidden, None if recompute else middle, angle, scale, *weights)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        z, context, hidden, middle, angle, scale, *weights = ctx.saved_tensors
        fcn = FoldedFCN(*weights)
        kept, changed = _split(z, fcn)
        num_kept, num_changed = kept.shape[1], angle.shape[1]
        of_z, of_output = torch.empty_like(z), grad.new_empty(len(z), 2 * num_changed, *z.shape[2:])
        of_output[:, :num_changed].copy_(grad[:, num_kept:])
        of_changed = torch.mul(grad[:, num_kept:], scale, out=of_z[:, num_kept:])
        of_angle = torch.mul(of_changed, changed).mul_(-BOUND)
        _of_raw(of_angle, angle, out=of_output[:, num_changed:])
        of_kept, *others = _subnet_backward(of_output, kept, context, hidden, middle, fcn, ctx.needs_input_grad[1],
                                            ctx.needs_input_grad[3:])
        torch.add(grad[:, :num_kept], of_kept, out=of_z[:, :num_kept])
        return of_z, others[0], None, *others[1:]


def _of_raw(of_angle, angle, out):
    """The gradient of raw, where angle = atan(raw): 1 / (1 + raw^2) = cos(angle)^2 = 1 - sin(angle)^2."""
    torch.ops.aten.tanh_backward.grad_input(of_angle, angle.sin(), grad_input=out)


def _split(image, fcn):
    """Views of the channels that are kept, and of those that are changed."""
    return image.split([fcn.conv1.shape[1], len(fcn.conv3) // 2], dim=1)


def _as_input(kept, conv1):
    return kept.to(conv1.dtype).contiguous(memory_format=layout_like(conv1))


def _subnet(kept, context, fcn, dtype):
    """Both hidden features, shift and raw scale of the channels that are changed."""
    x = _as_input(kept, fcn.conv1)
    if fcn.context_conv is None:
        hidden = F.conv2d(x, fcn.conv1, fcn.bias1, padding=1)
    else:  # of a concatenation, without one
        hidden = F.conv2d(context, fcn.context_conv, fcn.bias1, padding=1).add_(F.conv2d(x, fcn.conv1, padding=1))
    hidden.relu_()
    middle = conv1x1_relu(hidden, fcn.conv2, fcn.bias2)
    output = F.conv2d(middle, fcn.conv3, fcn.bias3, padding=1).to(dtype).contiguous()
    return hidden, middle, *output.chunk(2, dim=1)


def _subnet_backward(grad, kept, context, hidden, middle, fcn, wants_context, wants):
    """Gradients of (kept, context, *fcn) from that of the output of the subnet, (N, 2K, H, W)."""
    with torch.autocast(grad.device.type, enabled=False):  # all tensors already have the type to compute in
        if middle is None:
            middle = conv1x1_relu(hidden, fcn.conv2, fcn.bias2)
        grad = grad.to(fcn.conv3.dtype).contiguous(memory_format=layout_like(fcn.conv3))
        of_hidden, *of_tail = hidden_convs_backward(grad, hidden, middle, fcn.conv2, fcn.conv3, (True, *wants[3:]))
        of_hidden = torch.ops.aten.threshold_backward(of_hidden, hidden, 0)
        of_kept, of_conv1, of_bias1 = conv_backward(of_hidden, _as_input(kept, fcn.conv1), fcn.conv1,
                                                    (True, wants[0], wants[2]))
        of_context = of_context_conv = None
        if fcn.context_conv is not None:
            of_context, of_context_conv, _ = conv_backward(of_hidden, context, fcn.context_conv,
                                                           (wants_context, wants[1], False))
    return of_kept, of_context, of_conv1, of_context_conv, of_bias1, *of_tail
