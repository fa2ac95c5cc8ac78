"""Flow steps and chains of them (Glow, figure 2; HCFlow)."""
from collections.abc import Sequence

import torch
import torch.nn as nn

from hcflow_arch.convs.modes import is_recording, is_traced
from hcflow_arch.convs.recompute import recomputed

from .couplings import BOUND, AffineCoupling
from .folding import FoldedStep, fold, fold_inverse, values_of
from .fused_coupling import FoldedFCN, change, change_back
from .layers import ActNorm2d, FlowLayer, InvertibleConv1x1, conv1x1, invert, linear, sum_log_abs_det
from .subnets import FCN


class FlowStep(FlowLayer):
    """Actnorm, 1x1 convolution (optional), coupling: the repeated unit of the flow (Glow, figure 2a).

    Actnorm and 1x1 convolution together are linear, so they run as one convolution with bias. Their log-determinant and
    inverse matrix do not depend on the image; a chain computes them for all its steps at once and passes them in.

    Args:
        num_channels (int): Channels of the input.
        coupling (FlowLayer): The coupling layer.
        with_conv (bool): Mix channels by a learned 1x1 convolution before the coupling. Default: True.
        recompute (bool): Store only the input for backward, which runs the step again. Default: False.
    """

    def __init__(self, num_channels: int, coupling: FlowLayer, with_conv: bool = True, recompute: bool = False):
        super().__init__()
        self.actnorm = ActNorm2d(num_channels)
        self.conv1x1 = InvertibleConv1x1(num_channels) if with_conv else None
        self.coupling = coupling
        self.recompute = recompute

    def forward(self, x, context=None):
        z, log_det = self.change(x, context)
        return z, log_det + linear_log_det([self]) * (x.shape[2] * x.shape[3])

    def inverse(self, z, context=None, conv_inverse: torch.Tensor | None = None):
        """latent -> data; `conv_inverse`: the inverse 1x1 matrix (C, C), if the caller has it."""
        if conv_inverse is None and self.conv1x1 is not None:
            conv_inverse = invert([self.conv1x1.weight])[0]
        return self._run(self._inverse, z, context, conv_inverse)

    def change(self, x: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Like :meth:`forward`, but log_det is that of the coupling alone."""
        return self._run(self._forward, x, context, self.actnorm.waits_for_data())

    def _run(self, function, *args):
        return recomputed(function, self, *args) if self.recompute else function(*args)

    def _forward(self, x, context, starting):
        with torch.autocast(x.device.type, enabled=False):
            x = self._linear(x, starting)
        return self.coupling(x, context)

    def _inverse(self, z, context, conv_inverse):
        y = self.coupling.inverse(z, context)
        with torch.autocast(y.device.type, enabled=False):
            return self._linear_inverse(y, conv_inverse)

    def _linear(self, x, starting):
        norm, weight = self.actnorm, None if self.conv1x1 is None else self.conv1x1.weight
        if starting:  # layer by layer: else new biases get rounding errors as gradients, which Adam turns into steps
            x = norm.normalize(x)
            return x if weight is None else conv1x1(x, weight)
        scale = norm.log_scale.exp()
        if weight is None:
            return torch.addcmul(norm.bias * scale, x, scale)
        weight = weight * scale.view(1, -1)
        return conv1x1(x, weight, weight @ norm.bias.flatten())

    def _linear_inverse(self, y, conv_inverse):
        norm = self.actnorm
        scale = torch.exp(-norm.log_scale)
        if conv_inverse is None:
            return torch.addcmul(-norm.bias, y, scale)
        return conv1x1(y, (conv_inverse * scale.view(-1, 1)).to(y.dtype), -norm.bias.flatten())


    # ---- with weights that the chain has folded ----

    def folds(self) -> bool:
        """Whether the step can run with folded weights now: it has the standard layers, and none waits for data."""
        coupling, conv = self.coupling, self.conv1x1
        if type(coupling) is not AffineCoupling or type(coupling.subnet) is not FCN or conv is None:
            return False
        return not any(norm.waits_for_data() for norm in (self.actnorm, coupling.subnet.norm1, coupling.subnet.norm2))

    def change_folded(self, x: torch.Tensor, context: torch.Tensor | None,
                      folded: FoldedStep) -> tuple[torch.Tensor, torch.Tensor]:
        """Like :meth:`change`, but instead of log_det log_scale / BOUND of the coupling, (N, K, H, W)."""
        return self._run_folded(self._forward_folded, x, context, *folded[:2], *folded.fcn)

    def inverse_folded(self, z: torch.Tensor, context: torch.Tensor | None, folded: FoldedStep,
                       in_place: bool) -> torch.Tensor:
        """Like :meth:`inverse`. in_place: z may be overwritten, if gradients are disabled."""
        in_place = in_place and not torch.is_grad_enabled()
        return self._run_folded(self._inverse_folded, z, context, in_place, *folded[:2], *folded.fcn)

    def _run_folded(self, function, *args):
        with torch.autocast(args[0].device.type, enabled=False):  # the subnet's weights have its type already
            return recomputed(function, None, *args) if self.recompute else function(*args)

    def _forward_folded(self, x, context, matrix, bias, *fcn):
        z, angle = change(linear(x, matrix, bias), x.shape, context, FoldedFCN(*fcn), not self.recompute)
        return z.view(x.shape), angle

    def _inverse_folded(self, z, context, in_place, matrix, bias, *fcn):
        return conv1x1(change_back(z, context, FoldedFCN(*fcn), not self.recompute, in_place), matrix, bias)


def linear_log_det(steps: Sequence[FlowStep]) -> torch.Tensor:
    """log|det| per pixel of the actnorms and 1x1 convolutions of steps of equal size."""
    log_det = torch.stack([step.actnorm.log_scale for step in steps]).sum()
    weights = [step.conv1x1.weight for step in steps if step.conv1x1 is not None]
    return log_det + sum_log_abs_det(weights).to(log_det.dtype) if weights else log_det


class FlowSequential(nn.Sequential, FlowLayer):
    """A chain of flow layers with the same context. All its flow steps have the same number of channels.

    Steps run one by one as their layers say, or, if all have the standard layers, with weights that are folded for the
    whole chain at once (`folding.py`): the same numbers with far fewer kernels.
    """

    _kept_inverses = None  # (key, values, what was computed from them), last without gradients

    def forward(self, x, context=None):
        steps, log_det, angles = self._steps(), x.new_zeros(x.shape[0]), []
        folds = self._folds(steps)
        if folds:
            folded, log_det_per_pixel = fold(steps)
            own_context, folded = _in_type(context, folded), iter(folded)
        for layer in self:
            if folds and isinstance(layer, FlowStep):
                x, angle = layer.change_folded(x, own_context, next(folded))
                angles.append(angle)
                continue
            x, layer_log_det = layer.change(x, context) if isinstance(layer, FlowStep) else layer(x, context)
            log_det = log_det + layer_log_det
        if not steps:
            return x, log_det
        if folds:
            log_det = log_det.add(torch.cat(angles, dim=1).sum(dim=(1, 2, 3)), alpha=BOUND)
        else:
            log_det_per_pixel = linear_log_det(steps)
        return x, log_det.add(log_det_per_pixel, alpha=x.shape[2] * x.shape[3])

    def inverse(self, z, context=None):
        steps = self._steps()
        folds, in_place = self._folds(steps), False
        weights = self._inverse_weights(steps, folds)
        own_context = _in_type(context, weights) if folds else context
        for layer in reversed(self):
            is_step = isinstance(layer, FlowStep)
            if folds and is_step:
                z = layer.inverse_folded(z, own_context, weights.pop(), in_place)
            elif is_step:
                z = layer.inverse(z, context, weights.pop() if layer.conv1x1 is not None else None)
            else:
                z = layer.inverse(z, context)
            in_place = folds and is_step  # its output is a new tensor; other layers may return what they got
        return z

    def __getstate__(self):
        return {**self.__dict__, '_kept_inverses': None}  # copies compute their own

    def _steps(self) -> list[FlowStep]:
        return [layer for layer in self if isinstance(layer, FlowStep)]

    def _folds(self, steps) -> bool:
        return bool(steps) and not is_traced() and all(step.folds() for step in steps)

    def _inverse_weights(self, steps, folds: bool) -> list:
        """Folded weights of the steps, or the inverses of their 1x1 matrices; cached while the weights do not change.

        This compares values, not version counters: `param.data.mul_()`, as in BasicSR's EMA, does not increase those.
        """
        matrices = [step.conv1x1.weight for step in steps if step.conv1x1 is not None]
        if not matrices:
            return []
        device = matrices[0].device

        def compute():
            return fold_inverse(steps) if folds else list(invert(matrices))
        # no comparison in training, which would synchronize with a GPU, nor in a CUDA graph, which cannot branch
        if torch.is_grad_enabled() or is_recording(device):
            return compute()
        amp = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        values = values_of(steps) if folds else torch.stack(matrices)
        key, kept = (folds, device, values.dtype, amp), self._kept_inverses
        if kept is None or kept[0] != key or not torch.equal(kept[1], values):
            self._kept_inverses = kept = key, values, compute()
        return list(kept[2])


def _in_type(context, folded):
    """The context in the type of the subnets' weights."""
    return None if context is None else context.to(folded[0].fcn.conv1.dtype)
