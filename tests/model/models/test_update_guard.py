"""Updates that are not finite: left out to the last bit, counted, named, and an end of training."""
import math

import pytest
import torch
from helpers import L1, NET_D, NLL_OPT, adam_states, equal, gan_opts, train, training_batch, training_model, weights_of

from hcflow_arch import InputError
from hcflow_model.models import flow_model
from hcflow_model.models.update_guard import UpdateGuard


def same_states(optimizer, states):
    return all(map(equal, adam_states(optimizer), states)) and len(optimizer.state) == len(states)


def spoil(criterion, value=math.nan, times=1):
    """Make a loss not finite in its next calls."""
    left = [times]

    def hook(module, inputs, output):
        left[0] -= 1
        return output * value if left[0] >= 0 else None
    return criterion.register_forward_hook(hook)


# ---- the guard alone ----

@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e30])
def test_update_is_left_out_to_the_last_bit(bad, fused):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, fused=fused)
    guard = UpdateGuard(torch.device('cpu'), False)

    def update(factor):
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 3)).square().sum()
        loss.backward()
        layer.bias.grad[1] *= factor
        skip = guard.check(list(layer.parameters()), {'l': loss})
        guard.step(optimizer, skip)
        return skip.item()

    assert update(1) == 0 and guard.end_iteration(1, False).total == 0
    weights, states = weights_of(layer), adam_states(optimizer)
    assert update(bad) == 1
    status = guard.end_iteration(2, False)
    assert (status.iter, status.total, status.in_a_row, status.stop) == (2, 1, 1, False)
    assert equal(weights_of(layer), weights) and same_states(optimizer, states)
    assert update(1) == 0 and not equal(weights_of(layer), weights)
    status = guard.end_iteration(3, True)
    assert (status.total, status.in_a_row, status.stop) == (1, 0, True)


def test_loss_that_is_not_finite_with_finite_gradients():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    guard = UpdateGuard(torch.device('cpu'), False)
    assert guard.check([weight], {'a': torch.tensor(1.), 'b': torch.tensor(math.inf)}) == 1
    assert guard.check([weight], {'a': torch.tensor(1.), 'b': torch.tensor(2.)}) == 0


# ---- in training ----

@pytest.mark.slow
def test_nothing_changes_where_all_is_finite(tmp_path, monkeypatch):
    losses = {**NLL_OPT, 'pixel_opt': L1, **gan_opts()}
    guarded = training_model(tmp_path, losses, NET_D, ema_decay=0.9)
    logs = train(guarded, 3)
    monkeypatch.setattr(UpdateGuard, 'step', lambda self, optimizer, skip: optimizer.step())
    plain = training_model(tmp_path, losses, NET_D, ema_decay=0.9)
    assert train(plain, 3) == logs and 'l_nonfinite' not in logs[-1]
    for name in ('net_g', 'net_g_ema', 'net_d'):
        assert equal(weights_of(getattr(guarded, name)), weights_of(getattr(plain, name)))


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_generator_update_is_left_out_counted_and_named(value, tmp_path, warnings):
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.9)
    train(model, 2)
    weights, states = weights_of(model.net_g), adam_states(model.optimizer_g)
    spoil(model.cri_nll, value)
    log, = train(model, 3, first=3)
    assert equal(weights_of(model.net_g), weights) and same_states(model.optimizer_g, states)
    assert log['l_nonfinite'] == 1 and not math.isfinite(log['l_g_nll'])
    warning, = warnings
    assert warning.startswith('Iteration 3: ') and 'update by l_g_nll: loss l_g_nll and gradients of ' in warning
    assert 'parameters (levels.0.' in warning and warning.count('levels.') == 3 and '\n' not in warning
    log, = train(model, 4, first=4)
    assert log['l_nonfinite'] == 1 and math.isfinite(log['l_g_nll']) and not equal(weights_of(model.net_g), weights)
    assert all(value.isfinite().all() for value in weights_of(model.net_g_ema).values())


def test_discriminator_update_is_left_out(tmp_path):
    model = training_model(tmp_path, {'pixel_opt': L1, **gan_opts()}, NET_D)
    train(model, 1)
    d, states, g = weights_of(model.net_d), adam_states(model.optimizer_d), weights_of(model.net_g)
    model.adversary.criterion.register_forward_hook(
        lambda module, inputs, output: output * math.inf if model.net_d.training and inputs[0].requires_grad
        and next(model.net_d.parameters()).requires_grad else None)
    log, = train(model, 2, first=2)
    weights = dict(model.net_d.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in d.items() if name in weights)
    assert same_states(model.optimizer_d, states)
    assert log['l_nonfinite'] == 1 and not math.isfinite(log['l_d_real'])
    assert not equal(weights_of(model.net_g), g)


