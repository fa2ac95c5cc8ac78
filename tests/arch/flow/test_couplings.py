import pytest
import torch
from helpers import check_flow_layer, perturb, small_net

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.flow.couplings import (
    COUPLINGS,
    AffineCoupling,
    Coupling,
    ShiftCoupling,
    bounded_log_scale,
    register_coupling,
    split_shift_scale,
)
from hcflow_arch.flow.subnets import FCN, DenseBlock


@pytest.mark.parametrize(('layer', 'shape', 'context_ch'), [
    (AffineCoupling(FCN(2, 4, 5), 2), (4, 3, 2), None),
    (AffineCoupling(FCN(1 + 3, 4, 5), 1), (3, 2, 3), 3),
    (AffineCoupling(DenseBlock(3, 4, 4), 3), (5, 2, 3), None),
    (ShiftCoupling(DenseBlock(2, 3, 4), 3), (5, 3, 2), None),
    (ShiftCoupling(DenseBlock(2 + 2, 3, 4), 3), (5, 2, 2), 2),
], ids=['affine FCN', 'affine FCN with context', 'affine dense block', 'shift', 'shift with context'])
def test_contract(layer, shape, context_ch):
    check_flow_layer(layer, shape, context_ch)


def test_bounded_log_scale():
    raw = torch.tensor([-1e6, -0.5, 0., 0.5, 1e6])
    wanted = 0.318 * torch.pi * torch.tensor([-0.5, -0.25, 0., 0.25, 0.5])
    assert torch.allclose(bounded_log_scale(raw), wanted, atol=1e-6)
    assert bounded_log_scale(raw).abs().max() < 0.5


def test_shift_and_scale_are_interleaved():
    shift, scale = split_shift_scale(torch.arange(6.).view(1, 6, 1, 1))
    assert shift.flatten().tolist() == [0, 2, 4] and scale.flatten().tolist() == [1, 3, 5]


class Repeat(torch.nn.Module):
    """A subnet whose output is known: every channel is the sum of its input channels."""

    def __init__(self, num_out_ch):
        super().__init__()
        self.num_out_ch = num_out_ch

    def forward(self, x, context=None):
        x = x if context is None else torch.cat([x, context], dim=1)
        return x.sum(dim=1, keepdim=True).repeat(1, self.num_out_ch, 1, 1)


def test_affine_formula():
    x, context = torch.randn(2, 5, 3, 4), torch.randn(2, 2, 3, 4)
    z, log_det = AffineCoupling(Repeat(6), 2)(x, context)
    seen = x[:, :2].sum(dim=1, keepdim=True) + context.sum(dim=1, keepdim=True)
    log_scale = 0.318 * torch.atan(2 * seen)
    assert torch.equal(z[:, :2], x[:, :2])
    assert torch.allclose(z[:, 2:], (x[:, 2:] + seen) * log_scale.exp(), atol=1e-6)
    assert torch.allclose(log_det, 3 * log_scale.sum(dim=(1, 2, 3)), atol=1e-5)


def test_shift_formula():
    x = torch.randn(2, 5, 3, 4)
    z, log_det = ShiftCoupling(Repeat(3))(x)
    assert torch.equal(z[:, 3:], x[:, 3:])
    assert torch.allclose(z[:, :3], x[:, :3] + x[:, 3:].sum(dim=1, keepdim=True), atol=1e-6)
    assert log_det.tolist() == [0, 0]


@pytest.mark.parametrize('layer', [AffineCoupling(FCN(2, 4), 2), AffineCoupling(DenseBlock(2, 4), 2),
                                   ShiftCoupling(DenseBlock(1, 3), 3)])
def test_starts_as_identity(layer):
    x = torch.randn(2, 4, 5, 5)
    z, log_det = layer(x)
    assert torch.equal(z, x) and not log_det.any()


# ---- the coupling of a network ----

@pytest.fixture
def volume_preserving(monkeypatch):
    """A registered coupling that computes one number a channel."""
    monkeypatch.setattr('hcflow_arch.flow.couplings.COUPLINGS', COUPLINGS.copy())

    @register_coupling
    class AdditiveCoupling(Coupling):
        def change(self, x, h):
            return x + h, x.new_zeros(x.shape[0])

        def change_back(self, z, h):
            return z - h
    return AdditiveCoupling


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_every_affine_coupling_is_replaced(task, volume_preserving):
    net = perturb(small_net(4, task, coupling='AdditiveCoupling').double(), 0.02).eval()
    kinds = {type(module) for module in net.modules() if isinstance(module, Coupling)}
    assert kinds == {volume_preserving} | ({ShiftCoupling} if task == 'rescaling' else set())
    gt = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    code = net.encode(gt, dequantization_noise=torch.zeros_like(gt))
    assert torch.allclose(net.decode(code.lq_exact, code.latents, clamp=False), gt, atol=1e-9)
    assert net.arguments['coupling'] == 'AdditiveCoupling'
    HCFlowNet(**net.arguments).load_state_dict(net.state_dict())


@pytest.mark.parametrize('name', ['NoSuchCoupling', 'ShiftCoupling', None, 3, ['AffineCoupling'], {}])
def test_unknown_coupling(name):
    with pytest.raises(InputError, match=r'network_g.coupling is .*AffineCoupling.*plugins'):
        small_net(coupling=name)


def test_names_are_taken_once(volume_preserving):
    assert register_coupling(volume_preserving) is volume_preserving  # again is no harm
    with pytest.raises(KeyError, match='already a coupling AdditiveCoupling'):
        register_coupling(type('AdditiveCoupling', (AffineCoupling,), {}))
