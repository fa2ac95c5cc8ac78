"""How a flow is trained, whatever its losses: devices, optimizers, averaged weights, the updates of an iteration."""
from collections import OrderedDict

import torch
from basicsr.archs import build_network
from basicsr.utils import get_root_logger
from torch.nn.parallel import DistributedDataParallel

from hcflow_arch import InputError
from hcflow_arch.flow.condition_numbers import MAX_CONDITION, largest_condition_number
from hcflow_model.data.errors import batch_problem
from hcflow_model.pipeline import stopping
from hcflow_model.pipeline.sampler import EpochSampler
from hcflow_model.utils.distributed import average_values, broadcast, float_buffers

from .adversary import Adversary
from .graphed_update import GraphedGradients
from .parts import freeze, parameter_groups
from .resumable_model import ResumableModel
from .update import average_weights, end_warm_up, gradients, update_generator
from .update_guard import UpdateGuard, handle_status


class FlowModel(ResumableModel):
    """Base of models that train a flow, `net_g`, and maybe a discriminator, `net_d`.

    Subclasses override these methods:
        feed_data: Takes a batch from the loader: sets `batch`, `lq` and `gt`.
        init_losses: Builds the losses, once.
        generator_losses: The updates of an iteration, in order.
        starts_from_data: Whether the first batch initializes actnorms.
        sample_for_discriminator: Images for it in iterations without an update of the flow.
    """

    default_train_temperature = 0.9
    adversary = None
    batch = {}  # as the loader gave it

    # ---- hooks ----

    def init_losses(self, train_opt: dict) -> None:
        """Build the losses of the block `train`.

        Raises:
            InputError: One of them cannot be built or computed.
        """
        self.adversary = Adversary(self) if train_opt.get('gan_opt') else None

    def generator_losses(self) -> list:
        """The updates of the flow in an iteration, in order: functions of (lq, gt) that return Losses."""
        raise NotImplementedError

    def starts_from_data(self) -> bool:
        """Whether training encodes, which initializes actnorms from the first batch."""
        return True

    def sample_for_discriminator(self) -> torch.Tensor:
        """Images for the discriminator in iterations without an update of the flow, (N, 3, H, W)."""
        raise NotImplementedError

    # ---- devices ----

    def averages_gradients(self):
        """Whether the flow's gradients are averaged here: a CUDA graph cannot hold DistributedDataParallel's hooks."""
        return self.opt['dist'] and self.is_train and bool(self.opt['train'].get('cuda_graph'))

    def model_to_device(self, net):
        if self.is_train and hasattr(net, 'encode'):
            freeze(net, self.opt['train'].get('freeze') or ())
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

    def autocast(self, block):
        """Mixed precision if `amp` in the block ('train' or 'val') asks for it; the flow itself stays float32."""
        enabled = (self.opt.get(block) or {}).get('amp') == 'bf16'
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    # ---- settings of training ----

    def init_training_settings(self):
        train_opt = self.opt['train']
        self.net_g.train()
        self._init_ema(train_opt.get('ema_decay', 0))
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
        self.init_losses(train_opt)
        if not self.generator_losses():
            raise InputError('The option file has no loss for the generator; give at least one of train.nll_opt, '
                             'pixel_opt, perceptual_opt, gan_opt.')
        self.setup_optimizers()
        self.setup_schedulers()

    def setup_optimizers(self):
        train_opt = self.opt['train']
        optim_g = train_opt['optim_g']
        # not what is frozen, nor Haar filters, which are constants
        groups = parameter_groups(self.get_bare_model(self.net_g), optim_g['lr'], optim_g.pop('lr_mul', {}))
        self.optimizer_g = self.get_optimizer(optim_g.pop('type'), groups, **optim_g)
        self.optimizers.append(self.optimizer_g)
        if self.adversary:
            optim_d = train_opt['optim_d']
            self.optimizer_d = self.get_optimizer(optim_d.pop('type'), self.net_d.parameters(), **optim_d)
            self.optimizers.append(self.optimizer_d)

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        if self.device.type == 'cuda' and not kwargs.keys() & {'fused', 'foreach', 'capturable', 'differentiable'}:
            kwargs['fused'] = True  # can skip an update without a wait, see UpdateGuard
        return super().get_optimizer(optim_type, params, lr, **kwargs)

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        super().update_learning_rate(current_iter, warmup_iter)
        if current_iter == warmup_iter:
            end_warm_up(self.optimizers, self.schedulers[0], warmup_iter)

    # ---- averaged weights ----

    def _init_ema(self, decay):
        self.ema_decay = decay
        # Before the first batch, a new flow has no weights worth averaging: EMA starts when actnorm has started.
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
        """Start the average with the weights that the first batch has initialized."""
        if self._ema_waits and self.get_bare_model(self.net_g).is_initialized():
            self.model_ema(0)
            self._ema_waits = False

    def model_ema(self, decay=0.999):
        average_weights(self.get_bare_model(self.net_g), self.net_g_ema, decay)

    # ---- an iteration ----

    def optimize_parameters(self, current_iter):
        if not hasattr(self, 'gt'):
            raise InputError("Training needs HR images, but the dataset gives none; use a dataset with 'gt', such as "
                             'PairedImageDataset.')
        problem = batch_problem(self.batch, (self.opt['datasets'].get('train') or {}).get('name'))
        if problem:
            raise InputError(problem)
        loss_dict, log_only, fakes = {}, {}, []
        if not self.adversary or (current_iter > self.net_d_init_iters and current_iter % self.net_d_iters == 0):
            for losses_of in self.generator_losses():
                losses = update_generator(self, losses_of)
                loss_dict.update(losses.terms)
                log_only.update(losses.log_only)
                fakes += losses.fakes
        else:  # the discriminator alone still needs images to compare
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
        self.last_iter = current_iter
        status = self.guard.end_iteration(current_iter, stop=stopping.requested() is not None)
        if status is not None:
            handle_status(self, status, current_iter)

    def reduce_loss_dict(self, loss_dict):
        """Average over processes, as BasicSR does, but leave the values on the device: reading them would make the CPU
        wait for a GPU in every iteration."""
        return OrderedDict(average_values(
            {name: value.detach().float().mean() for name, value in loss_dict.items()}, self.opt))

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
