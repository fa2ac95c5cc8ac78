"""Memory modes against plain autograd, what they keep, and what is kept between calls."""
import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import perturb, random_image, small_net
from plain import plain

from hcflow_arch.convs.dense_block import DenseConvs
from hcflow_arch.convs.direct import conv_backward
from hcflow_arch.convs.fcn_tail import hidden_convs
from hcflow_arch.errors import InputError
from hcflow_arch.flow.steps import FlowSequential
from hcflow_arch.flow.subnets import FCN, DenseBlock

MODES = ['default', 'low']
GT, LQ = random_image(2, 3, 16, 24), random_image(2, 3, 4, 6, seed=1)


def loss_of(net, gt=GT, lq=LQ, seed=0):
    """A loss of both directions: everything has a gradient."""
    torch.manual_seed(seed)
    code = net(lq, gt)
    decoded = (net(code.lq, temperature=0.7) - gt).abs().mean()
    if code.nll is not None:
        return code.nll.mean() + decoded
    return sum(latent.square().mean() for latent in code.latents) + (code.lq - lq).square().mean() + decoded


def gradients(net, **kwargs):
    net.zero_grad()
    loss = loss_of(net, **kwargs)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])


def assert_equal(got, wanted, loss=1e-6, gradient=1e-4):
    assert got[0] == pytest.approx(wanted[0], rel=loss)
    assert (got[1] - wanted[1]).norm() < gradient * wanted[1].norm()


@pytest.mark.slow
@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('memory', MODES)
@pytest.mark.parametrize('task', ['sr', 'rescaling'])
@pytest.mark.parametrize('scale', [2, 4])
@pytest.mark.parametrize('amount', [0.02, 0.05])
def test_equals_plain_autograd(memory, task, scale, amount):
    net = perturb(small_net(scale, task, memory=memory), amount)
    lq = random_image(2, 3, 16 // scale, 24 // scale, seed=1)
    assert_equal(gradients(net, lq=lq), gradients(plain(net), lq=lq))


@pytest.mark.parametrize('memory', MODES)
@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_equals_plain_autograd_in_float64(memory, task):
    net, gt, lq = perturb(small_net(4, task, memory=memory)).double(), GT.double(), LQ.double()
    assert_equal(gradients(net, gt=gt, lq=lq), gradients(plain(net), gt=gt, lq=lq), 1e-12, 1e-10)


@pytest.mark.parametrize('memory', MODES)
@pytest.mark.parametrize('start', ['paper', 'wavelet'])
def test_first_batch_starts_actnorms_once(memory, start):
    net = small_net(start=start, memory=memory).double()
    wanted = plain(net)
    got = gradients(net, gt=GT.double(), lq=LQ.double())
    assert_equal(got, gradients(wanted, gt=GT.double(), lq=LQ.double()), 1e-9, 1e-6)
    for key, value in wanted.state_dict().items():
        assert torch.allclose(net.state_dict()[key], value, atol=1e-9), key


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('frozen', [(), ('x',), ('weight',)])
def test_dense_convs_gradients(recompute, frozen):
    block = perturb(DenseBlock(3, 2, 2).double(), 0.3)
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad='x' not in frozen)
    parameters = [p.detach().requires_grad_('weight' not in frozen or p.dim() == 1) for p in block.parameters()]
    assert torch.autograd.gradcheck(lambda x, *p: DenseConvs.apply(x, recompute, *p), (x, *parameters))


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('hidden_channels', [1, 6])
@pytest.mark.parametrize('frozen', [(), (0,), (0, 1), (0, 1, 2), (1, 3), (3, 4)])
def test_hidden_convs_gradients(frozen, hidden_channels, memory_format):
    torch.manual_seed(0)
    shapes = [(2, 3, 4, 5), (hidden_channels, 3, 1, 1), (hidden_channels,), (2, hidden_channels, 3, 3), (2,)]
    x, weight1x1, bias1x1, weight3x3, bias3x3 = [
        torch.randn(shape, dtype=torch.float64).contiguous(
            memory_format=memory_format if len(shape) == 4 else torch.contiguous_format
        ).requires_grad_(i not in frozen) for i, shape in enumerate(shapes)]
    args = x, weight1x1, bias1x1, weight3x3, bias3x3
    hidden = F.relu(F.conv2d(x, weight1x1, bias1x1))
    assert hidden.any() and not hidden.all()
    wanted = F.conv2d(hidden, weight3x3, bias3x3, padding=1)
    for recompute in (False, True):
        assert torch.allclose(hidden_convs(*args, recompute=recompute), wanted, atol=1e-12)
        assert torch.autograd.gradcheck(lambda *args, r=recompute: hidden_convs(*args, recompute=r), args)


