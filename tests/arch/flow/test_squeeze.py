import pytest
import torch
from helpers import check_flow_layer

from hcflow_arch.flow.squeeze import HaarSqueeze, SpaceToDepth


@pytest.mark.parametrize('layer', [SpaceToDepth(), HaarSqueeze(2)], ids=['space to depth', 'haar'])
def test_contract(layer):
    check_flow_layer(layer, (2, 4, 6))


def corners(x):
    """The four pixels of every 2x2 block, row by row."""
    return [x[:, :, i::2, j::2] for i in range(2) for j in range(2)]


def test_space_to_depth_order():
    x = torch.randn(2, 3, 4, 6)
    z, _ = SpaceToDepth()(x)
    assert torch.equal(z, torch.stack(corners(x), dim=2).flatten(1, 2))


def test_haar_bands():
    x = torch.randn(2, 3, 4, 6)
    z, _ = HaarSqueeze(3)(x)
    a, b, c, d = corners(x)
    bands = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4
    assert torch.allclose(z, bands, atol=1e-6)


def test_haar_constants_are_counted_but_not_trained():
    layer = HaarSqueeze(6)
    weights = layer.state_dict()['haar_weights']
    assert weights.shape == (24, 1, 2, 2) and weights.abs().eq(1).all()
    assert sum(p.numel() for p in layer.parameters()) == 96
    assert not any(p.requires_grad for p in layer.parameters())
    z, _ = layer(torch.ones(1, 6, 2, 2, requires_grad=True))
    z.sum().backward()
    assert layer.haar_weights.grad is None
