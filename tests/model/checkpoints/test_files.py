import collections
import io
import os
import pickle
import random

import numpy as np
import pytest
import torch
from helpers import (
    GOLDEN_SIZE,
    L1,
    NET_D,
    NLL_OPT,
    SMALL,
    cpu_options,
    equal,
    gan_opts,
    golden_net,
    load_golden,
    small_net,
    train,
    training_model,
    weights_of,
)

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.weights.safe_load import load_file
from hcflow_model import HCFlowModel
from hcflow_model.checkpoints import files as checkpoints
from hcflow_model.pipeline.resume_state import load_resume_state

# ---- files ----

def test_atomic_save_writes_what_load_file_reads(tmp_path):
    content = {'params': {'a': torch.arange(3)}, 'iter': 5}
    checkpoints.atomic_save(content, tmp_path / 'a.pth')
    got = load_file(tmp_path / 'a.pth')
    assert torch.equal(got['params']['a'], content['params']['a']) and got['iter'] == 5
    assert os.listdir(tmp_path) == ['a.pth']


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), RuntimeError('unexpected pos 64 vs 0'),
                                   KeyboardInterrupt()], ids=repr)
def test_failed_save_leaves_the_older_file_whole(error, tmp_path, monkeypatch):
    checkpoints.atomic_save({'a': torch.ones(1)}, tmp_path / 'a.pth')

    def fail(content, file):
        file.write(b'half of a checkpoint')
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', fail)
        is_stopped = isinstance(error, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt if is_stopped else InputError,
                           match='' if is_stopped else rf'Cannot save .*a\.pth: .*{error.args[-1]}'):
            checkpoints.atomic_save({'a': torch.zeros(1)}, tmp_path / 'a.pth')
    assert os.listdir(tmp_path) == ['a.pth']
    assert load_file(tmp_path / 'a.pth')['a'].item() == 1


def test_save_into_a_folder_that_is_not_there(tmp_path):
    """Somebody may have moved it away in the middle of a training."""
    checkpoints.atomic_save({'a': torch.ones(1)}, tmp_path / 'none' / 'a.pth')
    assert load_file(tmp_path / 'none' / 'a.pth')['a'].item() == 1
    with pytest.raises(InputError, match='Cannot save'):
        checkpoints.atomic_save({}, tmp_path / 'none' / 'a.pth' / 'b.pth')


def test_load_file_without_a_file(tmp_path):
    with pytest.raises(InputError, match=r'none\.pth does not exist'):
        load_file(tmp_path / 'none.pth')
    with pytest.raises(InputError, match='cannot be read'):
        load_file(tmp_path)


def test_load_file_without_permission(tmp_path, monkeypatch):
    """Root may read everything."""
    def refuse(path):
        raise PermissionError(13, 'Permission denied', str(path))

    torch.save({}, tmp_path / 'a.pth')
    monkeypatch.setattr('zipfile.is_zipfile', refuse)
    with pytest.raises(InputError, match=r'a\.pth cannot be read: Permission denied'):
        load_file(tmp_path / 'a.pth')