@pytest.mark.parametrize('recompute', [False, True])
def test_dense_block_reads_gradients_in_the_layout_of_its_weights(recompute, monkeypatch):
    # what comes from the flow lies in planes; one such part makes every concatenation, and convolution, slow
    block = perturb(DenseBlock(3, 6, 4, recompute=recompute), 0.3).to(memory_format=torch.channels_last)
    seen = []

    def backward(grad, *args):
        seen.append(grad)
        return conv_backward(grad, *args)
    monkeypatch.setattr('hcflow_arch.convs.direct.conv_backward', backward)
    block(random_image(2, 3, 8, 8)).backward(random_image(2, 6, 8, 8, seed=1))
    assert len(seen) == 5 and all(grad.is_contiguous(memory_format=torch.channels_last) for grad in seen)


@pytest.mark.parametrize('memory', MODES)
def test_copies_train_alike(memory):
    net = perturb(small_net(memory=memory), 0.05)
    wanted = gradients(net)
    with torch.no_grad():
        net.decode(LQ)
    assert_equal(gradients(copy.deepcopy(net)), wanted, 1e-9, 1e-9)


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('memory', MODES)
@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_autocast_keeps_the_flow_in_float32(memory, task):
    net = perturb(small_net(4, task, memory=memory), 0.02)
    wanted, seen = gradients(net), []
    for level in net.levels:
        level.feature_net.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        for chain in (level.main, level.prior):
            for step in chain[1:-1]:
                step.coupling.subnet.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    torch.manual_seed(0)
    with torch.autocast('cpu', torch.bfloat16):
        code = net(LQ, GT)
        sr = net.decode(LQ, temperature=0.5)
        loss = loss_of(net)
    assert set(seen) == {torch.bfloat16}
    assert all(x.dtype == torch.float32 for x in (code.lq, code.lq_exact, sr, loss, *code.latents))
    assert code.nll is None or code.nll.dtype == torch.float32
    net.zero_grad()
    loss.backward()
    got = loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])
    assert_equal(got, wanted, 0.02, 0.2)


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('memory', MODES)
@pytest.mark.parametrize('channels_last', [False, True])
def test_backward_within_autocast(memory, channels_last):
    # PyTorch advises against it: matrix products of its own formulas round there
    net = perturb(small_net(memory=memory, channels_last=channels_last), 0.02)
    wanted = gradients(net)
    net.zero_grad()
    loss = loss_of(net)
    with torch.autocast('cpu', torch.bfloat16):
        loss.backward()
    got = loss.item(), torch.cat([p.grad.flatten() for p in net.parameters() if p.requires_grad])
    assert_equal(got, wanted, 1e-6, 0.01)


@pytest.mark.parametrize('make', [DenseBlock, FCN])
def test_autocast_leaves_float64(make):
    net, x = perturb(make(3, 2), 0.1).double(), torch.randn(1, 3, 4, 5, dtype=torch.float64)
    wanted = net(x)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(net(x), wanted)


