"""HCFlowNet: one flow for super-resolution and rescaling (Liang et al., ICCV 2021, arXiv 2108.05301)."""
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn

from .checks import check_counts, check_image, check_latents, check_num_block, check_temperature, fit_to_scale
from .convs.layout import ChannelsLastModule
from .errors import InputError
from .features.feature_net import RegisteredFeatureNet, RRDBFeatureNet, build_feature_net, per_level
from .flow.couplings import ShiftCoupling, find_coupling
from .flow.initialization import apply_start, fit_start, no_data_start
from .flow.layers import ActNorm2d
from .flow.level import HCFlowLevel
from .flow.prior import ConditionalGaussian, gaussian_log_prob, scale_noise
from .flow.squeeze import HaarSqueeze, SpaceToDepth
from .flow.steps import FlowSequential, FlowStep
from .flow.subnets import FCN, DenseBlock

SCALES = (2, 4, 8, 16)
TASKS = ('sr', 'rescaling')
MEMORY_MODES = ('default', 'low')
LQ_LOG_STD = -6.  # log standard deviation of the LR image's Gaussian: an error of 1/255 costs 1.3 nats


class HCFlowCode(NamedTuple):
    """What :meth:`HCFlowNet.encode` returns.

    Attributes:
        lq: LR image in [0, 1], (N, 3, h, w). SR: rounded to 8 bits, its gradient that of the unrounded image.
            Rescaling: clamped, not rounded.
        latents: z of every level, finest first; empty where they were left out.
        nll: Bits per HR pixel, (N,); None in rescaling, without an LR image or latents.
        lq_exact: LR image before clamping and rounding: with it and the latents, decode restores the HR image.
    """
    lq: torch.Tensor
    latents: list[torch.Tensor]
    nll: torch.Tensor | None
    lq_exact: torch.Tensor


