import math
import os
import shutil

import pytest
import torch
import yaml
from helpers import NLL_OPT, equal, train, training_model, weights_of

from hcflow_arch import InputError
from hcflow_model.pipeline.resume_state import _leave_epochs, build_model, load_resume_state, saved_on_error
from hcflow_model.pipeline.sampler import EpochSampler

STATE = {'epoch': 1, 'iter': 5, 'optimizers': [], 'schedulers': []}


def resume(tmp_path, auto_resume=False, resume_state=None, **more):
    opt = {**more, 'auto_resume': auto_resume, 'network_g': {}, 'network_d': {},
           'path': {'training_states': str(tmp_path / 'states'), 'models': str(tmp_path / 'models'),
                    'resume_state': resume_state, 'param_key_g': 'params_ema'}}
    return load_resume_state(opt), opt['path']


def save_states(tmp_path, *iters):
    for folder in ('states', 'models'):
        (tmp_path / folder).mkdir(parents=True)
    for number in iters:
        torch.save({**STATE, 'iter': number}, tmp_path / 'states' / f'{number}.state')
        for net in 'gd':
            torch.save({'params': {'a': torch.ones(1)}}, tmp_path / 'models' / f'net_{net}_{number}.pth')


def test_named_state_is_loaded_without_a_gpu(tmp_path):
    save_states(tmp_path, 5)
    state, path = resume(tmp_path, resume_state=str(tmp_path / 'states' / '5.state'))
    assert state == STATE
    assert path['pretrain_network_g'] == str(tmp_path / 'models' / 'net_g_5.pth')
    assert path['pretrain_network_d'] == str(tmp_path / 'models' / 'net_d_5.pth')
    assert path['param_key_g'] == 'params'


def test_auto_resume_takes_the_newest_state(tmp_path):
    save_states(tmp_path, 5, 10, 9)  # 9 > 10 as text
    (tmp_path / 'states' / 'mine.state').write_bytes(b'')
    (tmp_path / 'states' / '11.state.part').write_bytes(b'')
    (tmp_path / 'states' / '.12.state.part345').write_bytes(b'')
    state, path = resume(tmp_path, auto_resume=True)
    assert state['iter'] == 10 and path['resume_state'].endswith('10.state')


def test_networks_that_are_never_saved(tmp_path):
    """A teacher, say; but one that other states have is missing."""
    save_states(tmp_path, 5, 10)
    (tmp_path / 'models' / 'net_d_10.pth').unlink()
    assert resume(tmp_path, auto_resume=True)[0]['iter'] == 5
    save_states(tmp_path / 'other', 5, 10)
    for number in (5, 10):
        (tmp_path / 'other' / 'models' / f'net_d_{number}.pth').unlink()
    assert resume(tmp_path / 'other', auto_resume=True)[0]['iter'] == 10


@pytest.mark.parametrize('auto_resume', [False, True])
def test_state_of_a_training_without_a_discriminator(auto_resume, tmp_path):
    save_states(tmp_path, 5)
    path = tmp_path / 'states' / '5.state'
    torch.save({**STATE, 'optimizers': [{}]}, path)
    assert resume(tmp_path, auto_resume, str(path))[0]['iter'] == 5
    with pytest.raises(InputError, match='5.state was saved by a training without a discriminator'):
        resume(tmp_path, auto_resume, str(path), train={'gan_opt': {}})


def test_nothing_to_resume(tmp_path):
    assert resume(tmp_path)[0] is None
    assert resume(tmp_path, auto_resume=True)[0] is None
    save_states(tmp_path)
    assert resume(tmp_path, auto_resume=True)[0] is None


@pytest.mark.parametrize(('content', 'message'), [
    ({'params': {}}, 'is not a training state of BasicSR: iter, epoch, optimizers, schedulers is missing'),
    ({**STATE, 'bad': yaml.Loader}, 'not a safe checkpoint'), ([1], 'holds a list')])