def _broken_files():
    file = io.BytesIO()
    torch.save({'a': torch.ones(1000)}, file)
    return {'empty': b'', 'text': b'<html>404 not found</html>', 'zip': b'PK\x03\x04 and no more', 'null': bytes(100),
            'pickle': pickle.dumps({'a': 1}), 'half': file.getvalue()[:len(file.getvalue()) // 2]}


@pytest.mark.parametrize('name', _broken_files())
def test_load_file_of_something_else(name, tmp_path):
    (tmp_path / 'a.pth').write_bytes(_broken_files()[name])
    with pytest.raises(InputError, match=r'a\.pth') as caught:
        load_file(tmp_path / 'a.pth')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('content', [[1, 2], torch.ones(2), None, 'text'])
def test_load_file_of_no_dict(content, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(InputError, match=f'holds a {type(content).__name__}, not a state dict'):
        load_file(tmp_path / 'a.pth')


# ---- what is in them ----

A, B = {'x': torch.zeros(1)}, {'x': torch.ones(1)}


@pytest.mark.parametrize(('content', 'key', 'value', 'found'), [
    ({'params': A, 'params_ema': B}, 'params', 0, 'params'),
    ({'params': A, 'params_ema': B}, 'params_ema', 1, 'params_ema'),
    ({'params': A}, 'params_ema', 0, 'params'),  # as BasicSR does
    ({'params_ema': B}, 'params_ema', 1, 'params_ema'),
    ({'params': A, 'iter': 5}, 'params', 0, 'params'),
    (A, 'params', 0, None),
    (B, None, 1, None),
    ({'module.x': torch.ones(1)}, 'params', 1, None),
    ({'params': {'module.x': torch.ones(1)}}, 'params', 1, 'params'),
    (collections.OrderedDict(params=collections.OrderedDict(A)), 'params', 0, 'params'),
])
def test_select_state_dict(content, key, value, found):
    state_dict, found_key = checkpoints.select_state_dict(content, 'a.pth', key)
    assert list(state_dict) == ['x'] and state_dict['x'].item() == value
    assert found_key == found


@pytest.mark.parametrize(('content', 'message'), [
    ({'params_ema': A}, r"a\.pth has no 'params'; it has \['params_ema'\]. Set path.param_key_g"),
    ({}, 'not a state dict of tensors .*empty'),
    ({'params': {}}, 'not a state dict of tensors .*empty'),
    ({'iter': 5, 'x': torch.ones(1)}, r'not a state dict of tensors \(iter'),
    ({'params': {'x': 1.}}, r'not a state dict of tensors \(x'),
])
def test_select_state_dict_of_something_else(content, message):
    with pytest.raises(InputError, match=message):
        checkpoints.select_state_dict(content, 'a.pth', 'params')


def test_check_names_and_shapes():
    net = torch.nn.Linear(2, 3)
    weights = net.state_dict()
    assert checkpoints.check_names_and_shapes(net, weights, 'a.pth') is None
    for state_dict, message in (
            ({'weight': weights['weight']}, r'a\.pth does not fit Linear: 1 missing: bias'),
            ({**weights, 'more': weights['bias']}, '1 too many: more'),
            ({**weights, 'bias': torch.ones(4)}, r'1 of another shape: bias \(4,\), network \(3,\)'),
            ({'bias': weights['bias'], **{f'x{i}': weights['bias'] for i in range(5)}},
             '1 missing: weight; 5 too many: x0, x1, x2, …'),
            ({'bias': weights['bias']}, '1 missing.* to the checkpoint, or not'),
            ({'x': weights['bias']}, r'none of its names is one of this network \(x; needed are weight, bias\)')):
        with pytest.raises(InputError, match=message):
            checkpoints.check_names_and_shapes(net, state_dict, 'a.pth', ', or not')


def test_averages_of_basicsr_have_the_flags_of_what_was_trained():
    content = {'params': {'a.bias': torch.zeros(1), 'a.initialized': torch.tensor(True)},
               'params_ema': {'a.bias': torch.ones(1), 'a.initialized': torch.tensor(False)}}
    state_dict, _ = checkpoints.select_state_dict(content, 'a.pth', 'params_ema')
    assert state_dict == {'a.bias': torch.ones(1), 'a.initialized': torch.tensor(True)}


# ---- through the model ----

def make_model(tmp_path, network, **path):
    opt = cpu_options(tmp_path, network, NLL_OPT)
    opt['path'].update(path)
    return HCFlowModel(opt)


def test_released_checkpoint_is_loaded_by_name(tmp_path):
    released = load_golden('sr4')[1]
    torch.save({f'module.{name}': value for name, value in released.items()}, tmp_path / 'released.pth')
    model = make_model(tmp_path, GOLDEN_SIZE, pretrain_network_g=str(tmp_path / 'released.pth'), strict_load_g=True)
    net, case = golden_net('sr4')
    wanted, got = net.state_dict(), model.net_g.state_dict()
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[name].cpu(), got[name].cpu()) for name in wanted)
    assert model.net_g.is_initialized()
    model.feed_data({'gt': case['hr'], 'lq': case['lr']})
    model.net_g.train()
    with torch.no_grad():  # the first batch does not start actnorm again
        model.net_g(model.lq, gt=model.gt)
    assert all(torch.equal(wanted[name], value.cpu()) for name, value in model.net_g.state_dict().items())


def test_checkpoint_of_another_size(tmp_path):
    torch.save(small_net(num_feat=8).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(InputError, match=r'does not fit HCFlowNet: \d+ of another shape: levels\.0\.'):
        make_model(tmp_path, SMALL, pretrain_network_g=str(tmp_path / 'a.pth'))
    torch.save(small_net(num_flow_steps=3).state_dict(), tmp_path / 'a.pth')
    with pytest.raises(InputError, match=r'does not fit HCFlowNet: \d+ too many: levels\.0\.main\.3'):
        make_model(tmp_path, SMALL, pretrain_network_g=str(tmp_path / 'a.pth'))


def test_checkpoint_of_another_size_without_strict(tmp_path):
    saved = small_net(num_flow_steps=3)
    torch.save(saved.state_dict(), tmp_path / 'a.pth')
    model = make_model(tmp_path, SMALL, pretrain_network_g=str(tmp_path / 'a.pth'), strict_load_g=False)
    name = 'levels.0.main.1.conv1x1.weight'
    assert torch.equal(model.net_g.state_dict()[name].cpu(), saved.state_dict()[name])


def test_released_checkpoint_of_another_network(tmp_path):
    torch.save(load_golden('sr8')[1], tmp_path / 'released.pth')
    with pytest.raises(InputError, match=r'released\.pth does not fit HCFlowNet'):
        make_model(tmp_path, GOLDEN_SIZE, pretrain_network_g=str(tmp_path / 'released.pth'))


def test_own_checkpoints_keep_whether_actnorm_has_started(tmp_path):
    (tmp_path / 'models').mkdir()
    model = make_model(tmp_path, SMALL)
    for started in (False, True):
        if started:
            for norm in model.net_g.actnorms():
                norm.mark_initialized()
        model.save_network(model.net_g, 'net_g', 1)
        state_dict, key = checkpoints.read_network_weights(tmp_path / 'models' / 'net_g_1.pth', 'params')
        net = HCFlowNet(**SMALL)
        net.load_state_dict(state_dict, strict=True)
        assert key == 'params' and net.is_initialized() == started


# ---- saving and resuming ----

@pytest.mark.slow
def test_resumed_training_equals_training_without_a_break(tmp_path):
    losses = {**NLL_OPT, 'pixel_opt': L1, **gan_opts()}
    model = training_model(tmp_path, losses, NET_D, ema_decay=0.9)
    model.best_metric_results = {'set': {'psnr_t0': {'better': 'higher', 'val': 27.5, 'iter': 2},
                                         'nll': {'better': 'lower', 'val': float('inf'), 'iter': -1}}}
    train(model, 2)
    model.save(epoch=1, current_iter=2)
    saved = [weights_of(net) for net in (model.net_g, model.net_g_ema, model.net_d)]
    wanted = train(model, 4, first=3)  # draws noise: the random states count
    wanted_draws = (random.random(), np.random.rand(), torch.rand(()).item())

    opt = cpu_options(tmp_path, SMALL, losses, ema_decay=0.9)
    opt.update(network_d=dict(NET_D), auto_resume=True)
    opt['path']['resume_state'] = None
    state = load_resume_state(opt)
    torch.manual_seed(5)  # another process has another state
    resumed = HCFlowModel(opt)
    resumed.resume_training(state)
    assert (state['epoch'], state['iter']) == (1, 2)
    for net, weights in zip((resumed.net_g, resumed.net_g_ema, resumed.net_d), saved, strict=True):
        assert equal(weights_of(net), weights)
    assert resumed.best_metric_results == model.best_metric_results
    assert len(resumed.optimizers) == 2 and all(optimizer.state for optimizer in resumed.optimizers)
    assert train(resumed, 4, first=3) == wanted
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == wanted_draws
    for name in ('net_g', 'net_g_ema', 'net_d'):
        assert equal(weights_of(getattr(resumed, name)), weights_of(getattr(model, name)))


def test_files_of_a_save(tmp_path):
    model = training_model(tmp_path, {**NLL_OPT, **gan_opts()}, NET_D, ema_decay=0.9)
    train(model, 1)
    model.save(0, 1)
    model.save(-1, -1)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.*'))
    assert files == ['models/net_d_1.pth', 'models/net_d_latest.pth', 'models/net_g_1.pth', 'models/net_g_latest.pth',
                     'training_states/1.state']
    content = torch.load(tmp_path / 'models' / 'net_g_latest.pth', weights_only=True)
    assert list(content) == ['params', 'params_ema', 'network_g', 'iter']
    assert equal(content['params'], weights_of(model.net_g))
    assert equal(content['params_ema'], weights_of(model.net_g_ema))
    assert all(value.device.type == 'cpu' for value in content['params'].values())


def test_resume_of_a_state_without_random_states(tmp_path):
    """BasicSR's own states have none."""
    model = training_model(tmp_path, NLL_OPT)
    train(model, 1)
    model.save(0, 1)
    state = torch.load(tmp_path / 'training_states' / '1.state', weights_only=True)
    for key in ('random_states', 'best_metric_results'):
        del state[key]
    resumed = training_model(tmp_path, NLL_OPT)
    resumed.resume_training(state)
    assert resumed.best_metric_results == {} and resumed.optimizer_g.state


@pytest.mark.parametrize('layouts', [(True, False), (False, True)])
def test_resume_in_another_layout(layouts, tmp_path):
    """A fused Adam takes moments only where they are laid out as the weights are."""
    model = training_model(tmp_path, NLL_OPT)
    model.net_g.lay_out(layouts[0])
    train(model, 1)
    model.save(0, 1)
    resumed = training_model(tmp_path, NLL_OPT)
    resumed.net_g.lay_out(layouts[1])
    resumed.resume_training(torch.load(tmp_path / 'training_states' / '1.state', weights_only=True))
    for parameter, wanted in zip(resumed.net_g.parameters(), model.net_g.parameters(), strict=True):
        state, saved = resumed.optimizer_g.state[parameter], model.optimizer_g.state[wanted]
        assert state['exp_avg'].stride() == state['exp_avg_sq'].stride() == parameter.stride()
        assert torch.equal(state['exp_avg'], saved['exp_avg'])


# ---- random states ----

def test_random_states_round_trip_through_a_file(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()

    draw()  # leaves a cached Gaussian in `random` and NumPy
    checkpoints.atomic_save({'states': checkpoints.random_states()}, tmp_path / 'a.state')
    wanted = draw()
    for module in (random, np.random):
        module.seed(9)
    torch.manual_seed(9)
    assert draw() != wanted
    checkpoints.set_random_states(load_file(tmp_path / 'a.state')['states'])
    assert draw() == wanted
