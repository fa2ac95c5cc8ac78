import math

import pytest
import torch
from basicsr.utils import get_root_logger
from helpers import NLL_OPT, small_net, train, training_model

from hcflow_arch.condition import MAX_CONDITION, largest_condition_number
from hcflow_arch.flow_layers import InvertibleConv1x1


def matrices_of(net):
    return [module.weight for module in net.modules() if isinstance(module, InvertibleConv1x1)]


def test_largest_of_all_matrices():
    net = small_net()
    assert largest_condition_number(net) == pytest.approx(1, abs=1e-5)  # they start orthogonal
    for weight, smallest in zip(matrices_of(net), (0.1, 1e-6, 0.01), strict=False):
        with torch.no_grad():
            weight[0] *= smallest
    assert len({len(weight) for weight in matrices_of(net)}) > 1
    one_by_one = max(torch.linalg.cond(weight.detach().double()).item() for weight in matrices_of(net))
    assert largest_condition_number(net) == pytest.approx(one_by_one) == pytest.approx(1e6, rel=1e-3)


@pytest.mark.parametrize('value', [0., math.nan, math.inf])
def test_matrix_without_an_inverse(value):
    net = small_net()
    with torch.no_grad():
        matrices_of(net)[-1][0] = value
    assert largest_condition_number(net) > 1e15


def test_no_matrices():
    assert largest_condition_number(torch.nn.Linear(2, 2)) == 1


def test_log_has_it_and_warns_once(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(get_root_logger(), 'warning', warnings.append)
    model = training_model(tmp_path, NLL_OPT)
    log, = train(model, 1)
    assert 1 <= log['condition_1x1'] < 2 and not warnings
    with torch.no_grad():
        matrices_of(model.net_g)[0][0] /= 10 * MAX_CONDITION
    for _ in range(2):
        assert model.get_current_log()['condition_1x1'] > MAX_CONDITION
    warning, = warnings
    assert warning.startswith('The condition number of a 1x1 matrix has reached 1') and 'train.optim_g.lr' in warning
