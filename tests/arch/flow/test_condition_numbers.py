"""Condition numbers of the 1x1 matrices."""
import math

import pytest
import torch
from helpers import NLL_OPT, small_net, train, training_model

from hcflow_arch.flow.condition_numbers import MAX_CONDITION, condition_numbers, largest_condition_number
from hcflow_arch.flow.layers import InvertibleConv1x1


def test_equals_torch_layer_by_layer():
    net = small_net()
    layers = {name: module for name, module in net.named_modules() if isinstance(module, InvertibleConv1x1)}
    with torch.no_grad():
        for layer in layers.values():
            layer.weight += 0.3 * torch.randn_like(layer.weight)
    numbers = condition_numbers(net)
    assert list(numbers) == list(layers) and len(layers) == 8
    for name, layer in layers.items():
        assert numbers[name] == pytest.approx(torch.linalg.cond(layer.weight.detach().double()).item(), rel=1e-10)
    assert largest_condition_number(net) == max(numbers.values())


@pytest.mark.parametrize('value', [0., math.nan, math.inf])
def test_one_bad_matrix_among_others(value):
    net = torch.nn.Sequential(*(InvertibleConv1x1(6) for _ in range(3)))
    with torch.no_grad():
        net[1].weight[2] = value
    numbers = condition_numbers(net)
    assert numbers['1'] > 1e12 and (value == 0 or numbers['1'] == math.inf)
    assert numbers['0'] == pytest.approx(1, abs=1e-5) and numbers['2'] == pytest.approx(1, abs=1e-5)
    assert largest_condition_number(net) == numbers['1']


def test_without_matrices():
    assert condition_numbers(torch.nn.Conv2d(3, 3, 1)) == {} and largest_condition_number(torch.nn.ReLU()) == 1


def test_log_has_it_and_warns_once(tmp_path, warnings):
    model = training_model(tmp_path, NLL_OPT)
    log, = train(model, 1)
    assert 1 <= log['condition_1x1'] < 2 and not warnings
    with torch.no_grad():
        first = next(module for module in model.net_g.modules() if isinstance(module, InvertibleConv1x1))
        first.weight[0] /= 10 * MAX_CONDITION
    for _ in range(2):
        assert model.get_current_log()['condition_1x1'] > MAX_CONDITION
    warning, = warnings
    assert warning.startswith('The condition number of a 1x1 matrix has reached 1') and 'train.optim_g.lr' in warning
