"""Winograd's convolution against the direct one: the same numbers in float64, and as exact a network in float32."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import golden_net, perturb, random_image, small_net
from torch.utils.checkpoint import checkpoint

from hcflow_arch.convs import dense_block as dense_convs
from hcflow_arch.convs import winograd
from hcflow_arch.convs.direct import DirectConvs
from hcflow_arch.convs.winograd import MATRICES, WinogradConvs
from hcflow_arch.features.rrdb import RRDB
from hcflow_arch.flow.subnets import DenseBlock

SIZES = [(1, 1, 1), (2, 3, 5), (1, 4, 2), (2, 9, 6), (3, 16, 7)]


@pytest.fixture
def threads_restored():
    """The number of threads, which a test changes, is as before after it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


def parameters_of(num_in_ch, num_out_ch, num_grow_ch, dtype=torch.float64):
    block = perturb(DenseBlock(num_in_ch, num_out_ch, num_grow_ch), 0.3).to(dtype)
    return [last(p.detach()) if p.dim() == 4 else p.detach() for p in block.parameters()]


def test_matrices():
    into, out, filters = MATRICES[torch.float64]
    rows, kernel = torch.randn(6, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    wanted = torch.stack([rows[i:i + 3] @ kernel for i in range(4)])
    assert torch.allclose(out @ ((filters @ kernel) * (into @ rows)), wanted, atol=1e-14)
    for exact, rounded in zip(MATRICES[torch.float64][:2], MATRICES[torch.float32][:2], strict=True):
        assert torch.equal(exact, rounded.double())


@pytest.mark.parametrize(('n', 'h', 'w'), SIZES)
@pytest.mark.parametrize('strip', [1, 20, 10**6])
def test_equals_conv2d(n, h, w, strip, monkeypatch):
    monkeypatch.setattr(winograd, 'STRIP', strip)
    x, y = torch.randn(n, 5, h, w, dtype=torch.float64), torch.randn(n, 3, h, w, dtype=torch.float64)
    weight, bias = last(torch.randn(4, 8, 3, 3, dtype=torch.float64)), torch.randn(4, dtype=torch.float64)
    convs = WinogradConvs(x)
    if strip != 20:
        assert len(convs.strips) == (-(-h // 4) if strip == 1 else 1)
    beside = convs.parts_beside(8)
    convs.conv(beside.add(convs.part(x)), last(weight[:, :5]), bias)  # as a dense block does, which reads x alone first
    got = convs.image(convs.conv(beside.add(convs.part(y)), weight, bias))
    assert torch.allclose(got, F.conv2d(torch.cat([x, y], dim=1), weight, bias, padding=1), atol=1e-12)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(('n', 'h', 'w'), SIZES)
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('strip', [1, 20, 10**6])
def test_dense_convs_equal_direct_ones(n, h, w, recompute, strip, monkeypatch):
    monkeypatch.setattr(winograd, 'STRIP', strip)
    x, parameters = last(torch.randn(n, 5, h, w, dtype=torch.float64)), parameters_of(5, 3, 4)
    grad, results = torch.randn(n, 3, h, w, dtype=torch.float64), []
    for convs in (DirectConvs(parameters[0]), WinogradConvs(x)):
        monkeypatch.setattr(dense_convs, '_fastest', lambda x, weights, convs=convs: convs)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, *parameters)]
        out = dense_convs.DenseConvs.apply(leaves[0], recompute, *leaves[1:])
        out.backward(grad)
        results.append([out, *(leaf.grad for leaf in leaves)])
    for wanted, got in zip(*results, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-11)
        assert got.stride()[1:] == wanted.stride()[1:] or h == w == 1


@pytest.mark.slow
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('frozen', [(), ('x',), ('weight',), ('weight', 'bias'), ('x', 'bias')])
def test_gradients(recompute, frozen, monkeypatch):
    monkeypatch.setattr(winograd, 'STRIP', 20)
    monkeypatch.setattr(dense_convs, '_fastest', lambda x, weights: WinogradConvs(x))
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad='x' not in frozen)
    parameters = parameters_of(3, 2, 2)
    for parameter in parameters:
        parameter.requires_grad_(('weight' if parameter.dim() == 4 else 'bias') not in frozen)
    assert torch.autograd.gradcheck(lambda x, *p: dense_convs.DenseConvs.apply(x, recompute, *p), (x, *parameters))


