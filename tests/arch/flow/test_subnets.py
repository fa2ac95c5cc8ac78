import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import perturb

from hcflow_arch.flow.layers import ActNorm2d
from hcflow_arch.flow.subnets import FCN, DenseBlock, ZeroConv2d, xavier_init_


def test_zero_conv_formula():
    net = perturb(ZeroConv2d(2, 3), 0.3)
    x = torch.randn(2, 2, 4, 5)
    wanted = (F.conv2d(x, net.weight, padding=1) + net.bias.view(1, 3, 1, 1)) * torch.exp(3 * net.log_scale)
    assert torch.allclose(net(x), wanted, atol=1e-6)


def test_fcn_formula():
    net = perturb(FCN(2, 6, 5), 0.3)
    x = torch.randn(2, 2, 4, 5)
    hidden = F.conv2d(x, net.conv1.weight, padding=1)
    hidden = F.relu((hidden + net.norm1.bias) * net.norm1.log_scale.exp())
    hidden = F.conv2d(hidden, net.conv2.weight)
    hidden = F.relu((hidden + net.norm2.bias) * net.norm2.log_scale.exp())
    wanted = (F.conv2d(hidden, net.conv3.weight, padding=1) + net.conv3.bias.view(1, 6, 1, 1)) * torch.exp(
        3 * net.conv3.log_scale)
    assert torch.allclose(net(x), wanted, atol=1e-5)
    assert net.conv1.bias is None and net.conv2.bias is None


def test_dense_block_formula():
    net = perturb(DenseBlock(3, 2, 4), 0.3)
    x = wide = torch.randn(2, 3, 4, 5)
    for conv in (net.conv1, net.conv2, net.conv3, net.conv4):
        wide = torch.cat([wide, F.leaky_relu(F.conv2d(wide, conv.weight, conv.bias, padding=1), 0.2)], dim=1)
    assert wide.shape[1] == 3 + 4 * 4
    assert torch.allclose(net(x), F.conv2d(wide, net.conv5.weight, net.conv5.bias, padding=1), atol=1e-5)


@pytest.mark.parametrize(('make', 'num_in_ch', 'num_context'), [
    (FCN, 2, 0), (FCN, 3, 0), (FCN, 3, 4), (FCN, 5, 4), (DenseBlock, 2, 0), (DenseBlock, 3, 0), (DenseBlock, 5, 0)])
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_channels_last_equals_planes(make, num_in_ch, num_context, recompute, dtype, tolerance):
    # rows are images of their own there
    torch.manual_seed(0)
    planes = perturb(make(num_in_ch + num_context, 6, 5, recompute=recompute), 0.3).to(dtype)
    last = copy.deepcopy(planes).to(memory_format=torch.channels_last)
    x, context, grad = (torch.randn(2, channels, 6, 7, dtype=dtype) for channels in (num_in_ch, num_context, 6))
    results = []
    for net in (planes, last):
        leaf = x.clone().requires_grad_()
        out = net(leaf, context if num_context else None)
        out.backward(grad)
        results.append([out, leaf.grad, *(parameter.grad for parameter in net.parameters())])
    assert all(torch.allclose(*pair, rtol=tolerance, atol=tolerance) for pair in zip(*results, strict=True))


@pytest.mark.parametrize('net', [ZeroConv2d(3, 4), FCN(3, 4), DenseBlock(3, 4)])
def test_starts_at_zero(net):
    assert not net(torch.randn(2, 3, 5, 5)).any()


def test_fcn_starts_its_actnorms_in_data_order():
    net = FCN(3, 4)
    x = 3 + torch.randn(4, 3, 8, 8)
    net(x)
    hidden = net.norm1.normalize(net.conv1(x))
    for values in (hidden, net.norm2.normalize(net.conv2(F.relu(hidden)))):
        assert values.mean(dim=(0, 2, 3)).abs().max() < 1e-3
        assert (values.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    assert all(m.is_initialized() for m in net.modules() if isinstance(m, ActNorm2d))


def test_xavier_init():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(32, 64, 3)
    xavier_init_(conv)
    assert conv.weight.std().item() == pytest.approx(0.1 * (2 / (9 * (32 + 64)))**0.5, rel=0.05)
    assert not conv.bias.any()


def test_subnet_convolutions_start_small():
    torch.manual_seed(0)
    fcn, dense = FCN(32, 4, 64), DenseBlock(32, 4, 32)
    for conv in (fcn.conv1, fcn.conv2, dense.conv1, dense.conv2, dense.conv3, dense.conv4):
        fans = (conv.in_channels + conv.out_channels) * conv.kernel_size[0]**2
        assert conv.weight.std().item() == pytest.approx(0.1 * (2 / fans)**0.5, rel=0.05)
        assert conv.bias is None or not conv.bias.any()
