import pytest
import torch
import torch.nn.functional as F
from helpers import random_image, small_net

from hcflow_arch.errors import InputError
from hcflow_arch.flow.initialization import averaging_haar
from hcflow_arch.flow.layers import ActNorm2d
from hcflow_arch.flow.squeeze import HaarSqueeze, SpaceToDepth


def test_averaging_haar_is_the_haar_squeeze():
    x = torch.randn(2, 6, 4, 4)
    z = torch.einsum('ij,njhw->nihw', averaging_haar(6), SpaceToDepth()(x)[0])
    assert torch.allclose(z, HaarSqueeze(6)(x)[0], atol=1e-6)


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
@pytest.mark.parametrize('scale', [2, 4, 8])
@pytest.mark.parametrize('training', [True, False])
def test_wavelet_averages(task, scale, training):
    net = small_net(scale, task, start='wavelet').train(training)
    gt, noise = random_image(2, 3, 2 * scale, 3 * scale), random_image(2, 3, 2 * scale, 3 * scale, seed=1)
    code = net.encode(gt, dequantization_noise=noise)
    wanted = gt + noise / net.quant_bins if task == 'sr' else gt
    assert (code.lq_exact - F.avg_pool2d(wanted, scale)).abs().max() < 1e-5
    assert (net.decode(code.lq_exact, code.latents) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_wavelet_starts_only_conditional_and_subnet_actnorms_from_data(task):
    net = small_net(4, task, start='wavelet')
    net.encode(random_image(2, 3, 16, 24))
    assert net.is_initialized()
    for level in net.levels:
        for step in level.main[1:]:
            assert not step.actnorm.bias.any() and not step.actnorm.log_scale.any()
        subnet_norms = [m for step in level.main[1:] for m in step.coupling.modules() if isinstance(m, ActNorm2d)]
        assert len(subnet_norms) == (4 if task == 'sr' else 0)
        for norm in [*subnet_norms, *(step.actnorm for step in level.prior[:-1])]:
            assert norm.bias.any() and norm.log_scale.any()


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_wavelet_checkpoint_loads_into_a_paper_network(task):
    wavelet, paper = small_net(4, task, start='wavelet'), small_net(4, task, start='paper')
    gt = random_image(1, 3, 8, 12)
    wavelet.encode(gt)
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (wavelet, paper)]
    assert shapes[0] == shapes[1]
    paper.load_state_dict(wavelet.state_dict(), strict=True)
    noise = torch.rand_like(gt)
    codes = [net.encode(gt, dequantization_noise=noise) for net in (wavelet, paper)]
    assert torch.equal(codes[0].lq_exact, codes[1].lq_exact)
    assert all(map(torch.equal, codes[0].latents, codes[1].latents))


def test_paper_start_is_random_and_waits_for_data():
    net, other = small_net(seed=0), small_net(seed=1)
    assert not any(norm.is_initialized() for norm in net.actnorms())
    weights = [n.levels[0].main[1].conv1x1.weight for n in (net, other)]
    assert torch.allclose(weights[0] @ weights[0].T, torch.eye(12), atol=1e-5)
    assert not torch.allclose(*weights)


@pytest.mark.parametrize('start', ['haar', None, ''])
def test_unknown_start(start):
    with pytest.raises(InputError, match=r"network_g\.start is .*'paper', 'wavelet'"):
        small_net(start=start)
