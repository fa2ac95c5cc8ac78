"""Training states that do not fit, and options that were changed before training goes on."""
import copy

import pytest
import torch
from basicsr.models.sr_model import SRModel
from helpers import NLL_OPT, SMALL, cpu_options, equal, train, training_model, weights_of

from hcflow_arch import InputError
from hcflow_model import HCFlowModel
from hcflow_model.checkpoints import training_state
from hcflow_model.pipeline import resume_state


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with the states and networks of iterations 1 and 2, and the options that made them."""
    root = tmp_path_factory.mktemp('trained')
    model = training_model(root, NLL_OPT)
    for current_iter in (1, 2):
        train(model, current_iter, first=current_iter)
        model.save(0, current_iter)
    return root


def load(root, number=2):
    return torch.load(root / 'training_states' / f'{number}.state', weights_only=True)


def change(state, path, value):
    *blocks, key = path
    for name in blocks:
        state = state[name]
    if value is KeyError:
        del state[key]
    else:
        state[key] = value(state[key]) if callable(value) else value


def poisoned(value):
    def poison(moment):
        moment = moment.clone()
        moment.view(-1)[-1] = value
        return moment
    return poison


ADAM, SCHEDULE, RANDOM = ('optimizers', 0), ('schedulers', 0), ('random_states', 0)
DAMAGES = {
    'no optimizer': (('optimizers',), []), 'no scheduler': (('schedulers',), []),
    'optimizer is none': (ADAM, 3), 'no groups': ((*ADAM, 'param_groups'), KeyError),
    'groups are text': ((*ADAM, 'param_groups'), 'x'), 'more groups': ((*ADAM, 'param_groups'), lambda x: x * 2),
    'fewer parameters': ((*ADAM, 'param_groups', 0, 'params'), lambda x: x[:-1]),
    'parameters twice': ((*ADAM, 'param_groups', 0, 'params'), lambda x: [x[0]] * len(x)),
    'parameters are lists': ((*ADAM, 'param_groups', 0, 'params'), lambda x: [[y] for y in x]),
    'lr is text': ((*ADAM, 'param_groups', 0, 'lr'), 'x'),
    'lr is nan': ((*ADAM, 'param_groups', 0, 'lr'), float('nan')),
    'no initial lr': ((*ADAM, 'param_groups', 0, 'initial_lr'), KeyError),
    'no moments': ((*ADAM, 'state'), KeyError), 'moments of others': ((*ADAM, 'state', 10 ** 6), {}),
    'moments are none': ((*ADAM, 'state', 0), None), 'no exp_avg': ((*ADAM, 'state', 0, 'exp_avg'), KeyError),
    'another shape': ((*ADAM, 'state', 1, 'exp_avg'), torch.zeros(1, 7)),
    'one number': ((*ADAM, 'state', 1, 'exp_avg_sq'), torch.zeros(())),
    'whole numbers': ((*ADAM, 'state', 1, 'exp_avg'), lambda x: x.int()),
    'nan': ((*ADAM, 'state', 0, 'exp_avg'), poisoned(float('nan'))),
    'inf': ((*ADAM, 'state', 2, 'exp_avg_sq'), poisoned(float('inf'))),
    'negative': ((*ADAM, 'state', 2, 'exp_avg_sq'), poisoned(-1.)),
    'step is text': ((*ADAM, 'state', 0, 'step'), 'x'),
    'step is nan': ((*ADAM, 'state', 0, 'step'), poisoned(float('nan'))),
    'scheduler is none': (SCHEDULE, 'x'), 'no epoch': ((*SCHEDULE, 'last_epoch'), KeyError),
    'epoch is text': ((*SCHEDULE, 'last_epoch'), 'x'), 'negative epoch': ((*SCHEDULE, 'last_epoch'), -5),
    'random states are text': (('random_states',), 'x'), 'no torch': ((*RANDOM, 'torch'), KeyError),
    'short torch': ((*RANDOM, 'torch'), lambda x: x[:10]), 'python': ((*RANDOM, 'python'), (3, (1, 2), None)),
    'numpy': ((*RANDOM, 'numpy'), lambda x: (x[0], x[1][:5], *x[2:])),
    'numpy beyond': ((*RANDOM, 'numpy'), lambda x: (*x[:2], 10 ** 9, *x[3:])),
    'random states are a tensor': (('random_states',), torch.ones(2)), 'warm-up': (('warmup_iter',), torch.ones(2)),
    'taken': (('taken',), -1), 'taken is text': (('taken',), 'x'),
    'best values': (('best_metric_results',), {'set': {'psnr': 3}}),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damaged_states_are_one_error_and_change_nothing(name, trained, tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    before = training_state.random_states()
    state = load(trained)
    state['taken'] = 0
    change(state, *DAMAGES[name])
    with pytest.raises(InputError, match='training state of iteration 2') as caught:
        model.resume_training(state)
    assert '\n' not in str(caught.value) and 'path.pretrain_network_g' in str(caught.value)
    assert not model.optimizer_g.state and model.schedulers[0].last_epoch == 0
    after = training_state.random_states()
    assert torch.equal(before['torch'], after['torch']) and before['python'] == after['python']


def resume(root, tmp_path, auto_resume=True, **changes):
    """Build a model as BasicSR's pipeline does. Returns (model, state, options)."""
    opt = cpu_options(root, SMALL, copy.deepcopy(NLL_OPT), **changes)
    opt.update(auto_resume=auto_resume, model_type='HCFlowModel')
    opt['path']['resume_state'] = None if auto_resume else str(root / 'training_states' / '2.state')
    state = resume_state.load_resume_state(opt)
    return resume_state.build_model(opt), state, opt


