"""Chains with folded weights against the layers one by one, and what is kept of the weights between calls."""
import copy
import pickle

import pytest
import torch
from helpers import perturb, random_image, small_net
from plain import plain
from torch.func import functional_call

from hcflow_arch.flow.couplings import AffineCoupling, ShiftCoupling
from hcflow_arch.flow.squeeze import SpaceToDepth
from hcflow_arch.flow.steps import FlowSequential, FlowStep
from hcflow_arch.flow.subnets import FCN

LQ = random_image(1, 3, 4, 6)


def chain_of(num_channels=5, num_context_ch=0, recompute=False, coupling=AffineCoupling, squeeze=False):
    half = num_channels // 2
    steps = [FlowStep(num_channels, coupling(FCN(half + num_context_ch, 2 * (num_channels - half), 4, not recompute),
                                             half), recompute=recompute) for _ in range(3)]
    return perturb(FlowSequential(*[SpaceToDepth()] * squeeze, *steps), 0.2).double()


def results(chain, x, context):
    """Outputs of both directions and gradients of everything, as a list."""
    leaves = [tensor.clone().requires_grad_() for tensor in (x, context) if tensor is not None]
    z, log_det = chain(*leaves)
    back = chain.inverse(torch.flip(z, (1,)).detach().requires_grad_(), *leaves[1:])
    parameters = list(chain.parameters())
    of_both = torch.autograd.grad(z.square().sum() + log_det.sum() + back.square().sum(), [*leaves, *parameters])
    of_image = torch.autograd.grad(chain(*leaves)[0].square().sum(), [*leaves, *parameters], allow_unused=True)
    of_log_det = torch.autograd.grad(chain(*leaves)[1].sum(), [*leaves, *parameters], allow_unused=True)
    return [z, log_det, back, *of_both, *(grad for grad in (*of_image, *of_log_det) if grad is not None)]


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize(('num_images', 'num_context_ch', 'squeeze'), [(1, 0, True), (2, 3, False)])
def test_equals_the_layers_one_by_one(num_images, num_context_ch, squeeze, recompute, channels_last):
    chain = chain_of(8 if squeeze else 5, num_context_ch, recompute, squeeze=squeeze)
    if channels_last:
        chain.to(memory_format=torch.channels_last)
    assert chain._folds(chain._steps())
    x = torch.randn(num_images, 2 if squeeze else 5, 4, 6, dtype=torch.float64)
    context = torch.randn(num_images, 3, 4, 6, dtype=torch.float64) if num_context_ch else None
    got, wanted = results(chain, x, context), results(plain(chain), x, context)
    for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10), number
    with torch.no_grad():
        given = x.clone()
        z, log_det = chain(x, context)
        assert torch.allclose(z, got[0]) and torch.allclose(log_det, got[1]) and torch.equal(x, given)
        given = z.clone()
        assert torch.allclose(chain.inverse(z, context), x) and torch.equal(z, given)


@pytest.mark.parametrize('coupling', [ShiftCoupling, type('Other', (AffineCoupling,), {
    'change': lambda self, x, h: (x + h[:, :x.shape[1]], x.new_zeros(len(x))),
    'change_back': lambda self, z, h: z - h[:, :z.shape[1]]})])
def test_other_couplings_run_as_they_are(coupling):
    chain = chain_of(6, coupling=AffineCoupling)
    for step in chain:
        step.coupling = coupling(step.coupling.subnet, 3)
        step.coupling.changes_first = False
        if coupling is ShiftCoupling:
            step.coupling.subnet = perturb(FCN(3, 3, 4), 0.2).double()
    assert not chain._folds(chain._steps())
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        z, log_det = chain(x)
        assert all(map(torch.allclose, (z, log_det), plain(chain)(x)))
        assert torch.allclose(chain.inverse(z), x)


def decoded(net, lq=LQ):
    with torch.no_grad():
        return net.decode(lq, temperature=0)


def test_folded_weights_are_never_stale():
    net = perturb(small_net(2), 0.05)
    chains = [net.levels[0].main, net.levels[0].prior]
    decoded(net)
    for parameter in [parameter for chain in chains for parameter in chain[1].parameters()]:
        before, kept = decoded(net), [chain._kept_inverses for chain in chains]
        assert torch.equal(decoded(net), before) and [chain._kept_inverses for chain in chains] == kept
        parameter.data.add_(0.1)  # as BasicSR's EMA changes weights: without a trace in their version counters
        got = decoded(net)
        assert not torch.equal(got, before) and torch.equal(got, decoded(copy.deepcopy(net)))


def test_modes_and_copies_do_not_mix_what_is_kept():
    net = perturb(small_net(2), 0.05)
    with torch.inference_mode():
        wanted = net.decode(LQ, temperature=0).clone()
    assert torch.equal(decoded(net), wanted)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.levels[0].main._kept_inverses is None and torch.equal(decoded(other), wanted)
    with torch.autocast('cpu', torch.bfloat16):
        rounded = decoded(net)
    assert not torch.equal(rounded, wanted) and torch.equal(decoded(net), wanted)
    weights = {name: 1.1 * parameter.detach() for name, parameter in net.named_parameters()}
    with torch.no_grad():
        scaled = functional_call(net, weights, (LQ,), {'temperature': 0.})
    assert torch.equal(decoded(net), wanted)
    net.load_state_dict(weights, strict=False)
    assert torch.equal(decoded(net), scaled)
    assert torch.allclose(net.decode(LQ, temperature=0), scaled, atol=1e-6)  # with gradients nothing is kept
    net.double()
    assert torch.allclose(decoded(net, LQ.double()).float(), scaled, atol=1e-4)


def test_traced_networks_take_other_numbers_of_images():
    net = perturb(small_net(2), 0.05).eval().requires_grad_(False)
    with torch.no_grad():
        traced = torch.jit.trace(lambda lq, *latents: net.decode(lq, latents, clamp=False), (LQ, *net.draw_latents(LQ)),
                                 check_trace=False)
        lq = random_image(2, 3, 4, 6, seed=1)
        latents = net.draw_latents(lq)
        assert torch.allclose(traced(lq, *latents), net.decode(lq, latents, clamp=False), atol=1e-5)
