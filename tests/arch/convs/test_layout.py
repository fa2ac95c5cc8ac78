"""Tools that take a network's parameters for flat vectors need channels first: docs/python.md says how."""
import pytest
import torch
from helpers import perturb, random_image, small_net
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@pytest.fixture
def net():
    return perturb(small_net(channels_last=True), 0.02)


def test_channels_last_is_refused_by_flat_vectors_as_in_pytorch(net):
    with pytest.raises(RuntimeError, match='view size is not compatible'):
        parameters_to_vector(net.parameters())


def test_parameters_as_one_vector(net):
    image = random_image(1, 3, 4, 4)
    with torch.no_grad():
        before = net.decode(image, temperature=0)
        net.lay_out(False)
        torch.testing.assert_close(net.decode(image, temperature=0), before)
        vector = parameters_to_vector(net.parameters())
        vector_to_parameters(vector * 1.01, net.parameters())
    assert torch.equal(parameters_to_vector(net.parameters()), vector * 1.01)
    assert not torch.equal(net.decode(image, temperature=0), before)


def test_lbfgs(net):
    net.lay_out(False)
    lq, gt = random_image(1, 3, 4, 4), random_image(1, 3, 16, 16)
    optimizer = torch.optim.LBFGS([p for p in net.parameters() if p.requires_grad], max_iter=3)
    losses = []

    def closure():
        optimizer.zero_grad()
        losses.append((net(lq, temperature=0) - gt).square().mean())
        losses[-1].backward()
        return losses[-1]

    optimizer.step(closure)
    assert losses[-1] < losses[0]


def test_state_dict_shares_memory_with_weights_that_are_channels_first(net):
    name = 'levels.0.feature_net.conv_body.weight'
    net.state_dict()[name].zero_()
    assert net.get_parameter(name).any()  # of weights that are channels last it holds copies
    net.lay_out(False)
    net.state_dict()[name].zero_()
    assert not net.get_parameter(name).any()
