import pytest
import torch
from helpers import check_flow_layer, perturb
from torch.distributions import Normal

from hcflow_arch.flow.prior import ConditionalGaussian


@pytest.mark.parametrize('bounded', [False, True])
def test_contract(bounded):
    check_flow_layer(ConditionalGaussian(3, 2, bounded), (3, 2, 3), context_ch=2)


@pytest.mark.parametrize('bounded', [False, True])
def test_is_the_gaussian_of_its_head(bounded):
    prior = perturb(ConditionalGaussian(3, 2, bounded), 0.3)
    x, context = torch.randn(2, 3, 4, 5), torch.randn(2, 2, 4, 5)
    with torch.no_grad():
        mean, log_scale = prior.head(context)[:, 0::2], prior.head(context)[:, 1::2]
        if bounded:
            log_scale = 0.318 * torch.atan(2 * log_scale)
        z, log_det = prior(x, context)
        log_prob = Normal(0, 1).log_prob(z).sum(dim=(1, 2, 3)) + log_det
        assert torch.allclose(log_prob, Normal(mean, log_scale.exp()).log_prob(x).sum(dim=(1, 2, 3)), rtol=1e-5)
        assert torch.allclose(prior.inverse(torch.zeros_like(x), context), mean)


def test_bounded_scale_cannot_explode():
    prior = perturb(ConditionalGaussian(3, 2, bounded=True), 1.)
    context = 100 * torch.randn(1, 2, 4, 4)
    with torch.no_grad():
        ones = prior.inverse(torch.ones(1, 3, 4, 4), context) - prior.inverse(torch.zeros(1, 3, 4, 4), context)
    assert ones.min() > 0.5 and ones.max() < 1.7
    assert ones.max() > 1.5


def test_starts_as_standard_normal():
    x = torch.randn(2, 3, 4, 4)
    z, log_det = ConditionalGaussian(3, 2)(x, torch.randn(2, 2, 4, 4))
    assert torch.equal(z, x) and not log_det.any()