class HCFlowNet(ChannelsLastModule):
    """Hierarchical conditional flow: a bijection between an HR image and (LR image, latents).

    The default is the paper's network for x4 super-resolution. `scale` and `task` change the defaults of the other
    arguments to the paper's values.

    Args:
        scale (int): 2, 4, 8 or 16. Default: 4.
        task (str): 'sr' or 'rescaling'. Default: 'sr'.
        quant_bins (int): Dequantization noise is uniform in [0, 1/quant_bins) (SR). Default: 64 up to x4, else 256.
        num_flow_steps (int): Main flow steps of each level. Default: 13; rescaling: 8.
        num_cond_steps (int): Conditional flow steps of each level. Default: 13; rescaling: 6.
        hidden_channels (int): Channels inside the FCN subnets. Default: 64.
        num_subnet_grow_ch (int): Growth channels of the dense-block subnets (main steps of rescaling). Default: 32.
        num_feat (int): Features of the RRDB feature nets. Default: 64.
        num_block (Sequence[int]): RRDBs in the two parts of the feature nets. Default: (7, 7) up to x4, else (5, 5);
            rescaling: (2, 1).
        num_grow_ch (int): Growth channels of the RRDBs. Default: 32; rescaling: 16.
        feature_net (dict or list): In place of RRDBs, `{type: NAME, ...}`: ResidualFeatureNet with `num_feat` and
            `num_block`, or an architecture registered in BasicSR that keeps the resolution, or enlarges, with
            `unshuffle: true`. A list has one for each level, finest first; `~`: RRDBs. Default: None.
        coupling (str): Name of the coupling, see docs/extending.md. Default: 'AffineCoupling'.
        temperature (float): Sampling temperature of `net(lq)`. Default: 0; rescaling: 1.
        start (str): Starting values, 'paper' or 'wavelet' (compared in docs/learning.md). Default: 'paper'.
        memory (str): 'default', or 'low': training stores only the inputs of dense blocks and flow steps for backward,
            and computes the rest again. Less than a third of the memory, the same numbers. Default: 'default'.
        channels_last (bool): Store features channels last. `~`: on where it is faster (CPUs with AVX2 or AVX-512, GPUs
            with TF32). Default: None.
        compile (bool): Compile the dense blocks with torch.compile for validation and sampling, on GPUs. Takes up to a
            minute, once per process. Default: False.

    Raises:
        InputError: A wrong argument.
    """

    def __init__(self, scale: int = 4, task: str = 'sr', quant_bins: int | None = None,
                 num_flow_steps: int | None = None, num_cond_steps: int | None = None, hidden_channels: int = 64,
                 num_subnet_grow_ch: int = 32, num_feat: int = 64, num_block: Sequence[int] | None = None,
                 num_grow_ch: int | None = None, feature_net: dict | Sequence[dict | None] | None = None,
                 coupling: str = 'AffineCoupling', temperature: float | None = None, start: str = 'paper',
                 memory: str = 'default', channels_last: bool | None = None, compile: bool = False):
        given = {name: value for name, value in locals().items() if name not in ('self', '__class__')}
        super().__init__()
        self.arguments = {name: value for name, value in given.items() if value is not None}  # to rebuild the network
        if scale not in SCALES or not isinstance(scale, int):
            raise InputError(f'network_g.scale is {scale!r}; allowed are {SCALES}.')
        if task not in TASKS:
            raise InputError(f'network_g.task is {task!r}; allowed are {TASKS}.')
        if memory not in MEMORY_MODES:
            raise InputError(f'network_g.memory is {memory!r}; allowed are {MEMORY_MODES}.')
        coupling_class, rescaling, recompute = find_coupling(coupling), task == 'rescaling', memory == 'low'
        num_flow_steps = _default(num_flow_steps, 8 if rescaling else 13)
        num_cond_steps = _default(num_cond_steps, 6 if rescaling else 13)
        num_grow_ch = _default(num_grow_ch, 16 if rescaling else 32)
        num_block = _default(num_block, (2, 1) if rescaling else (7, 7) if scale <= 4 else (5, 5))
        self.scale, self.task = scale, task
        self.quant_bins = _default(quant_bins, 64 if scale <= 4 else 256)
        self.temperature = _default(temperature, 1. if rescaling else 0.)
        check_temperature('network_g.temperature', self.temperature)
        check_counts(quant_bins=self.quant_bins, num_flow_steps=num_flow_steps, num_cond_steps=num_cond_steps,
                      hidden_channels=hidden_channels, num_subnet_grow_ch=num_subnet_grow_ch, num_feat=num_feat,
                      num_grow_ch=num_grow_ch)
        check_num_block(num_block)

        def glow_step(num_channels: int, num_context_ch: int = 0) -> FlowStep:
            # actnorm, 1x1 convolution, coupling (Glow, section 3), with context in the conditional flow
            half = num_channels // 2
            subnet = FCN(half + num_context_ch, coupling_class.num_outputs * (num_channels - half), hidden_channels,
                         recompute=not recompute)  # not needed if the whole step is run again
            return FlowStep(num_channels, coupling_class(subnet, half), recompute=recompute)

        def main_step(index: int, num_channels: int) -> FlowStep:
            if not rescaling:
                return glow_step(num_channels)
            # the first three channels are the LR image; in turn it conditions the others and is shifted by them
            if index % 2 == 0:
                subnet = DenseBlock(3, coupling_class.num_outputs * (num_channels - 3), num_subnet_grow_ch)
                return FlowStep(num_channels, coupling_class(subnet, 3), with_conv=False, recompute=recompute)
            subnet = DenseBlock(num_channels - 3, 3, num_subnet_grow_ch)
            return FlowStep(num_channels, ShiftCoupling(subnet, 3), with_conv=False, recompute=recompute)

        num_levels = int(math.log2(scale))
        num_channels, levels_args = 3, []
        for level in range(num_levels):
            squeeze = HaarSqueeze(num_channels) if rescaling else SpaceToDepth()
            main = FlowSequential(squeeze, *(main_step(i, 4 * num_channels) for i in range(num_flow_steps)))
            num_low = 3 if level == num_levels - 1 else 2 * num_channels
            levels_args.append((main, num_low, 4 * num_channels - num_low))
            num_channels = num_low

        levels, num_coarser = [], 0
        for (main, num_low, num_high), opt in zip(reversed(levels_args), reversed(per_level(feature_net, num_levels)),
                                                  strict=True):
            num_in_ch = num_low + num_coarser
            if opt is None:
                net = RRDBFeatureNet(num_in_ch, num_feat, tuple(num_block), num_grow_ch, both_parts=not rescaling,
                                     recompute=recompute)
            else:
                net = build_feature_net(num_in_ch, opt, recompute)
            steps = [glow_step(num_high, net.num_out_ch) for _ in range(num_cond_steps)]
            prior = FlowSequential(*steps, ConditionalGaussian(num_high, net.num_out_ch, bounded=rescaling))
            levels.append(HCFlowLevel(main, num_low, net, prior))
            num_coarser += net.num_out_ch
        self.levels = nn.ModuleList(reversed(levels))
        self.start = start
        apply_start(self, start)
        self.lay_out(channels_last)
        self.compile_blocks(compile)

    def compile_blocks(self, compiled: bool) -> None:
        """Choose whether dense blocks use torch.compile when gradients are disabled."""
        if not isinstance(compiled, bool):
            raise InputError(f'network_g.compile is {compiled!r}; it must be true or false.')
        self.compiles_blocks = compiled
        for module in self.modules():
            if isinstance(module, DenseBlock):
                module.compiled = compiled

    def keeps_layout(self):
        return [module for module in self.modules() if isinstance(module, RegisteredFeatureNet)]

    # ---- HR -> (LR, latents) ----

    def encode(self, gt: torch.Tensor, lq: torch.Tensor | None = None,
               dequantization_noise: torch.Tensor | None = None, with_latents: bool = True) -> HCFlowCode:
        """Split HR images into LR images and latents; with `lq`, also give their likelihood (HCFlow).

        If the size is not a multiple of the scale, `gt` is padded by reflection at the bottom and right; crop the
        output of decode to `[..., :H, :W]`. With `lq`, the size of `lq` decides: `gt` is cropped (the usual modcrop of
        test sets) or padded to `scale` times that size, by less than `scale` pixels.

        Args:
            gt: HR images in [0, 1], RGB, float, (N, 3, H, W).
            lq: LR images in [0, 1], (N, 3, h, w). Default: None, no nll.
            dequantization_noise: u in [0, 1) with the shape of gt; u / quant_bins is added (SR). Default: random.
            with_latents: False leaves out the latents and the nll, which take most of the time. Default: True.

        Raises:
            InputError: Wrong shape or type, sizes of LR and HR that do not fit each other, HR smaller than the scale.
        """
        check_image('gt', gt, check_range=True)
        if lq is not None:
            check_image('lq', lq, num_images=gt.shape[0], check_range=True)
        x = fit_to_scale(gt, self.scale, lq)
        if self.task == 'sr':
            if dequantization_noise is None:
                dequantization_noise = torch.rand_like(x)
            elif dequantization_noise.shape != gt.shape:
                raise InputError(f'dequantization_noise has shape {tuple(dequantization_noise.shape)}; '
                                 f'it must be that of gt, {tuple(gt.shape)}.')
            else:
                dequantization_noise = fit_to_scale(dequantization_noise, self.scale, lq)
            x = x + dequantization_noise / self.quant_bins
        if self.training and self.start == 'wavelet' and not self.is_initialized():
            fit_start(self, x, lq)
        num_pixels = x.shape[2] * x.shape[3]

        parts, log_det = [], x.new_zeros(x.shape[0])
        for level in self.levels:
            x, high, level_log_det = level.split(x)
            parts.append((x, high))
            log_det = log_det + level_log_det
        lq_exact = x

        if not with_latents and self.is_initialized():  # else the rest must see the first batch
            parts, lq = [], None
        latents, features = [], []
        for level, (low, high) in zip(reversed(self.levels), reversed(parts), strict=False):
            features.append(level.features(low, features))
            latent, level_log_det = level.prior(high, features[-1])
            latents.append(latent)
            log_det = log_det + level_log_det
        latents.reverse()

        clamped = lq_exact.clamp(0, 1)
        if self.task == 'rescaling':
            return HCFlowCode(clamped, latents, None, lq_exact)
        # straight-through gradient of rounding and clamping
        lq_rounded = lq_exact + ((clamped * 255).round() / 255 - lq_exact).detach()
        if lq is None:
            return HCFlowCode(lq_rounded, latents, None, lq_exact)
        log_prob = log_det - math.log(self.quant_bins) * num_pixels
        log_prob = log_prob + sum(gaussian_log_prob(latent) for latent in latents)
        log_prob = log_prob + gaussian_log_prob(lq_rounded - lq, LQ_LOG_STD)
        return HCFlowCode(lq_rounded, latents, -log_prob / (math.log(2) * num_pixels), lq_exact)

    def downscale(self, gt: torch.Tensor) -> torch.Tensor:
        """The LR image alone, as :attr:`HCFlowCode.lq_exact` but without noise: (N, 3, H, W) -> (N, 3, h, w).

        Not clamped. It needs neither feature nets nor conditional steps, so it is much cheaper than :meth:`encode`.
        """
        check_image('gt', gt, check_range=True)
        x = fit_to_scale(gt, self.scale)
        for level in self.levels:
            x, _, _ = level.split(x)
        return x

    # ---- (LR, latents) -> HR ----

    def decode(self, lq: torch.Tensor, latents: Sequence[torch.Tensor] | None = None,
               temperature: float | torch.Tensor = 1.0, generator: torch.Generator | None = None,
               features: torch.Tensor | None = None, clamp: bool = True) -> torch.Tensor:
        """Restore HR images from LR images and latents. Without latents, they are drawn from temperature * N(0, I).

        The LR image is not rounded. Noise is drawn for the coarsest level first.

        Args:
            lq: LR images of any size in [0, 1], RGB, float, (N, 3, h, w).
            latents: z of each level, finest first, as encode returns them. Default: None, drawn.
            temperature: Standard deviation of the drawn latents, >= 0, or a map of it, (N, 1, h, w); not used with
                latents. Default: 1.
            generator: Random generator of the noise, on any device. Default: PyTorch's global one.
            features: What :meth:`coarsest_features` returned for `lq`; compute it once for many samples, at any
                temperature. Default: None, computed.
            clamp: Clamp to [0, 1]; False returns the pixels of the flow. Default: True.

        Returns:
            HR images, (N, 3, scale * h, scale * w).

        Raises:
            InputError: Wrong shapes or types, or an image far outside of [0, 1], such as one in [0, 255].
        """
        check_image('lq', lq, check_range=latents is None)
        if latents is None:
            latents = self.draw_latents(lq, temperature, generator)
        else:
            check_latents(latents, self.latent_shapes(lq))
        with no_data_start(self):
            x, known = lq, [self.levels[-1].features(lq, []) if features is None else features]
            for level, latent in zip(reversed(self.levels), reversed(latents), strict=True):
                if x is not lq:
                    known.append(level.features(x, known))
                x = level.join(x, level.prior.inverse(latent, known[-1]))
        return x.clamp(0, 1) if clamp else x

    def coarsest_features(self, lq: torch.Tensor) -> torch.Tensor:
        """The features of the coarsest level, which depend only on the LR image (N, 3, h, w), for :meth:`decode`."""
        check_image('lq', lq, check_range=True)
        with no_data_start(self):
            return self.levels[-1].features(lq, [])

    def latent_shapes(self, lq: torch.Tensor) -> list[tuple[int, int, int, int]]:
        """Shapes of the latents of an LR image (N, 3, h, w), finest level first."""
        n, _, h, w = lq.shape
        shapes = []
        for index, level in enumerate(self.levels):
            factor = self.scale // 2**(index + 1)
            num_high = level.prior[-1].num_channels
            shapes.append((n, num_high, h * factor, w * factor))
        return shapes

    def draw_latents(self, lq: torch.Tensor, temperature: float | torch.Tensor = 1.0,
                     generator: torch.Generator | None = None) -> list[torch.Tensor]:
        """Latents temperature * N(0, I) for an LR image (N, 3, h, w), finest level first, coarsest drawn first."""
        check_temperature('temperature', temperature, lq)
        shapes = self.latent_shapes(lq)
        if not torch.is_tensor(temperature) and temperature == 0:
            return [lq.new_zeros(shape) for shape in shapes]
        device = lq.device if generator is None else generator.device
        noise = [torch.randn(shape, generator=generator, device=device, dtype=lq.dtype) for shape in reversed(shapes)]
        return [scale_noise(eps.to(lq.device), temperature) for eps in reversed(noise)]

    def forward(self, lq: torch.Tensor | None, gt: torch.Tensor | None = None,
                latents: Sequence[torch.Tensor] | None = None, temperature: float | torch.Tensor | None = None,
                generator: torch.Generator | None = None, dequantization_noise: torch.Tensor | None = None,
                with_latents: bool = True):
        """Encode if `gt` is given, else decode. Default temperature: that of the network.

        Both directions go through forward, so that DistributedDataParallel and torch.compile see everything that needs
        gradients. See :meth:`encode` and :meth:`decode` for shapes and errors.
        """
        if gt is not None:
            return self.encode(gt, lq, dequantization_noise, with_latents)
        if lq is None:
            raise InputError('HCFlowNet was called without an image; give lq to decode or gt to encode.')
        return self.decode(lq, latents, self.temperature if temperature is None else temperature, generator)

    # ---- initialization of actnorm ----

    def actnorms(self) -> list[ActNorm2d]:
        """All actnorms of the network, including those of subnets."""
        return [module for module in self.modules() if isinstance(module, ActNorm2d)]

    def is_initialized(self) -> bool:
        """Whether all actnorms are initialized or loaded."""
        return all(norm.is_initialized() for norm in self.actnorms())


def _default(value, default):
    return default if value is None else value