def test_error_in_float32():
    # of a dense block of the paper's size: 1.3 times that of the direct way
    x, parameters = last(torch.randn(1, 64, 16, 16)), parameters_of(64, 64, 32, torch.float32)

    def run(convs, dtype):
        beside, part = convs.parts_beside(192), convs.part(x.to(dtype))
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            part = convs.leaky_relu(convs.conv(beside.add(part), weight.to(dtype), bias.to(dtype)), 0.2)
        return convs.image(convs.conv(beside.add(part), *(p.to(dtype) for p in parameters[-2:])))
    exact = run(DirectConvs(parameters[0]), torch.float64)
    direct, fast = ((run(convs, torch.float32) - exact).norm() / exact.norm()
                    for convs in (DirectConvs(parameters[0]), WinogradConvs(x)))
    assert 0 < fast < 2 * direct < 1e-5


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_error_of_a_network(task, monkeypatch):
    monkeypatch.setattr(winograd, 'MAX_FILLED', math.inf)
    net = perturb(small_net(task=task, num_feat=16, num_grow_ch=8, channels_last=True), 0.02)
    lq, gt = random_image(1, 3, 12, 10), random_image(1, 3, 48, 40, seed=1)
    latents, noise = net.draw_latents(lq), torch.rand_like(gt)

    def run(net, dtype=torch.float32, least=math.inf):
        monkeypatch.setattr(winograd, 'MIN_MULTIPLICATIONS', least)
        with torch.no_grad():
            code = net.encode(gt.to(dtype), lq.to(dtype), noise.to(dtype))
            sr = net.decode(lq.to(dtype), [latent.to(dtype) for latent in latents])
        return torch.cat([tensor.double().flatten() for tensor in (sr, *code.latents)])
    exact = run(copy.deepcopy(net).double(), torch.float64)
    direct, fast = ((run(net, least=least) - exact).norm() / exact.norm() for least in (math.inf, -math.inf))
    assert direct != fast and 0 < fast < 2 * direct < 1e-4, (direct, fast)


def test_where_it_runs(monkeypatch, threads_restored):
    torch.set_num_threads(1)
    seen = []
    conv = WinogradConvs.conv
    monkeypatch.setattr(WinogradConvs, 'conv', lambda *args: (seen.append(args), conv(*args))[1])
    net = RRDB(64, 32).to(memory_format=torch.channels_last)

    def runs(h, w, net=net, dtype=torch.float32, threads=1):
        seen.clear()
        torch.set_num_threads(threads)
        with torch.no_grad():
            net(torch.randn(1, 64, h, w, dtype=dtype))
        assert len(seen) in (0, 15)
        return bool(seen)
    assert runs(40, 40) and not runs(16, 16)  # few multiplications
    assert runs(11, 200) and not runs(13, 200)  # three rows of filling
    assert not runs(44, 48, threads=2) and runs(48, 80, threads=2)
    assert not runs(40, 40, RRDB(64, 32))  # in planes
    mixed = RRDB(64, 32).to(memory_format=torch.channels_last)
    for block in mixed.children():
        block.conv5.weight.data = block.conv5.weight.data.contiguous()
    assert not runs(40, 40, mixed)
    assert not runs(40, 40, RRDB(64, 32).double().to(memory_format=torch.channels_last), torch.float64)
    torch.set_num_threads(1)
    with torch.autocast('cpu', torch.bfloat16):
        assert not runs(40, 40)


def test_a_network_runs_by_it(convs, monkeypatch):
    # what the tests of golden arrays rely on
    seen = []
    conv = WinogradConvs.conv
    monkeypatch.setattr(WinogradConvs, 'conv', lambda *args: (seen.append(args), conv(*args))[1])
    net, case = golden_net('sr4')
    with torch.no_grad():
        net.decode(case['lr'], temperature=0)
    assert bool(seen) == (convs == 'winograd')


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.usefixtures('convs')
def test_a_block_is_a_function_like_others(recompute):
    # one whose output may be changed in its place, which a checkpoint runs again, and compilers and tracers take whole
    block = perturb(DenseBlock(4, 3, 3, recompute), 0.3).to(memory_format=torch.channels_last)
    x = torch.randn(1, 4, 8, 6, requires_grad=True)

    def gradient(run):
        return torch.autograd.grad(run().sum(), x)[0]
    wanted = gradient(lambda: block(x).relu())
    assert wanted.any()
    assert torch.equal(gradient(lambda: block(x).relu_()), wanted)
    assert torch.equal(gradient(lambda: checkpoint(block, x, use_reentrant=False).relu()), wanted)
    with torch.no_grad():
        compiled = torch.compile(block, fullgraph=True, backend='eager')
        assert torch.allclose(compiled(x), block(x), atol=1e-5)
        traced = torch.jit.trace(block, x)
        other = torch.randn(2, 4, 9, 5)
        assert torch.allclose(traced(other), block(other), atol=1e-5)
