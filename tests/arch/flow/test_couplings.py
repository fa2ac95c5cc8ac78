import pytest
import torch
from helpers import check_flow_layer

from hcflow_arch.flow.couplings import AffineCoupling, ShiftCoupling, bounded_log_scale, split_shift_scale
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
