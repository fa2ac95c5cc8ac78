"""Losses that only a flow has; pixel, perceptual and GAN losses are BasicSR's own."""
import math

import torch
import torch.nn as nn

from hcflow_arch import HCFlowCode, InputError
from hcflow_arch.flow.prior import gaussian_log_prob
from hcflow_arch.hcflow_arch import LQ_LOG_STD


class NLLLoss(nn.Module):
    """Negative log-likelihood of HR given LR (HCFlow).

    Args:
        loss_weight (float): Weight in the sum. Default: 1.0.
    """

    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, nll: torch.Tensor | None) -> torch.Tensor:
        """nll: bits per HR pixel of every image, (N,), as HCFlowNet.encode returns it. Returns a scalar."""
        if nll is None:
            raise InputError('nll_opt needs a likelihood, which a rescaling network has not; remove train.nll_opt.')
        return self.loss_weight * nll.mean()

    @torch.no_grad()
    def terms(self, code: HCFlowCode, lq: torch.Tensor, num_pixels: int) -> dict[str, torch.Tensor]:
        """The parts of the loss, for the log: LR image, prior, and all log-determinants together.

        Args:
            code: What encode returned.
            lq: LR images (N, 3, h, w).
            num_pixels: HR pixels of one image.
        """
        weight = -self.loss_weight / (math.log(2) * num_pixels)
        lr = weight * gaussian_log_prob(code.lq - lq, LQ_LOG_STD).mean()
        prior = weight * sum(gaussian_log_prob(latent) for latent in code.latents).mean()
        total = self.loss_weight * code.nll.mean()
        return {'l_g_nll_lr': lr, 'l_g_nll_prior': prior, 'l_g_nll_logdet': total - lr - prior}


class LatentLoss(nn.Module):
    """Mean square of all latents together: pulls them to N(0, I) (HCFlow, rescaling).

    Args:
        loss_weight (float): Weight in the sum. Default: 1.0.
    """

    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, latents: list[torch.Tensor]) -> torch.Tensor:
        """latents: z of every level, (N, C_l, h_l, w_l) each. Returns a scalar."""
        total = sum((latent**2).sum() for latent in latents)
        return self.loss_weight * total / sum(latent.numel() for latent in latents)