def test_dense_block_keeps_no_copies_of_its_weights():
    block = perturb(DenseBlock(3, 6, 4), 0.1).to(memory_format=torch.channels_last)
    own, kept = {parameter.data_ptr() for parameter in block.parameters()}, []
    x = random_image(1, 3, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        block(x)
    features = [tensor.shape[1] for tensor in kept if tensor.data_ptr() not in own]
    assert features == [3, 4, 4, 4, 4]  # the image and four outputs


@pytest.mark.slow
@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize(('task', 'wanted'), [('sr', {'default': 0.40, 'low': 0.16}),
                                              ('rescaling', {'default': 0.40, 'low': 0.16})])
def test_kept_bytes(task, wanted):
    # smaller than the paper's network, so more of the rest; benchmarks/ measure the paper's
    sizes = {'num_feat': 16, 'num_grow_ch': 8, 'num_block': [2, 2], 'hidden_channels': 16, 'num_subnet_grow_ch': 8}
    nets = {memory: perturb(small_net(4, task, memory=memory, **sizes), 0.01) for memory in MODES}
    kept = {memory: kept_bytes(net) for memory, net in nets.items()}
    reference = kept_bytes(plain(nets['default']))
    assert all(kept[memory] < wanted[memory] * reference for memory in MODES), (kept, reference)


def kept_bytes(net):
    """Bytes kept for the backward pass of one image more, each storage once, parameters left out."""
    def measure(num_images):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = loss_of(net, random_image(num_images, 3, 32, 32), random_image(num_images, 3, 8, 8))
        assert loss.requires_grad
        return sum(storages.values())
    return measure(2) - measure(1)


@pytest.mark.parametrize('memory', ['lowest', None, True])
def test_unknown_mode(memory):
    with pytest.raises(InputError, match=r"network_g\.memory is .*'default', 'low'"):
        small_net(memory=memory)


# ---- what is kept between calls of decode ----

def test_coarsest_features_are_computed_once_for_many_samples():
    net = perturb(small_net(), 0.05)
    calls = []
    net.levels[-1].feature_net.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        features = net.coarsest_features(LQ)
        for temperature in (0, 0.5, 0.9):
            generators = [torch.Generator().manual_seed(3) for _ in range(2)]
            sr = net.decode(LQ, temperature=temperature, generator=generators[0], features=features)
            assert len(calls) == 1
            assert torch.equal(sr, net.decode(LQ, temperature=temperature, generator=generators[1]))
            calls.pop()


def change_by_optimizer(net):
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    loss_of(net).backward()
    optimizer.step()


def change_by_load(net):
    net.load_state_dict(perturb(copy.deepcopy(net), 0.02, seed=5).state_dict())


def change_by_ema(net):
    for parameter in net.parameters():  # as basicsr.models.base_model.BaseModel.model_ema
        parameter.data.mul_(0.9).add_(torch.full_like(parameter, 0.1).data, alpha=0.1)


def change_by_to(net):
    net.to(torch.float64)


@pytest.mark.parametrize('change', [change_by_optimizer, change_by_load, change_by_ema, change_by_to])
def test_inverses_are_kept_and_never_stale(change, monkeypatch):
    net = perturb(small_net(), 0.05)
    chain = net.levels[0].main
    with torch.no_grad():
        net.decode(LQ)
        kept = chain._kept_inverses
        net.decode(LQ)
        assert chain._kept_inverses is kept
    change(net)
    fresh = copy.deepcopy(net)
    for module in fresh.modules():
        if isinstance(module, FlowSequential):
            module._kept_inverses = None
    lq = LQ.to(next(net.parameters()).dtype)
    with torch.no_grad():
        assert torch.equal(net.decode(lq, temperature=0), fresh.decode(lq, temperature=0))
    assert chain._kept_inverses is not kept


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_layouts_give_equal_numbers(task):
    planes = perturb(small_net(4, task, channels_last=False))
    last = small_net(4, task, channels_last=True)
    last.load_state_dict(planes.state_dict())
    assert_equal(gradients(last), gradients(planes))
    weight = last.levels[0].feature_net.body1[0].rdb1.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert weight.grad.stride() == weight.stride()


def test_layout_follows_the_network():
    net = copy.deepcopy(small_net(channels_last=True)).double()
    weight = net.levels[0].feature_net.conv_first.weight
    assert not weight.is_contiguous()
    assert all(tensor.is_contiguous() for tensor in net.state_dict().values())
    net.lay_out(False)
    assert weight.is_contiguous()


@pytest.mark.parametrize(('capability', 'channels_last'), [('AVX512', True), ('AVX2', True), ('DEFAULT', False)])
def test_layout_by_what_a_cpu_can(capability, channels_last, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    assert small_net().levels[0].feature_net.conv_body.weight.is_contiguous() != channels_last


def test_frozen_parameters_of_a_dense_block():
    block = DenseBlock(3, 4, 2).double()
    for i, parameter in enumerate(block.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
        parameter.requires_grad_(i in (2, 5))
    x = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    wanted = plain(block)
    block(x).square().sum().backward()
    wanted(x).square().sum().backward()
    for got, other in zip(block.parameters(), wanted.parameters(), strict=True):
        assert (got.grad is None) == (other.grad is None)
        assert got.grad is None or torch.allclose(got.grad, other.grad)


def test_bad_layout():
    with pytest.raises(InputError, match="network_g.channels_last is 'yes'"):
        small_net(channels_last='yes')


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('memory', ['default', 'low'])
def test_gradients_have_the_strides_of_weights(memory):
    net = perturb(small_net(memory=memory, channels_last=True), 0.1)
    net(random_image(2, 3, 8, 8), gt=random_image(2, 3, 32, 32)).nll.sum().backward()
    # DistributedDataParallel copies others, and warns
    assert all(parameter.grad.stride() == parameter.stride() for parameter in net.parameters())
