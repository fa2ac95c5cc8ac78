"""Dense blocks in one buffer against plain autograd."""
import copy

import pytest
import torch
from helpers import perturb
from plain import plain

from hcflow_arch.convs.buffered_blocks import BufferedBlocks, buffers_pay
from hcflow_arch.features.rrdb import RRDB, RRDBChain
from hcflow_arch.flow.subnets import DenseBlock


def gradients(module, x):
    x = x.clone().requires_grad_()
    out = module(x)
    out.square().sum().backward()
    grads = [parameter.grad for parameter in module.parameters()]
    return [out, x.grad, *(grad for grad in grads if grad is not None)], [grad is None for grad in grads]


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize(('make', 'frozen'), [(RRDB, ()), (RRDB, (3, 10, 58)), (DenseBlock, ()), (DenseBlock, (0, 9))])
def test_equals_plain_autograd(make, frozen, recompute):
    modules = [make(3, 2, 2, recompute)] if make is DenseBlock else [make(3, 2, recompute) for _ in range(2)]
    module = perturb(modules[0] if make is DenseBlock else RRDBChain(*modules), 0.3).double()
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index not in frozen)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert buffers_pay(x, next(module.parameters()))
    given = x.clone()
    got, wanted = gradients(module, x), gradients(plain(module), x)
    assert got[1] == wanted[1] and torch.equal(x, given)
    for a, b in zip(got[0], wanted[0], strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        assert torch.allclose(module(x), wanted[0][0], atol=1e-10) and torch.equal(x, given)


@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('frozen', [(), ('x',), ('weight', 'bias')])
def test_gradients(recompute, frozen):
    block = perturb(DenseBlock(2, 2, 2), 0.3).double()
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad='x' not in frozen)
    parameters = [p.detach().requires_grad_(('weight' if p.dim() == 4 else 'bias') not in frozen)
                  for p in block.parameters()]
    assert torch.autograd.gradcheck(lambda x, *p: BufferedBlocks.apply(x, 0, recompute, *p), (x, *parameters))


@pytest.mark.slow
def test_compilers_and_tracers_get_the_plain_form():
    block = perturb(RRDBChain(RRDB(2, 2)), 0.3)
    x = torch.randn(1, 2, 4, 5)
    with torch.no_grad():
        compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend='eager')
        assert torch.allclose(compiled(x), block(x), atol=1e-5)
        assert torch.allclose(torch.jit.trace(block, x)(x + 1), block(x + 1), atol=1e-5)
