import math

import pytest
import torch
import torch.nn.functional as F
from basicsr.losses import build_loss
from helpers import random_image, small_net

from hcflow_arch import InputError
from hcflow_model import LatentLoss, NLLLoss, RelativisticGANLoss

REAL, FAKE = torch.tensor([[1.], [3.]]), torch.tensor([[-1.], [0.]])


def test_nll_loss_is_the_weighted_mean():
    nll = torch.tensor([2., 4.], requires_grad=True)
    loss = NLLLoss(0.5)(nll)
    loss.backward()
    assert loss.item() == 1.5
    assert nll.grad.tolist() == [0.25, 0.25]


def test_nll_loss_without_a_likelihood():
    with pytest.raises(InputError, match='rescaling network'):
        NLLLoss()(None)


def test_terms_of_the_nll_add_up():
    net, loss = small_net(), NLLLoss(0.5)
    gt, lq = random_image(2, 3, 8, 8), random_image(2, 3, 2, 2, seed=1)
    code = net(lq, gt=gt)
    terms = loss.terms(code, lq, 64)
    assert list(terms) == ['l_g_nll_lr', 'l_g_nll_prior', 'l_g_nll_logdet']
    assert sum(terms.values()).item() == pytest.approx(loss(code.nll).item(), rel=1e-5)
    normal = torch.distributions.Normal(0, 1)
    prior = -sum(normal.log_prob(z).sum() for z in code.latents) / (2 * 64 * math.log(2))
    assert terms['l_g_nll_prior'].item() == pytest.approx(0.5 * prior.item(), rel=1e-5)
    narrow = torch.distributions.Normal(0, math.exp(-6))
    lr = -narrow.log_prob(code.lq - lq).sum() / (2 * 64 * math.log(2))
    assert terms['l_g_nll_lr'].item() == pytest.approx(0.5 * lr.item(), rel=1e-5)


def test_latent_loss_is_the_mean_square_over_all_levels():
    latents = [torch.full((2, 1, 2, 2), 2.), torch.full((2, 1, 1, 1), 3.)]
    assert LatentLoss(10.)(latents).item() == pytest.approx(10 * (8 * 4 + 2 * 9) / 10)


def test_losses_are_registered():
    assert isinstance(build_loss({'type': 'NLLLoss', 'loss_weight': 2.}), NLLLoss)
    assert isinstance(build_loss({'type': 'LatentLoss'}), LatentLoss)
    assert isinstance(build_loss({'type': 'RelativisticGANLoss', 'gan_type': 'vanilla'}), RelativisticGANLoss)


def test_relativistic_loss_is_the_one_of_esrgan():
    loss = RelativisticGANLoss('vanilla', loss_weight=0.1)
    real, fake = REAL - FAKE.mean(), FAKE - REAL.mean()
    ones, zeros = torch.ones(2, 1), torch.zeros(2, 1)
    bce = F.binary_cross_entropy_with_logits
    wanted = 0.1 * 0.5 * (bce(real, zeros) + bce(fake, ones))
    assert loss.generator_loss(REAL, FAKE).item() == pytest.approx(wanted.item())
    wanted = [0.5 * bce(real, ones).item(), 0.5 * bce(fake, zeros).item()]  # the discriminator's has no weight
    assert [value.item() for value in loss.discriminator_losses(REAL, FAKE)] == pytest.approx(wanted)


@pytest.mark.parametrize('gan_type', ['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'])
def test_both_sides_pull_in_opposite_directions(gan_type):
    loss, real, fake = RelativisticGANLoss(gan_type), torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.4])
    fake.requires_grad_()
    generator, = torch.autograd.grad(loss.generator_loss(real, fake), fake)
    discriminator, = torch.autograd.grad(sum(loss.discriminator_losses(real, fake)), fake)
    assert generator.sum() < 0 < discriminator.sum()