def test_files_that_are_no_state(content, message, tmp_path):
    torch.save(content, tmp_path / 'a.state')
    with pytest.raises(InputError, match=message):
        resume(tmp_path, resume_state=str(tmp_path / 'a.state'))


def test_state_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r'none\.state does not exist'):
        resume(tmp_path, resume_state=str(tmp_path / 'none.state'))


# ---- broken files ----

def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(('name', 'break_it'), [
    ('states/10.state', cut), ('models/net_g_10.pth', cut), ('models/net_d_10.pth', cut),
    ('states/10.state', lambda path: path.write_bytes(b'')), ('models/net_d_10.pth', lambda path: path.unlink()),
    ('states/10.state', lambda path: torch.save({'params': {}}, path))])
def test_newest_state_that_loads_with_its_networks(name, break_it, tmp_path, capsys):
    save_states(tmp_path, 5, 9, 10)
    break_it(tmp_path / name)
    state, path = resume(tmp_path, auto_resume=True)
    assert state['iter'] == 9 and path['resume_state'].endswith('9.state')
    assert path['pretrain_network_g'].endswith('net_g_9.pth')
    errors = capsys.readouterr().err
    assert errors.count('basicsr: warning: 1 newer training state(s) cannot be used') == 1 == errors.count('\n')
    assert (tmp_path / name).name in errors and '9.state' in errors
    assert {file.name for file in (tmp_path / 'states').iterdir()} == {'5.state', '9.state', '10.state.unusable'}
    assert resume(tmp_path, auto_resume=True)[0]['iter'] == 9 and not capsys.readouterr().err


def test_several_broken_states_are_one_warning(tmp_path, capsys):
    save_states(tmp_path, 5, 9, 10)
    for name in ('states/10.state', 'models/net_g_9.pth'):
        cut(tmp_path / name)
    assert resume(tmp_path, auto_resume=True)[0]['iter'] == 5
    assert capsys.readouterr().err.count('basicsr: warning: 2 newer') == 1


def test_networks_that_are_left_out_of_resuming_are_not_needed(tmp_path):
    save_states(tmp_path, 5)
    (tmp_path / 'models' / 'net_d_5.pth').unlink()
    opt = {'auto_resume': True, 'network_g': {}, 'network_d': {},
           'path': {'training_states': str(tmp_path / 'states'), 'models': str(tmp_path / 'models'),
                    'ignore_resume_networks': ['network_d']}}
    assert load_resume_state(opt)['iter'] == 5


def test_no_state_that_loads(tmp_path):
    save_states(tmp_path, 5, 9)
    for number in (5, 9):
        cut(tmp_path / 'states' / f'{number}.state')
    with pytest.raises(InputError, match=r'none of the 2 training states .*9\.state.*start anew') as caught:
        resume(tmp_path, auto_resume=True)
    assert '\n' not in str(caught.value)
    assert {file.name for file in (tmp_path / 'states').iterdir()} == {'5.state', '9.state'}


def test_processes_that_see_different_states(tmp_path, monkeypatch):
    save_states(tmp_path, 5)

    def gather(found, mine):
        found[:] = [mine, -1]

    monkeypatch.setattr('torch.distributed.all_gather_object', gather)
    opt = {'auto_resume': True, 'dist': True, 'rank': 0, 'world_size': 2, 'network_g': {},
           'path': {'training_states': str(tmp_path / 'states'), 'models': str(tmp_path / 'models')}}
    with pytest.raises(InputError, match=r'different iterations \(\[5, -1\].*folder that all machines share'):
        load_resume_state(opt)


@pytest.mark.parametrize(('images', 'epoch', 'iteration', 'wanted'), [
    (10, 3, 30, 3),  # as it was saved: 10 iterations in an epoch, 10 epochs
    (100, 9, 95, 1),  # a larger dataset: one epoch would do, and BasicSR would begin none
    (30, 9, 40, 3), (30, 4, 40, 4), (10, 50, 60, 7), (10, 50, 100, 50)])
