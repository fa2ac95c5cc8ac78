"""HCFlow, HCFlow+ and HCFlow++ in BasicSR: the loss blocks of the option file decide which of them is trained."""
import zlib
from os import path as osp

import torch
from basicsr.utils import get_root_logger

from hcflow_arch import InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_model.checkpoints.files import seeded
from hcflow_model.data.degrade import degradation_of
from hcflow_model.data.errors import batch_problem
from hcflow_model.losses.build import IMAGES, build_perceptual_loss, build_train_loss, check_metric_weights
from hcflow_model.options import schema
from hcflow_model.options.check_hcflow import check_hcflow_options
from hcflow_model.utils.devices import SLOW, has_bf16_instructions
from hcflow_model.utils.memory import keep_freed_memory
from hcflow_model.validation.loader import check_validation_set
from hcflow_model.validation.loop import Case, validate
from hcflow_model.validation.report import Report

from .flow_model import FlowModel
from .update import Losses


class HCFlowModel(FlowModel):
    """Super-resolution with a flow (HCFlow).

    `train.nll_opt` alone is HCFlow, with `pixel_opt` HCFlow+, with `perceptual_opt` and `gan_opt` HCFlow++; a removed
    block removes its loss. An iteration optimizes one after another the nll, the pixel loss (decode at temperature 0),
    the perceptual and GAN losses (decode at `train.temperature`), then the discriminator. Each update starts from the
    weights that the previous one left. This needs less memory than one sum, and gives slightly better results.

    If a dataset gives no `lq`, its LR images are made of `gt`, see :meth:`make_lq`.
    """

    task, other_model = 'sr', 'HCFlowRescalingModel'
    default_temperatures = (0, 0.9)
    has_likelihood = True
    skips_broken_pairs = True  # in validation
    validated = None  # the block of the dataset while it is validated
    # a subclass with options of its own declares those alone: {name: Option(type, meaning, …)}
    general_options, logger_options = schema.GENERAL, schema.LOGGER
    train_options, val_options = schema.TRAIN, schema.VAL

    def __init__(self, opt):
        check_metric_weights((opt.get('val') or {}).get('metrics'))
        task = opt['network_g'].get('task', 'sr')
        if task != self.task:
            raise InputError(f'model_type {type(self).__name__} trains networks of task {self.task!r}, but '
                             f'network_g.task is {task!r}; use {self.other_model} or change the task.')
        super().__init__(opt)
        keep_freed_memory(self.device)
        blocks = [name for name in ('train', 'val') if (opt.get(name) or {}).get('amp')]
        if blocks and not has_bf16_instructions(self.device):
            get_root_logger().warning(f"{' and '.join(f'{name}.amp' for name in blocks)}: {SLOW} Set amp: ~ on it.")
        if not self.is_train and not opt['path'].get('pretrain_network_g'):
            get_root_logger().warning('path.pretrain_network_g names no checkpoint: an untrained network is tested.')

    @classmethod
    def check_options(cls, opt: dict) -> None:
        """Check the blocks that this model reads; called before anything is made.

        Raises:
            InputError: An option that it does not know, or a value that it cannot take.
        """
        check_hcflow_options(opt)

    @classmethod
    def check_validation_set(cls, dataset, opt: dict) -> None:
        """Read an image that can be used; called for every validation set before training.

        Raises:
            InputError: There is none, or none of the metrics can be computed.
        """
        check_validation_set(dataset, lambda item: cls.check_batch(item, opt, dataset.opt, False), opt)

    @staticmethod
    def check_batch(data: dict, opt: dict, dataset_opt: dict, in_training: bool) -> None:
        """Refuse a batch, or an item of a dataset, without the images that the model needs.

        Args:
            data: The batch.
            opt: All options.
            dataset_opt: The block of its dataset.
            in_training: Whether it is trained on.
        """
        if 'lq' not in data and not ('gt' in data and degradation_of(opt, dataset_opt, in_training)):
            raise InputError("Super-resolution needs LR images, but the dataset gives none; use a dataset with 'lq', "
                             'such as PairedImageDataset or SingleImageDataset, or have them made of HR images by '
                             f'{"train" if in_training else "val"}.degradation, such as {{type: bicubic}}.')

    # ---- training ----

    def feed_data(self, data):
        """Take a batch: lq (N, 3, h, w) and gt (N, 3, H, W), both in [0, 1], or one of them if that is enough."""
        in_training = self.is_train and self.validated is None
        dataset_opt = self.opt['datasets'].get('train', {}) if in_training else self.validated or {}
        self.check_batch(data, self.opt, dataset_opt, in_training)
        self.batch = data
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True)
        elif hasattr(self, 'gt'):
            del self.gt
        lq = data['lq'] if 'lq' in data else self.make_lq(data, dataset_opt, in_training)
        self.lq = lq.to(self.device, non_blocking=True)

    def make_lq(self, data: dict, dataset_opt: dict, in_training: bool) -> torch.Tensor:
        """LR images (N, 3, h, w) of a batch without: see :func:`hcflow_model.data.degrade.degradation_of`.

        In validation they are made on the CPU, by a seed of `val.seed` and each image's name: the same in every
        validation, in any order, on all devices and by any number of processes.
        """
        problem = batch_problem(data, dataset_opt.get('name'))
        if problem:
            raise InputError(problem)
        make = degradation_of(self.opt, dataset_opt, in_training)
        if in_training:
            return make({key: value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value
                         for key, value in data.items()})
        name = osp.splitext(osp.basename(str(data.get('gt_path', [''])[0])))[0]
        with seeded(zlib.crc32(f'{self.opt["val"].get("seed") or 0} {name}'.encode(errors='surrogateescape'))):
            return make(data)

    def init_losses(self, train_opt):
        self.cri_nll = build_train_loss(train_opt, 'nll_opt', torch.ones(2), device=self.device)
        self.cri_pixel = build_train_loss(train_opt, 'pixel_opt', IMAGES, IMAGES, device=self.device)
        block = train_opt.get('perceptual_opt')
        self.cri_perceptual = build_perceptual_loss(block).to(self.device) if block else None
        super().init_losses(train_opt)

    def generator_losses(self):
        updates = []
        if self.cri_nll:
            updates.append(self.nll_losses)
        if self.cri_pixel:
            updates.append(self.pixel_losses)
        if self.cri_perceptual or self.adversary:
            updates.append(self.perceptual_gan_losses)
        return updates

    def starts_from_data(self):
        return self.cri_nll is not None  # decode alone keeps the weights as they are made

    def nll_losses(self, lq, gt):
        code = self.net_g(lq, gt=gt)
        log_only = {}
        if hasattr(self.cri_nll, 'terms'):
            log_only = self.cri_nll.terms(code, lq, gt.shape[2] * gt.shape[3])
        return Losses({'l_g_nll': self.cri_nll(code.nll)}, log_only)

    def pixel_losses(self, lq, gt):
        return Losses({'l_g_pix': self.cri_pixel(self.net_g(lq, temperature=0), gt)})

    def perceptual_gan_losses(self, lq, gt):
        return self.perceptual_gan_terms(self.net_g(lq, temperature=self.temperature), gt)

    def perceptual_gan_terms(self, sr, gt):
        """Perceptual and GAN losses of images sr (N, 3, H, W), with sr for the discriminator."""
        losses = {}
        if self.cri_perceptual:
            l_g_percep, l_g_style = self.cri_perceptual(sr, gt)
            if l_g_percep is not None:
                losses['l_g_percep'] = l_g_percep
            if l_g_style is not None:
                losses['l_g_style'] = l_g_style
        if self.adversary:
            losses['l_g_gan'] = self.adversary.generator_loss(sr, gt)
        return Losses(losses, fakes=[sr.detach()] if self.adversary else [])

    def sample_for_discriminator(self):
        return self.net_g(self.lq, temperature=self.temperature)

    # ---- testing ----

    def net_for_testing(self):
        """The network that is validated and tested, in eval mode: EMA if there is one."""
        net = self.net_g_ema if hasattr(self, 'net_g_ema') else self.get_bare_model(self.net_g)
        return net.eval()

    def test(self):
        net = self.net_for_testing()
        with torch.no_grad(), self.autocast('val'):
            self.output = net(self.lq)
        self.net_g.train(self.is_train)

    def prepare_case(self, sampler):
        """What is validated of the batch that was fed; `sampler`: an inference.draw.Sampler of the network."""
        gt, scale = getattr(self, 'gt', None), self.opt['scale']
        if gt is not None:
            fit_to_scale(gt, scale, self.lq)  # checks the sizes; a smaller gt is not padded: the samples are cropped
            gt = gt[:, :, :scale * self.lq.shape[2], :scale * self.lq.shape[3]]
        return Case(self.lq, gt, self.lq, images={} if 'lq' in self.batch else {'lq': self.lq})

    def checkpoint_path(self):
        """The file of the tested weights; None if the options name none."""
        if self.is_train:
            return f'{self.opt["path"]["models"]}/net_g_latest.pth'
        return self.opt['path'].get('pretrain_network_g')

    def dist_validation(self, dataloader, current_iter, tb_logger, save_img):
        """Shared among the ranks; BasicSR leaves it to rank 0 alone."""
        self.nondist_validation(dataloader, current_iter, tb_logger, save_img)

    def nondist_validation(self, dataloader, current_iter, tb_logger, save_img):
        if not hasattr(self, 'report'):
            self.report = Report(self.opt)
        if self.is_train:  # BasicSR's loop counts on after the last iteration
            current_iter = min(current_iter, int(self.opt['train']['total_iter']))
        self.validated = dataloader.dataset.opt
        validate(self, dataloader, current_iter, tb_logger, save_img)
        self.validated = None
        self.net_g.train(self.is_train)

    def save(self, epoch, current_iter):
        super().save(epoch, current_iter)
        if current_iter == -1:  # BasicSR's sign for the end of training: the validations that follow are the last
            self.report = Report(self.opt, final=True)
            self._warn_if_short()

    def _warn_if_short(self):
        """BasicSR counts epochs by rounding up but drops incomplete batches, so small datasets end runs early."""
        last, total = self.last_iter, int(self.opt['train']['total_iter'])
        if 0 < last < total:
            get_root_logger().warning(f'Training ended at iteration {last} of {total}: the dataset is no multiple of '
                                      'the batch. Raise datasets.train.dataset_enlarge_ratio.')
