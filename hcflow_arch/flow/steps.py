"""Flow steps and chains of them (Glow, figure 2; HCFlow)."""
from collections.abc import Sequence

import torch
import torch.nn as nn

from hcflow_arch.convs.modes import is_recording
from hcflow_arch.convs.recompute import recomputed

from .layers import ActNorm2d, FlowLayer, InvertibleConv1x1, conv1x1, invert, sum_log_abs_det


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


def linear_log_det(steps: Sequence[FlowStep]) -> torch.Tensor:
    """log|det| per pixel of the actnorms and 1x1 convolutions of steps of equal size."""
    log_det = torch.stack([step.actnorm.log_scale for step in steps]).sum()
    weights = [step.conv1x1.weight for step in steps if step.conv1x1 is not None]
    return log_det + sum_log_abs_det(weights).to(log_det.dtype) if weights else log_det


class FlowSequential(nn.Sequential, FlowLayer):
    """A chain of flow layers with the same context. All its flow steps have the same number of channels."""

    _kept_inverses = None  # (matrices, inverses), last computed without gradients

    def forward(self, x, context=None):
        log_det = x.new_zeros(x.shape[0])
        for layer in self:
            x, layer_log_det = layer.change(x, context) if isinstance(layer, FlowStep) else layer(x, context)
            log_det = log_det + layer_log_det
        steps = self._steps()
        return x, log_det + linear_log_det(steps) * (x.shape[2] * x.shape[3]) if steps else log_det

    def inverse(self, z, context=None):
        inverses = self._conv_inverses()
        for layer in reversed(self):
            if isinstance(layer, FlowStep):
                z = layer.inverse(z, context, inverses.pop() if inverses else None)
            else:
                z = layer.inverse(z, context)
        return z

    def _steps(self) -> list[FlowStep]:
        return [layer for layer in self if isinstance(layer, FlowStep)]

    def _conv_inverses(self) -> list[torch.Tensor]:
        """The inverse 1x1 matrices of the steps, cached while the matrices do not change.

        This compares values, not version counters: `param.data.mul_()`, as in BasicSR's EMA, does not increase those.
        """
        weights = [step.conv1x1.weight for step in self._steps() if step.conv1x1 is not None]
        if not weights:
            return []
        # no comparison in training, which would synchronize with a GPU, nor in a CUDA graph, which cannot branch
        if torch.is_grad_enabled() or is_recording(weights[0].device):
            return list(invert(weights))
        matrices, kept = torch.stack(weights), self._kept_inverses
        same = kept is not None and all(getattr(kept[0], key) == getattr(matrices, key) for key in ('device', 'dtype'))
        if not same or not torch.equal(kept[0], matrices):
            self._kept_inverses = kept = matrices, invert(weights)
        return list(kept[1])
