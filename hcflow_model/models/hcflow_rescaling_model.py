"""Image rescaling in BasicSR: the network learns to downscale images so that upscaling restores the original."""
import torch
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY

from hcflow_arch import InputError
from hcflow_arch.checks import check_image, fit_to_scale
from hcflow_model.images.bicubic import bicubic_guide, round8
from hcflow_model.images.jpeg import RandomJPEG
from hcflow_model.losses.build import IMAGES, build_train_loss
from hcflow_model.validation.loop import Case

from .hcflow_model import HCFlowModel
from .update import Losses


class HCFlowRescalingModel(HCFlowModel):
    """Downscaling and upscaling as one bijection (HCFlow, rescaling).

    One update per iteration of the sum of `train.lq_opt` (downscaled image to the bicubic one), `latent_opt` (latents
    to N(0, I)), `pixel_opt` (restored image to the original), `perceptual_opt` and `gan_opt`; a removed block removes
    its loss. Needs HR images only: if a dataset gives no `lq`, the bicubic guide is computed from `gt`. With
    `train.compression`, downscaled images pass through JPEG before they are restored.
    """

    task, other_model = 'rescaling', 'HCFlowModel'
    default_temperatures = (1.0, 0)
    default_train_temperature = 1.0
    has_likelihood = False

    def init_losses(self, train_opt):
        if train_opt.get('nll_opt'):
            raise InputError('train.nll_opt: a rescaling network has no likelihood; remove it, or train an SR network '
                             'with HCFlowModel.')
        self.cri_lq = build_train_loss(train_opt, 'lq_opt', IMAGES, IMAGES, device=self.device)
        self.cri_latent = build_train_loss(train_opt, 'latent_opt', [IMAGES], device=self.device)
        block = train_opt.get('compression') or {}
        arguments = {key: value for key, value in block.items() if key != 'type'}
        self.compression = RandomJPEG(**arguments).to(self.device) if block else None
        super().init_losses(train_opt)

    @staticmethod
    def check_batch(data, *args):
        if 'gt' not in data:
            raise InputError("Rescaling needs HR images, but the dataset gives none; use a dataset with 'gt', such as "
                             'PairedImageDataset or HROnlyDataset.')

    def make_lq(self, *args):
        """The bicubic guide."""
        check_image('gt', self.gt)
        scale = self.opt['scale']
        return bicubic_guide(fit_to_scale(self.gt, scale), scale)

    def generator_losses(self):
        losses = (self.cri_lq, self.cri_latent, self.cri_pixel, self.cri_perceptual, self.adversary)
        return [self.rescaling_losses] if any(losses) else []

    def starts_from_data(self):
        return True

    def rescaling_losses(self, lq, gt):
        code = self.net_g(None, gt=gt, with_latents=bool(self.cri_latent))
        losses = {}
        if self.cri_lq:
            losses['l_g_lq'] = self.cri_lq(code.lq, lq)
        if self.cri_latent:
            losses['l_g_latent'] = self.cri_latent(code.latents)
        if self.cri_pixel or self.cri_perceptual or self.adversary:
            restored = self.net_g(self.stored(code.lq), temperature=self.temperature)
            if self.cri_pixel:
                losses['l_g_pix'] = self.cri_pixel(restored, gt)
            others = self.perceptual_gan_terms(restored, gt)
            return others._replace(terms={**losses, **others.terms})
        return Losses(losses)

    def sample_for_discriminator(self):
        lq = self.net_g(None, gt=self.gt, with_latents=False).lq
        return self.net_g(self.stored(lq), temperature=self.temperature)

    def stored(self, lq):
        """Downscaled images (N, 3, h, w) as they are in training when they are restored."""
        lq = round8(lq)
        return self.compression(lq) if self.compression else lq

    def test(self):
        net = self.net_for_testing()
        with torch.no_grad(), self.autocast('val'):
            restored = net(round8(net.encode(self.gt, with_latents=False).lq))
        self.output = restored[:, :, :self.gt.shape[2], :self.gt.shape[3]]
        self.net_g.train(self.is_train)

    def prepare_case(self, sampler):
        """Downscale, round to 8 bits as the saved PNG is, and compare with our own bicubic downscaling.

        Not with the dataset's `lq`, so that results on datasets with and without one are the same.
        """
        lq = round8(sampler.downscale(self.gt, self.opt['val'].get('refine', 0)).clamp(0, 1))
        if not lq.isfinite().all():
            raise InputError('its downscaled image has pixels that are not finite.')
        guide = self.make_lq() if 'lq' in self.batch else self.lq
        images = [tensor2img(image) for image in (lq, guide)]
        results = {}
        for name, metric in (('lq_psnr_y', 'calculate_psnr'), ('lq_ssim_y', 'calculate_ssim')):
            if metric == 'calculate_ssim' and min(lq.shape[2:]) < 11:
                continue  # SSIM's window does not fit
            results[name] = float(METRIC_REGISTRY.get(metric)(*images, crop_border=0, test_y_channel=True))
        return Case(lq, self.gt, guide, results, {'lq': lq}, difference=True)