def test_a_state_beyond_the_epochs_of_another_dataset(images, epoch, iteration, wanted):
    sampler = EpochSampler(list(range(images)), 1, 0)
    opt = {'datasets': {'train': {'batch_size_per_gpu': 1}}, 'train': {'total_iter': 100}, 'world_size': 1,
           'dist': False, 'num_gpu': 0}
    state = {'epoch': epoch, 'iter': iteration, 'taken': 5}
    _leave_epochs(opt, state, sampler)
    EpochSampler.newest = None
    assert state['epoch'] == wanted and ('taken' in state) == (wanted == epoch)
    last = math.ceil(100 / images)  # of BasicSR: range(epoch, last + 1)
    assert wanted == epoch or iteration + (last + 1 - wanted) * images >= 100


def test_a_folder_of_states_that_is_closed_is_an_error(tmp_path, monkeypatch):
    """Training would start over."""
    save_states(tmp_path, 5)

    def closed(path):
        raise PermissionError(13, 'Permission denied', str(path))

    for name in ('listdir', 'scandir'):
        monkeypatch.setattr(os, name, closed)
    with pytest.raises(PermissionError):
        resume(tmp_path, auto_resume=True)


@pytest.mark.parametrize('error', [InputError('Image a.png is broken.'), KeyError('slip'), OSError(5, 'I/O', 'a')])
def test_an_error_loses_no_iteration(error, tmp_path, monkeypatch):
    """What is saved is the last whole iteration, also where the folders are gone; a run goes on from it."""
    model = training_model(tmp_path, NLL_OPT)
    monkeypatch.setattr('basicsr.models.build_model', lambda opt: model)
    with pytest.raises(type(error)), saved_on_error():
        build_model(model.opt)
        train(model, 2)
        weights = weights_of(model.net_g)
        shutil.rmtree(tmp_path / 'models')
        shutil.rmtree(tmp_path / 'training_states')
        raise error
    assert os.listdir(tmp_path / 'training_states') == ['2.state']
    wanted = train(model, 3, first=3)
    resumed = training_model(tmp_path, NLL_OPT, path={'pretrain_network_g': str(tmp_path / 'models' / 'net_g_2.pth')})
    assert equal(weights, weights_of(resumed.net_g))
    resumed.resume_training(torch.load(tmp_path / 'training_states' / '2.state', weights_only=True))
    assert train(resumed, 3, first=3) == wanted


def test_an_error_within_an_iteration_saves_the_one_before(tmp_path, monkeypatch):
    model = training_model(tmp_path, NLL_OPT)
    monkeypatch.setattr('basicsr.models.build_model', lambda opt: model)
    with pytest.raises(ZeroDivisionError), saved_on_error():
        build_model(model.opt)
        train(model, 2)
        monkeypatch.setattr(model, 'generator_losses', lambda: 1 / 0)
        train(model, 3, first=3)
    assert os.listdir(tmp_path / 'training_states') == ['2.state']


def test_nothing_is_saved_where_nothing_is_new(tmp_path, monkeypatch):
    """Before the first iteration, after a save, by a process that is not the first, or what cannot be saved."""
    model = training_model(tmp_path, NLL_OPT)
    monkeypatch.setattr('basicsr.models.build_model', lambda opt: model)

    def fail():
        with pytest.raises(KeyError), saved_on_error():
            build_model(model.opt)
            raise KeyError
        return sorted(os.listdir(tmp_path / 'training_states'))

    assert fail() == []
    train(model, 1)
    model.opt['rank'] = 1
    assert fail() == []
    model.opt['rank'] = 0
    model.save(0, 1)
    os.rename(tmp_path / 'training_states' / '1.state', tmp_path / 'training_states' / 'old')
    assert fail() == ['old']
    train(model, 2, first=2)
    monkeypatch.setattr('hcflow_model.checkpoints.files.torch.save', _full_disk)
    assert fail() == ['old']


def _full_disk(*args):
    raise OSError(28, 'No space left on device')