@pytest.mark.parametrize('name', ['another shape', 'nan', 'fewer parameters', 'no epoch', 'short torch', 'iteration',
                                  'weights'])
def test_auto_resume_takes_an_older_state_that_fits(name, trained, tmp_path, capsys):
    for number in (1, 2):
        for folder, file in (('training_states', f'{number}.state'), ('models', f'net_g_{number}.pth')):
            content = torch.load(trained / folder / file, weights_only=True)
            if number == 2 and name == 'iteration' and folder == 'training_states':
                content['iter'] = 7
            elif number == 2 and name == 'weights' and folder == 'models':
                content['params'] = {key: value * float('nan') for key, value in content['params'].items()}
            elif number == 2 and name in DAMAGES and folder == 'training_states':
                change(content, *DAMAGES[name])
            (tmp_path / folder).mkdir(exist_ok=True)
            torch.save(content, tmp_path / folder / file)
    model, state, opt = resume(tmp_path, tmp_path)
    assert state['iter'] == 1 and opt['path']['resume_state'].endswith('1.state')
    model.resume_training(state)
    assert equal(weights_of(model.net_g), torch.load(trained / 'models' / 'net_g_1.pth', weights_only=True)['params'])
    assert model.schedulers[0].last_epoch == 0 and model.optimizer_g.state
    assert capsys.readouterr().err.count('basicsr: warning: 1 newer training state(s) cannot be used') == 1
    assert {file.name for file in (tmp_path / 'training_states').iterdir()} == {'1.state', '2.state.unusable'}


def test_state_that_is_asked_for_by_name_has_no_substitute(trained, tmp_path):
    state = load(trained)
    change(state, *DAMAGES['nan'])
    for folder in ('training_states', 'models'):
        (tmp_path / folder).mkdir()
    torch.save(state, tmp_path / 'training_states' / '2.state')
    for number in (1, 2):
        weights = torch.load(trained / 'models' / f'net_g_{number}.pth', weights_only=True)
        torch.save(weights, tmp_path / 'models' / f'net_g_{number}.pth')
    with pytest.raises(InputError, match='exp_avg of parameter 0 of an optimizer holds values .*NaN'):
        resume(tmp_path, tmp_path, auto_resume=False)
    with pytest.raises(InputError, match='none of the 1 training states'):
        resume(tmp_path, tmp_path)


# ---- weights that are not finite ----

def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path):
    model = training_model(tmp_path, NLL_OPT, max_nonfinite=2)
    train(model, 1)
    model.save(0, 1)
    for moments in model.optimizer_g.state.values():
        moments['exp_avg'].fill_(float('nan'))
    with pytest.raises(InputError, match='Checkpoint of iteration .*not saved, has weights that are NaN') as caught:
        train(model, 9, first=2)
    assert '\n' not in str(caught.value)
    assert [path.name for path in (tmp_path / 'models').iterdir()] == ['net_g_1.pth']
    path = tmp_path / 'nan.pth'
    torch.save(model.net_g.state_dict(), path)
    with pytest.raises(InputError, match=r'nan\.pth has weights that are NaN or infinite in \d+ tensors \(levels'):
        model.load_network(model.net_g, str(path))


# ---- changed options ----

STEPS = {'type': 'MultiStepLR', 'milestones': [3, 5], 'gamma': 0.5}
RESTARTS = {'type': 'MultiStepRestartLR', 'milestones': [3, 8], 'gamma': 0.5, 'restarts': [0, 5],
            'restart_weights': [1, 0.25]}
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [6], 'restart_weights': [1], 'eta_min': 1e-7}


def scheduled(tmp_path, scheduler, warmup_iter=-1, model_class=HCFlowModel, lr=1e-3, **optim):
    losses = NLL_OPT if model_class is HCFlowModel else {'pixel_opt': {'type': 'L1Loss', 'reduction': 'mean'}}
    opt = cpu_options(tmp_path, SMALL, copy.deepcopy(losses), lr=lr, warmup_iter=warmup_iter)
    opt['train']['scheduler'] = copy.deepcopy(scheduler)
    opt['train']['optim_g'].update(optim)
    for folder in ('models', 'training_states'):
        (tmp_path / folder).mkdir(exist_ok=True)
    return model_class(opt)