def test_first_batch_that_is_not_finite_starts_nothing(tmp_path, monkeypatch):
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.9)
    start = weights_of(model.net_g)
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'rand_like', lambda x: torch.full_like(x, math.nan))
        train(model, 1)
    assert equal(weights_of(model.net_g), start) and not model.net_g_ema.is_initialized()
    log, = train(model, 2, first=2)
    assert math.isfinite(log['l_g_nll']) and model.net_g_ema.is_initialized()
    assert all(value.isfinite().all() for value in weights_of(model.net_g_ema).values())


# ---- too many in a row ----

def stopped(tmp_path, losses, network_d=None, path=None, batch=None, bad='cri_nll', **options):
    """The message with which training ends, and the model."""
    model = training_model(tmp_path, losses, network_d, path=path, max_nonfinite=3, **options)
    train(model, 2)
    weights = weights_of(model.net_g)
    spoil(getattr(model, bad), times=100)
    with pytest.raises(InputError) as caught:
        for current_iter in range(3, 100):
            model.feed_data(batch or training_batch(seed=current_iter))
            model.optimize_parameters(current_iter)
    assert current_iter == 5
    assert '\n' not in str(caught.value)
    if len(losses) == 1:
        assert equal(weights_of(model.net_g), weights)
    return str(caught.value), weights


def test_training_ends_with_the_last_good_state_saved(tmp_path):
    message, weights = stopped(tmp_path, NLL_OPT)
    assert '3 iterations in a row (train.max_nonfinite), up to 5, were not finite: update by l_g_nll' in message
    assert 'Lower train.optim_g.lr (0.0001)' in message
    assert f'path.pretrain_network_g: {tmp_path}/models/net_g_5.pth' in message
    saved = torch.load(tmp_path / 'models' / 'net_g_5.pth', weights_only=True)['params']
    assert equal(saved, weights)
    assert torch.load(tmp_path / 'training_states' / '5.state', weights_only=True)['iter'] == 5


def test_advice_for_plus_from_scratch(tmp_path):
    losses = {**NLL_OPT, 'pixel_opt': L1}
    assert 'train with nll_opt alone first' in stopped(tmp_path, losses, bad='cri_pixel')[0]


def test_advice_for_images_of_one_colour(tmp_path):
    batch = training_batch()
    batch['gt'][1] = 0.5
    assert 'images of one colour' in stopped(tmp_path, NLL_OPT, batch=batch)[0]


def spoilt(key, value, paths=True):
    batch = training_batch()
    batch[key][1, 2, 3, 0] = value
    return {**batch, **({f'{key}_path': ['a/good.png', 'a/bad.png']} if paths else {})}


@pytest.mark.parametrize(('key', 'value', 'problem'), [
    ('gt', math.nan, 'NaN or infinite'), ('lq', math.inf, 'NaN or infinite'), ('gt', -math.inf, 'NaN or infinite'),
    ('lq', 200., r'values from \S+ to 200; .*Divide 8-bit values by 255')])
def test_images_of_a_batch_that_are_none_are_named(key, value, problem, tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    model.opt['datasets'] = {'train': {'name': 'faces'}}
    train(model, 1)
    model.feed_data(spoilt(key, value))
    with pytest.raises(InputError, match=rf'^Image a/bad\.png \({key}\) of dataset faces has .*{problem}') as caught:
        model.optimize_parameters(2)
    assert '\n' not in str(caught.value) and 'nan' not in str(caught.value) and model.last_iter == 1
    model.feed_data(spoilt(key, value, paths=False))
    with pytest.raises(InputError, match=rf'^Image 2 of a batch \({key}\) of dataset faces has'):
        model.optimize_parameters(2)


def test_advice_for_images_that_only_a_gpu_has_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_model, 'batch_problem', lambda *_: None)
    monkeypatch.setattr('hcflow_arch.hcflow_arch.check_image', lambda *_, **__: None)
    message, _ = stopped(tmp_path, NLL_OPT, batch=spoilt('gt', math.nan))
    assert 'Image a/bad.png (gt) of dataset None has values that are NaN' in message


def test_a_break_in_the_row_counts_anew(tmp_path):
    model = training_model(tmp_path, NLL_OPT, max_nonfinite=3)
    for first in (1, 4, 7):
        spoil(model.cri_nll, times=2)
        logs = train(model, first + 2, first=first)
    assert logs[-1]['l_nonfinite'] == 6
