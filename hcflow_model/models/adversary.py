"""GAN training: the discriminator, its losses and its update."""
import torch
from basicsr.archs import build_network
from torch.nn.parallel import DistributedDataParallel

from hcflow_arch import InputError
from hcflow_model.losses.build import build_train_loss
from hcflow_model.losses.image_loss import RelativisticGANLoss


class Adversary:
    """Builds the discriminator `model.net_d` from `network_d`, and trains it with the GAN loss.

    Args:
        model (FlowModel): Its options are read; its `net_d` and `optimizer_d` are used.
    """

    def __init__(self, model):
        opt = model.opt
        if opt.get('network_d') is None or opt['train'].get('optim_d') is None:
            raise InputError('train.gan_opt needs a discriminator: give network_d and train.optim_d, '
                             'or remove gan_opt.')
        self.model = model
        self.criterion = build_train_loss(opt['train'], 'gan_opt', torch.zeros(2, 1), True, is_disc=False,
                                          device=model.device)
        model.net_d = model.model_to_device(build_network(opt['network_d']))
        if isinstance(model.net_d, DistributedDataParallel):
            # the second forward pass would overwrite batch norm's buffers, which backward of the first reads
            model.net_d.broadcast_buffers = False
        model.print_network(model.net_d)
        load_path = opt['path'].get('pretrain_network_d')
        if load_path is not None:
            model.load_network(model.net_d, load_path, opt['path'].get('strict_load_d', True),
                               opt['path'].get('param_key_d', 'params'))
        model.net_d.train()
        self._check_patch(opt)

    @torch.no_grad()
    def _check_patch(self, opt):
        """Check that the discriminator takes patches of the training size."""
        size = opt['datasets'].get('train', {}).get('gt_size')
        if size is None:
            return
        net_d = self.model.get_bare_model(self.model.net_d).eval()
        try:
            net_d(torch.zeros(1, 3, size, size, device=self.model.device))
        except (RuntimeError, ValueError, AssertionError) as error:  # PyTorch's, of shapes, or the architecture's own
            raise InputError(f'network_d {opt["network_d"]["type"]} cannot take patches of datasets.train.gt_size '
                             f'{size}: {error}') from error
        net_d.train()

    @property
    def relativistic(self) -> bool:
        return isinstance(self.criterion, RelativisticGANLoss)

    def generator_loss(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """GAN loss of generated images (N, 3, H, W). Gradients flow to the images, not to the discriminator."""
        net_d = self.model.get_bare_model(self.model.net_d).requires_grad_(False)
        fake_pred = net_d(fake)
        if self.relativistic:
            loss = self.criterion.generator_loss(net_d(real).detach(), fake_pred)
        else:
            loss = self.criterion(fake_pred, True, is_disc=False)
        net_d.requires_grad_(True)
        return loss

    def update(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Update the discriminator once, on the whole detached batch. Returns its losses and mean predictions."""
        net_d, optimizer = self.model.net_d, self.model.optimizer_d
        optimizer.zero_grad()
        real_pred, fake_pred = net_d(real), net_d(fake)
        if self.relativistic:
            l_d_real, l_d_fake = self.criterion.discriminator_losses(real_pred, fake_pred)
        else:
            l_d_real = self.criterion(real_pred, True, is_disc=True)
            l_d_fake = self.criterion(fake_pred, False, is_disc=True)
        (l_d_real + l_d_fake).backward()
        losses = {'l_d_real': l_d_real, 'l_d_fake': l_d_fake}
        guard = self.model.guard
        guard.step(optimizer, guard.check(optimizer.param_groups[0]['params'], losses))
        return {**losses, 'out_d_real': real_pred.detach().mean(), 'out_d_fake': fake_pred.detach().mean()}
