import math

import pytest
import torch
from helpers import check_flow_layer, relative_error

from hcflow_arch.flow.couplings import AffineCoupling, ShiftCoupling
from hcflow_arch.flow.layers import ActNorm2d, FlowLayer, InvertibleConv1x1
from hcflow_arch.flow.squeeze import HaarSqueeze
from hcflow_arch.flow.steps import FlowSequential, FlowStep
from hcflow_arch.flow.subnets import FCN, DenseBlock


def glow_step(num_channels, num_context_ch=0):
    subnet = FCN(num_channels // 2 + num_context_ch, num_channels, 5)
    return FlowStep(num_channels, AffineCoupling(subnet, num_channels // 2))


def shift_step():
    return FlowStep(5, ShiftCoupling(DenseBlock(2, 3, 4), 3), with_conv=False)


@pytest.mark.parametrize(('layer', 'shape', 'context_ch'), [
    (ActNorm2d(3), (3, 2, 3), None),
    (InvertibleConv1x1(4), (4, 2, 3), None),
    (glow_step(4), (4, 2, 3), None),
    (glow_step(4, 3), (4, 3, 2), 3),
    (shift_step(), (5, 2, 3), None),
    (FlowSequential(HaarSqueeze(1), glow_step(4), glow_step(4)), (1, 4, 2), None),
    (FlowSequential(glow_step(4, 2), glow_step(4, 2)), (4, 2, 2), 2),
], ids=['actnorm', 'conv1x1', 'glow step', 'glow step with context', 'shift step', 'chain', 'chain with context'])
def test_contract(layer, shape, context_ch):
    check_flow_layer(layer, shape, context_ch)


def test_layers_must_be_invertible():
    class OneWay(FlowLayer):
        def forward(self, x, context=None):
            return x, x.new_zeros(len(x))

    with pytest.raises(TypeError, match='inverse'):
        OneWay()


def test_flow_step_order():
    assert [type(layer) for layer in glow_step(4).children()] == [ActNorm2d, InvertibleConv1x1, AffineCoupling]
    assert [type(layer) for layer in shift_step().children()] == [ActNorm2d, ShiftCoupling]


def data(seed=0):
    torch.manual_seed(seed)
    return 5 + torch.randn(4, 3, 6, 7) * torch.tensor([1., 20., 0.01]).view(1, 3, 1, 1)


def test_actnorm_formula():
    norm = ActNorm2d(2).eval()
    with torch.no_grad():
        norm.bias.copy_(torch.tensor([1., -2.]).view(1, 2, 1, 1))
        norm.log_scale.copy_(torch.tensor([2., 8.]).log().view(1, 2, 1, 1))
    z, log_det = norm(torch.full((3, 2, 4, 5), 3.))
    assert torch.allclose(z[:, 0], torch.tensor(8.)) and torch.allclose(z[:, 1], torch.tensor(8.))
    assert torch.allclose(log_det, torch.tensor(16.).log() * 20)


def test_actnorm_starts_from_data(device):
    norm, x = ActNorm2d(3).to(device), data().to(device)
    z, _ = norm(x)
    assert norm.is_initialized() and norm.initialized
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (z.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    std = x.std(dim=(0, 2, 3), correction=0)
    assert torch.allclose(norm.bias.flatten(), -x.mean(dim=(0, 2, 3)), rtol=1e-5)
    assert torch.allclose(norm.log_scale.flatten(), -torch.log(std + 1e-6), atol=1e-5)
    assert norm.bias.requires_grad and norm.bias.grad_fn is None


def test_actnorm_starts_once():
    norm = ActNorm2d(3)
    norm(data())
    bias, log_scale = norm.bias.clone(), norm.log_scale.clone()
    norm(2 * data(1) + 1)
    assert torch.equal(norm.bias, bias) and torch.equal(norm.log_scale, log_scale)


def test_actnorm_never_starts_in_eval_mode_nor_in_inverse():
    norm = ActNorm2d(3).eval()
    assert torch.equal(norm(data())[0], data())
    norm.train().inverse(data())
    assert not norm.is_initialized() and not norm.initialized
    norm(data())
    assert norm.is_initialized()


def test_actnorm_loaded_weights_stay():
    norm = ActNorm2d(3)
    norm(data())
    loaded = ActNorm2d(3)
    assert not loaded.is_initialized()
    loaded.load_state_dict(norm.state_dict())
    loaded(2 * data(1) + 1)
    assert loaded.is_initialized() and torch.equal(loaded.bias, norm.bias)


def test_actnorm_loads_the_flag_of_a_waiting_one():
    norm = ActNorm2d(3)
    norm(data())
    norm.load_state_dict(ActNorm2d(3).state_dict())
    assert not norm.is_initialized()
    z, _ = norm(2 * data(1) + 1)
    assert z.mean(dim=(0, 2, 3)).abs().max() < 1e-3


def test_actnorm_constant_channel_is_finite():
    norm = ActNorm2d(2)
    x = torch.randn(2, 2, 4, 4)
    x[:, 1] = 0.5
    z, log_det = norm(x)
    assert torch.isfinite(z).all() and torch.isfinite(log_det).all()
    assert torch.allclose(norm.inverse(z), x, atol=1e-5)


def test_conv1x1_starts_orthogonal_and_random():
    weights = [InvertibleConv1x1(6).weight for _ in range(2)]
    for weight in weights:
        assert torch.allclose(weight @ weight.T, torch.eye(6), atol=1e-5)
    assert not torch.allclose(*weights)


def test_conv1x1_mixes_channels():
    layer = InvertibleConv1x1(3)
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(layer(x)[0], torch.einsum('ij,njhw->nihw', layer.weight, x), atol=1e-6)


def test_conv1x1_inverts_ill_conditioned_matrices_in_float64():
    layer = InvertibleConv1x1(3)
    with torch.no_grad():
        rotation = layer.weight.clone()
        layer.weight.copy_(rotation @ torch.diag(torch.tensor([1., 1., 1e-4])) @ rotation)
        z = torch.randn(2, 3, 4, 5)
        wanted = torch.einsum('ij,njhw->nihw', torch.linalg.inv(layer.weight.double()), z.double())
        assert relative_error(layer.inverse(z), wanted) < 1e-6


# ---- batches that a start cannot be made of ----

@pytest.mark.parametrize('value', [0., 0.5, 1.])
@pytest.mark.parametrize('shape', [(2, 3, 4, 4), (1, 3, 1, 1), (2, 3, 1, 7)])
def test_actnorm_of_a_constant_batch_keeps_its_scale(value, shape):
    norm = ActNorm2d(3)
    z, log_det = norm(torch.full(shape, value))
    assert not z.any() and not log_det.any() and norm.is_initialized()
    image = torch.rand(2, 3, 4, 4)
    assert norm(image)[0].abs().max() <= 1  # not amplified


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_actnorm_waits_for_a_finite_batch(bad):
    norm = ActNorm2d(2)
    x = data()[:, :2]
    spoilt = x.clone()
    spoilt[0, 0, 0, 0] = bad
    norm(spoilt)
    assert not norm.is_initialized() and not norm.bias.any() and not norm.log_scale.any()
    z, _ = norm(x)
    assert norm.is_initialized() and z.mean(dim=(0, 2, 3)).abs().max() < 1e-3