def rates(model, last, first=1):
    """Learning rates of iterations `first` to `last`, without training."""
    seen = []
    for current_iter in range(first, last + 1):
        model.update_learning_rate(current_iter, model.opt['train'].get('warmup_iter', -1))
        seen += model.get_current_learning_rate()
        model.optimizer_g.step()
    return seen


def resumed_rates(before, after, at, last=11):
    """Rates of a training that is resumed with other options, and of one that had them from the start."""
    model = before()
    rates(model, at)
    state = {'epoch': 0, 'iter': at, 'optimizers': [copy.deepcopy(model.optimizer_g.state_dict())],
             'schedulers': [copy.deepcopy(model.schedulers[0].state_dict())],
             'warmup_iter': model.opt['train']['warmup_iter']}
    resumed = after()
    training_state.restore(resumed, state)
    return rates(resumed, last, first=at + 1), rates(after(), last)[at:]


CHANGES = {
    'longer cosine': (COSINE, {'periods': [12]}), 'cosine floor': (COSINE, {'periods': [12], 'eta_min': 1e-5}),
    'one more cosine': (COSINE, {'periods': [6, 6], 'restart_weights': [1, 0.5]}),
    'milestones': (STEPS, {'milestones': [7]}), 'milestone in the past': (STEPS, {'milestones': [2, 3, 9]}),
    'gamma': (STEPS, {'gamma': 0.1}), 'restarts': (RESTARTS, {'restarts': [0, 4], 'restart_weights': [1, 0.5]}),
    'more milestones': (RESTARTS, {'milestones': [2, 5, 6, 10]}), 'another type': (STEPS, COSINE | {'periods': [12]}),
    'and back': (COSINE, STEPS),
}


@pytest.mark.parametrize('warmup_iter', [-1, 4])
@pytest.mark.parametrize('at', [3, 6])
@pytest.mark.parametrize('name', CHANGES)
def test_changed_schedules_take_effect(name, at, warmup_iter, tmp_path, warnings):
    before, changes = CHANGES[name]
    after = changes if 'type' in changes else {**before, **changes}
    got, wanted = resumed_rates(lambda: scheduled(tmp_path, before, warmup_iter),
                                lambda: scheduled(tmp_path, after, warmup_iter), at)
    assert got == pytest.approx(wanted, rel=1e-12)
    warning, = warnings
    key = 'type' if 'type' in changes else next(iter(changes))
    assert f'train.scheduler.{key} ' in warning and 'training state of iteration' in warning and '\n' not in warning


@pytest.mark.parametrize('before', [STEPS, RESTARTS, COSINE | {'periods': [12]}], ids=lambda x: x['type'])
@pytest.mark.parametrize(('change', 'words'), [
    ({'lr': 5e-4}, 'train.optim_g.lr 0.001 -> 0.0005'), ({'warmup_iter': 9}, 'train.warmup_iter 4 -> 9'),
    ({'warmup_iter': -1}, 'train.warmup_iter 4 -> -1')])
def test_changed_rates_take_effect(change, words, before, tmp_path, warnings):
    got, wanted = resumed_rates(lambda: scheduled(tmp_path, before, 4),
                                lambda: scheduled(tmp_path, before, **{'warmup_iter': 4, **change}), 3)
    assert got == pytest.approx(wanted, rel=1e-12) and words in warnings[0]


@pytest.mark.parametrize('warmup_iter', [-1, 4])
@pytest.mark.parametrize('before', [STEPS, RESTARTS, COSINE | {'periods': [12]}], ids=lambda x: x['type'])
def test_options_that_stay_change_nothing(before, warmup_iter, tmp_path, warnings):
    got, wanted = resumed_rates(*[lambda: scheduled(tmp_path, before, warmup_iter)] * 2, 3)
    assert got == wanted and not warnings  # to the last bit


def test_other_settings_of_adam_take_effect(tmp_path, warnings):
    model = scheduled(tmp_path, STEPS)
    train(model, 2)
    model.save(0, 2)
    changed = scheduled(tmp_path, STEPS, betas=[0.5, 0.9], weight_decay=0.1, amsgrad=True)
    changed.resume_training(load(tmp_path))
    group, = changed.optimizer_g.param_groups
    assert (group['betas'], group['weight_decay'], group['amsgrad']) == ((0.5, 0.9), 0.1, True)
    assert 'optim_g.betas [0.9, 0.99] -> [0.5, 0.9]; train.optim_g.weight_decay 0 -> 0.1; ' in warnings[0]
    train(changed, 3, first=3)  # with the moments that it has
    assert all(moments['max_exp_avg_sq'].isfinite().all() for moments in changed.optimizer_g.state.values())


def test_models_of_basicsr(tmp_path):
    """Whose own way ends with a TypeError in the schedule."""
    longer = {**COSINE, 'periods': [12]}
    got, wanted = resumed_rates(lambda: scheduled(tmp_path, COSINE, model_class=SRModel),
                                lambda: scheduled(tmp_path, longer, model_class=SRModel), 6)
    assert got == pytest.approx(wanted, rel=1e-12)
