"""Losses on images beside BasicSR's own."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from basicsr.archs.vgg_arch import NAMES, insert_bn
from basicsr.losses.gan_loss import GANLoss
from torchvision.models.vgg import cfgs, make_layers

from hcflow_arch import InputError


class RelativisticGANLoss(GANLoss):
    """GAN loss on how much more real one image looks than the average of the others (RaGAN; ESRGAN, eq. 1 and 2).

    Takes BasicSR's GANLoss arguments. `forward` is GANLoss's own; the model hands it differences of predictions.
    """

    def generator_loss(self, real_pred: torch.Tensor, fake_pred: torch.Tensor) -> torch.Tensor:
        """Predictions of any equal shape; real_pred detached. Returns a scalar with loss_weight."""
        # the discriminator's side with labels exchanged: BasicSR's hinge has no label on the generator's side
        l_real = self(real_pred - fake_pred.mean(), False, is_disc=True)
        l_fake = self(fake_pred - real_pred.mean(), True, is_disc=True)
        return 0.5 * self.loss_weight * (l_real + l_fake)

    def discriminator_losses(self, real_pred: torch.Tensor, fake_pred: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Predictions of any equal shape. Returns the loss on real and on fake images, scalars without weight."""
        return (0.5 * self(real_pred - fake_pred.mean(), True, is_disc=True),
                0.5 * self(fake_pred - real_pred.mean(), False, is_disc=True))


class RandomPerceptualLoss(nn.Module):
    """L1 between features of a VGG19 with random weights: a stand-in for BasicSR's PerceptualLoss without a download.

    For demos and tests on machines without the ImageNet weights. Random filters still compare edges and textures, but
    nothing that was learned: use PerceptualLoss for results.

    Args:
        layer_weights (dict): {layer name as in BasicSR's vgg_arch: weight}.
        perceptual_weight (float): Weight in the sum. Default: 1.0.
        seed (int): Of the weights. Default: 0.
    """

    def __init__(self, layer_weights: dict[str, float], perceptual_weight: float = 1.0, seed: int = 0):
        super().__init__()
        check_vgg_layers('vgg19', layer_weights)
        self.layer_weights = {NAMES['vgg19'].index(name): weight for name, weight in layer_weights.items()}
        self.perceptual_weight = perceptual_weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = make_layers(cfgs['E'])[:max(self.layer_weights) + 1]
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight)  # keeps the size of features from layer to layer
        self.layers = layers.requires_grad_(False)

    def forward(self, x: torch.Tensor, gt: torch.Tensor) -> tuple[torch.Tensor, None]:
        """x, gt: (N, 3, H, W) in [0, 1]. Returns (perceptual loss, None for the style loss it has not)."""
        x, gt = 4 * x - 2, 4 * gt.detach() - 2  # about the range of BasicSR's normalized input
        loss = 0.
        for index, layer in enumerate(self.layers):
            if isinstance(layer, nn.ReLU):  # not in place: features before a ReLU are compared
                x, gt = F.relu(x), F.relu(gt)
            else:
                x, gt = layer(x), layer(gt)
            if index in self.layer_weights:
                loss = loss + self.layer_weights[index] * F.l1_loss(x, gt)
        return self.perceptual_weight * loss, None


def check_vgg_layers(vgg_type: str, layer_weights: dict) -> None:
    """Refuse `layer_weights` of a perceptual loss that name layers which BasicSR's VGG of that type has not."""
    names = NAMES.get(vgg_type.removesuffix('_bn'))
    if names is None:
        raise InputError(f'perceptual_opt.vgg_type is {vgg_type!r}; allowed are {", ".join(NAMES)}, also with _bn.')
    names = insert_bn(names) if vgg_type.endswith('_bn') else names
    if not isinstance(layer_weights, dict) or not layer_weights:
        raise InputError(f'perceptual_opt.layer_weights is {layer_weights!r}; it must be a block such as '
                         '{conv5_4: 1.0}.')
    unknown = [name for name in layer_weights if name not in names]
    if unknown:
        raise InputError(f'perceptual_opt.layer_weights: {vgg_type} has no layer {unknown[0]!r}; it has '
                         f'{", ".join(names)}.')
