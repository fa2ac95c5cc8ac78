"""Parts of the flow that are frozen, or have learning rates of their own."""
import pytest
import torch
from helpers import L1, NLL_OPT, SMALL, cpu_options, equal, perturb, train, training_model, weights_of

from hcflow_arch import InputError
from hcflow_model import HCFlowModel


def moved(model, before):
    return {name for name, value in model.net_g.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize('network', [SMALL, {**SMALL, 'memory': 'low'}])
def test_frozen_parts_stay_and_the_others_move(network, tmp_path):
    model = training_model(tmp_path, {**NLL_OPT, 'pixel_opt': L1}, network=network, freeze=['feature_net', 'levels.1'],
                           ema_decay=0.9, accumulate=2)
    perturb(model.net_g, 0.02)
    model.net_g_ema.load_state_dict(model.net_g.state_dict())
    before = weights_of(model.net_g)
    train(model, 2)
    names = moved(model, before)
    assert names and not any('feature_net' in name or name.startswith('levels.1.') for name in names)
    assert names >= {name for name, weight in model.net_g.named_parameters() if weight.requires_grad}
    model.save(0, 2)
    other = training_model(tmp_path, {**NLL_OPT, 'pixel_opt': L1}, network=network, freeze=['feature_net', 'levels.1'],
                           path={'pretrain_network_g': str(tmp_path / 'models' / 'net_g_2.pth')})
    assert equal(weights_of(other.net_g), weights_of(model.net_g))


def test_parts_learn_at_rates_of_their_own(tmp_path):
    opt = cpu_options(tmp_path, SMALL, {'pixel_opt': L1}, lr=1e-3, warmup_iter=2)
    opt['train']['optim_g']['lr_mul'] = {'feature_net': 0.1, 'levels.0': 2}
    opt['train']['scheduler'].update(milestones=[3])
    model = HCFlowModel(opt)
    perturb(model.net_g, 0.02)
    before = weights_of(model.net_g)
    sizes = [len(group['params']) for group in model.optimizer_g.param_groups]
    assert len(sizes) == 3 and sum(sizes) == sum(p.requires_grad for p in model.net_g.parameters())
    rates = []
    for current_iter in range(1, 6):
        model.update_learning_rate(current_iter, warmup_iter=2)
        rates.append([group['lr'] for group in model.optimizer_g.param_groups])
        if current_iter == 2:
            train(model, 1)  # Adam's first step is the rate itself
    assert rates[1] == pytest.approx([1e-3, 1e-4, 2e-3]) and rates[0] == pytest.approx([5e-4, 5e-5, 1e-3])
    assert rates[4] == pytest.approx([5e-4, 5e-5, 1e-3])
    for name, value in model.net_g.named_parameters():
        step = (value.detach() - before[name]).abs().max().item()
        rate = 1e-4 if 'feature_net' in name else 2e-3 if name.startswith('levels.0') else 1e-3
        assert step == 0 or step == pytest.approx(rate, rel=0.02), name


def test_clipping_is_over_all_parts(tmp_path):
    opt = cpu_options(tmp_path, SMALL, NLL_OPT, grad_clip_norm=0.5)
    opt['train']['optim_g']['lr_mul'] = {'feature_net': 0.1}
    model = HCFlowModel(opt)
    perturb(model.net_g, 0.02)
    train(model, 1)
    grads = [p.grad for p in model.net_g.parameters() if p.grad is not None]
    assert torch.cat([grad.flatten() for grad in grads]).norm() == pytest.approx(0.5, rel=1e-3)
    assert any(grad.any() for grad in (p.grad for p in model.optimizer_g.param_groups[1]['params']) if grad is not None)


def test_a_resumed_training_has_the_rates_of_its_parts(tmp_path):
    def make():
        opt = cpu_options(tmp_path, SMALL, NLL_OPT)
        opt['train']['optim_g']['lr_mul'] = {'feature_net': 0.1}
        torch.manual_seed(1)
        for folder in ('models', 'training_states'):
            (tmp_path / folder).mkdir(exist_ok=True)
        return HCFlowModel(opt)
    first, second = make(), make()
    train(first, 1)
    first.save(0, 1)
    second.load_network(second.net_g, str(tmp_path / 'models' / 'net_g_1.pth'), True, 'params')
    second.resume_training(torch.load(tmp_path / 'training_states' / '1.state', weights_only=True))
    for model in (first, second):
        torch.manual_seed(2)
        train(model, 2, first=2)
    assert equal(weights_of(first.net_g), weights_of(second.net_g))
    with pytest.raises(InputError, match='an optimizer has'):
        plain = training_model(tmp_path, NLL_OPT)
        plain.resume_training(torch.load(tmp_path / 'training_states' / '1.state', weights_only=True))


@pytest.mark.parametrize(('train_opt', 'message'), [
    ({'freeze': ['feature_nets']}, "'train.freeze': .* no part 'feature_nets' .did you mean 'feature_net'"),
    ({'freeze': ['levels']}, 'is the whole network; nothing would be trained'),
    ({'freeze': ['feature_net'], 'lr_mul': {'levels.0.feature_net': 2}}, 'of which nothing is left to train'),
    ({'lr_mul': {'level': 2}}, "'train.optim_g.lr_mul': .* no part 'level'.*It has main, feature_net, prior")])
def test_parts_that_are_none(train_opt, message, tmp_path):
    opt = cpu_options(tmp_path, SMALL, NLL_OPT, freeze=train_opt.get('freeze'))
    if 'lr_mul' in train_opt:
        opt['train']['optim_g']['lr_mul'] = train_opt['lr_mul']
    with pytest.raises(InputError, match=message):
        HCFlowModel(opt)
