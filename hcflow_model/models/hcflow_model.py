"""HCFlow, HCFlow+ and HCFlow++ in BasicSR: which of them is decided by the loss blocks of the option file."""
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from torch.nn.parallel import DistributedDataParallel

from hcflow_arch import InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_arch.flow.condition_numbers import MAX_CONDITION, largest_condition_number
from hcflow_model.losses.build import IMAGES, build_perceptual_loss, build_train_loss, check_metric_weights
from hcflow_model.options.check_hcflow import check_hcflow_options
from hcflow_model.pipeline import stopping
from hcflow_model.pipeline.sampler import EpochSampler
from hcflow_model.utils.devices import SLOW, has_bf16_instructions
from hcflow_model.utils.distributed import broadcast, float_buffers
from hcflow_model.utils.memory import keep_freed_memory
from hcflow_model.validation.loop import Case, validate
from hcflow_model.validation.report import Report

from .adversary import Adversary
from .graphed_update import GraphedGradients
from .resumable_model import ResumableModel
from .update import Losses, average_weights, end_warm_up, gradients, update_generator
from .update_guard import UpdateGuard, advice, describe


class HCFlowModel(ResumableModel):
    """Super-resolution with a flow (HCFlow).

    `train.nll_opt` alone is HCFlow, with `pixel_opt` HCFlow+, with `perceptual_opt` and `gan_opt` HCFlow++; a removed
    block removes its loss. Within an iteration the nll, the pixel loss (decode at temperature 0) and the perceptual
    and GAN losses (decode at `train.temperature`) are optimized one after another, each with the weights that the
    previous one left, then the discriminator: less memory than one sum, and slightly better results.
    """

    task, other_model = 'sr', 'HCFlowRescalingModel'
    default_temperatures = (0, 0.9)
    default_train_temperature = 0.9
    has_likelihood = True
    skips_broken_pairs = True  # in validation

    def __init__(self, opt):
        check_metric_weights((opt.get('val') or {}).get('metrics'))
        task = opt['network_g'].get('task', 'sr')
        if task != self.task:
            raise InputError(f'model_type {type(self).__name__} trains networks of task {self.task!r}, but '
                             f'network_g.task is {task!r}; use {self.other_model} or change the task.')
        super().__init__(opt)
        keep_freed_memory(self.device)
        self._check_amp()
        if not self.is_train and not opt['path'].get('pretrain_network_g'):
            get_root_logger().warning('path.pretrain_network_g names no checkpoint: an untrained network is tested.')

    @classmethod
    def check_options(cls, opt: dict) -> None:
        """Check the blocks that this model reads; called before anything is made.

        Raises:
            InputError: An option that it does not know, or a value that it cannot take.
        """
        check_hcflow_options(opt)

    def _check_amp(self):
        blocks = [name for name in ('train', 'val') if (self.opt.get(name) or {}).get('amp')]
        if blocks and not has_bf16_instructions(self.device):
            get_root_logger().warning(f"{' and '.join(f'{name}.amp' for name in blocks)}: {SLOW} Set amp: ~ on it.")

    def averages_gradients(self):
        """Whether the flow's gradients are averaged here: a CUDA graph cannot hold DistributedDataParallel's hooks."""
        return self.opt['dist'] and self.is_train and bool(self.opt['train'].get('cuda_graph'))

    def model_to_device(self, net):
        if self.averages_gradients() and hasattr(net, 'encode'):
            broadcast([*net.to(self.device).parameters(), *float_buffers(net)])
            return net
        if self.opt['dist'] and self.device.type == 'cpu':  # BasicSR names a GPU
            return DistributedDataParallel(net, find_unused_parameters=self.opt.get('find_unused_parameters', False))
        if not self.opt['dist'] and not self.is_train:
            return net.to(self.device)  # images are tested one by one
        if not self.opt['dist'] and self.opt['num_gpu'] > 1:
            raise InputError(f'num_gpu is {self.opt["num_gpu"]} in one process, where every GPU would start actnorm '
                             'from its own part of the batch. Set num_gpu: 1, or use DistributedDataParallel: torchrun '
                             f'--nproc_per_node={self.opt["num_gpu"]} $(which basicsr) train -opt FILE --launcher '
                             'pytorch')
        return super().model_to_device(net)

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.net_g.train()
        self._init_ema(train_opt.get('ema_decay', 0))
        self._init_losses(train_opt)
        self.setup_optimizers()
        self.setup_schedulers()

    def _init_ema(self, decay):
        self.ema_decay = decay
        # Before the first batch a fresh flow has no weights worth averaging: EMA starts when actnorm has started.
        self._ema_waits = False
        if decay <= 0:
            return
        get_root_logger().info(f'Use Exponential Moving Average with decay: {decay}')
        self.net_g_ema = build_network(self.opt['network_g']).to(self.device).eval()
        load_path = self.opt['path'].get('pretrain_network_g')
        if load_path is not None:
            self.load_network(self.net_g_ema, load_path, self.opt['path'].get('strict_load_g', True), 'params_ema')
        else:
            self.model_ema(0)
        self._ema_waits = not self.get_bare_model(self.net_g).is_initialized()

    def start_ema(self):
        """Begin the average with the weights that a first batch has started."""
        if self._ema_waits and self.get_bare_model(self.net_g).is_initialized():
            self.model_ema(0)
            self._ema_waits = False

    def _init_losses(self, train_opt):
        self.cri_nll = build_train_loss(train_opt, 'nll_opt', torch.ones(2), device=self.device)
        self.cri_pixel = build_train_loss(train_opt, 'pixel_opt', IMAGES, IMAGES, device=self.device)
        block = train_opt.get('perceptual_opt')
        self.cri_perceptual = build_perceptual_loss(block).to(self.device) if block else None
        self.adversary = Adversary(self) if train_opt.get('gan_opt') else None
        self.net_d_iters = train_opt.get('net_d_iters', 1)
        self.net_d_init_iters = train_opt.get('net_d_init_iters', 0)
        self.temperature = train_opt.get('temperature', self.default_train_temperature)
        self.accumulate = train_opt.get('accumulate', 1)
        self.grad_clip_value = train_opt.get('grad_clip_value')
        self.grad_clip_norm = train_opt.get('grad_clip_norm')
        by_graphs = train_opt.get('cuda_graph', False)
        self.graphs = GraphedGradients(gradients) if by_graphs and self.device.type == 'cuda' else None
        if by_graphs and self.graphs is None:
            get_root_logger().warning('train.cuda_graph has no effect here: it needs a GPU.')
        self.guard = UpdateGuard(self.device, self.opt['dist'])
        self.max_nonfinite = train_opt.get('max_nonfinite', 20)
        self.matrices_warned = False
        if not self.generator_losses():
            raise InputError('The option file has no loss for the generator; give at least one of train.nll_opt, '
                             'pixel_opt, perceptual_opt, gan_opt.')

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        super().update_learning_rate(current_iter, warmup_iter)
        if current_iter == warmup_iter:
            end_warm_up(self.optimizers, self.schedulers[0], warmup_iter)

    def setup_optimizers(self):
        train_opt = self.opt['train']
        # Haar filters are constants and have no place in the optimizer
        parameters = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self.get_optimizer(train_opt['optim_g'].pop('type'), parameters, **train_opt['optim_g'])
        self.optimizers.append(self.optimizer_g)
        if self.adversary:
            optim_d = train_opt['optim_d']
            self.optimizer_d = self.get_optimizer(optim_d.pop('type'), self.net_d.parameters(), **optim_d)
            self.optimizers.append(self.optimizer_d)

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        if self.device.type == 'cuda' and not kwargs.keys() & {'fused', 'foreach', 'capturable', 'differentiable'}:
            kwargs['fused'] = True  # can leave an update out without a wait, see UpdateGuard
        return super().get_optimizer(optim_type, params, lr, **kwargs)

    # ---- training ----

    def feed_data(self, data):
        """Take a batch: lq (N, 3, h, w) and, where the dataset has it, gt (N, 3, H, W), both in [0, 1]."""
        if 'lq' not in data:
            raise InputError("Super-resolution needs LR images, but the dataset gives none; use a dataset with 'lq', "
                             'such as PairedImageDataset or SingleImageDataset.')
        self.lq = data['lq'].to(self.device, non_blocking=True)
        if 'gt' in data:
            self.gt = data['gt'].to(self.device, non_blocking=True)
        elif hasattr(self, 'gt'):
            del self.gt

    def generator_losses(self):
        """The generator's updates within an iteration, in order: functions of (lq, gt) that return Losses."""
        updates = []
        if self.cri_nll:
            updates.append(self._nll_losses)
        if self.cri_pixel:
            updates.append(self._pixel_losses)
        if self.cri_perceptual or self.adversary:
            updates.append(self._perceptual_gan_losses)
        return updates

    def starts_from_data(self):
        """Whether training encodes, which starts actnorms; decode alone keeps the weights as they are made."""
        return self.cri_nll is not None

    def _nll_losses(self, lq, gt):
        code = self.net_g(lq, gt=gt)
        log_only = {}
        if hasattr(self.cri_nll, 'terms'):
            log_only = self.cri_nll.terms(code, lq, gt.shape[2] * gt.shape[3])
        return Losses({'l_g_nll': self.cri_nll(code.nll)}, log_only)

    def _pixel_losses(self, lq, gt):
        return Losses({'l_g_pix': self.cri_pixel(self.net_g(lq, temperature=0), gt)})

    def _perceptual_gan_losses(self, lq, gt):
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

    def optimize_parameters(self, current_iter):
        if not hasattr(self, 'gt'):
            raise InputError("Training needs HR images, but the dataset gives none; use a dataset with 'gt', such as "
                             'PairedImageDataset.')
        self.last_iter = current_iter
        loss_dict, log_only, fakes = {}, {}, []
        if not self.adversary or (current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0):
            for losses_of in self.generator_losses():
                losses = update_generator(self, losses_of)
                loss_dict.update(losses.terms)
                log_only.update(losses.log_only)
                fakes += losses.fakes
        else:  # the discriminator alone still needs images to tell apart
            with torch.no_grad(), self.autocast('train'):
                fakes.append(self.sample_for_discriminator())
        loss_dict.update(log_only)
        if self.adversary:
            loss_dict.update(self.adversary.update(torch.cat(fakes).float(), self.gt))
        self.log_dict = self.reduce_loss_dict(loss_dict)
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)
        if EpochSampler.newest:
            EpochSampler.newest.taken += len(self.gt)
        self._end_iteration(current_iter)

    def _end_iteration(self, current_iter):
        """Say what was not finite, and end training where that does not stop, or where a signal asks for it."""
        status = self.guard.end_iteration(current_iter, stop=stopping.requested() is not None)
        if status is None:
            return
        if status.in_a_row in (1, self.max_nonfinite):
            names = {parameter: name for net in (self.net_g, getattr(self, 'net_d', None)) if net is not None
                     for name, parameter in self.get_bare_model(net).named_parameters()}
            what, losses = describe(status, names)
            if status.in_a_row == 1:
                get_root_logger().warning(f'Iteration {status.iter}: an update is left out, for it is not finite: '
                                          f'{what}. All left out are counted as l_nonfinite.')
            if status.in_a_row == self.max_nonfinite:
                self.save_now(current_iter)
                raise InputError(f'{self.max_nonfinite} iterations in a row (train.max_nonfinite), up to '
                                 f'{status.iter}, were not finite: {what}. The last good weights and their state are '
                                 f'saved as iteration {current_iter}. {advice(self, losses, current_iter)}')
        if status.stop:
            self.stop(current_iter)

    def sample_for_discriminator(self):
        """Images for the discriminator in iterations without an update of the generator, (N, 3, H, W)."""
        return self.net_g(self.lq, temperature=self.temperature)

    def autocast(self, block):
        """Mixed precision where `amp` in the block ('train' or 'val') asks for it; the flow itself stays float32."""
        enabled = (self.opt.get(block) or {}).get('amp') == 'bf16'
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def reduce_loss_dict(self, loss_dict):
        """Average over processes, as BasicSR does, but leave the values on the device: reading them would make a GPU
        wait in every iteration."""
        loss_dict = {name: value.detach().float().mean() for name, value in loss_dict.items()}
        if self.opt['dist'] and loss_dict:
            values = torch.stack(list(loss_dict.values()))
            torch.distributed.all_reduce(values)
            loss_dict = dict(zip(loss_dict, values / self.opt['world_size'], strict=True))
        return OrderedDict(loss_dict)

    def get_current_log(self):
        log = OrderedDict((name, float(value)) for name, value in self.log_dict.items())
        if self.guard.total > 0:
            log['l_nonfinite'] = float(self.guard.total)
        log['condition_1x1'] = largest_condition_number(self.get_bare_model(self.net_g))
        if log['condition_1x1'] > MAX_CONDITION and not self.matrices_warned:
            self.matrices_warned = True
            get_root_logger().warning(
                f'The condition number of a 1x1 matrix has reached {log["condition_1x1"]:.3g}: inverses lose '
                'precision and may explode soon. Lower train.optim_g.lr, or set train.grad_clip_norm.')
        return log

    def model_ema(self, decay=0.999):
        average_weights(self.get_bare_model(self.net_g), self.net_g_ema, decay)

    # ---- testing ----

    def net_for_testing(self):
        """The network that is validated and tested, in eval mode: EMA where there is one."""
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
        return Case(self.lq, gt, self.lq)

    def checkpoint_path(self):
        """The file that holds the weights under test, None where none was named."""
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
        validate(self, dataloader, current_iter, tb_logger, save_img)
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
