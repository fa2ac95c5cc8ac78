import os
import signal
import sys

import pytest
import torch
from helpers import NLL_OPT, loader, random_image, train, training_model

from hcflow_arch import InputError
from hcflow_model.pipeline import stopping
from hcflow_model.pipeline.resume_state import load_resume_state
from hcflow_model.pipeline.stopping import Interrupted, TrainingStopped, at_once, requested, signals_stop_training

IMAGES = [{'gt': random_image(3, 16, 16), 'lq': random_image(3, 4, 4, seed=1)}]


@pytest.mark.parametrize('signum', stopping.SIGNALS)
def test_first_signal_only_asks(signum):
    before = signal.getsignal(signum)
    with signals_stop_training():
        assert requested() is None
        os.kill(os.getpid(), signum)
        assert requested() == signum
        os.kill(os.getpid(), signum)  # the same one, passed on by a launcher
        assert requested() == signum
    assert requested() is None and signal.getsignal(signum) is before


@pytest.mark.parametrize(('signum', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_second_signal_ends_the_process_at_once(signum, code, monkeypatch):
    monkeypatch.setattr(stopping, 'SAME', -1)
    pid = os.fork()
    if pid == 0:
        with signals_stop_training():
            for _ in range(2):
                os.kill(os.getpid(), signum)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


@pytest.mark.parametrize('signum', [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_warnings_of_the_system_may_come_again(signum, monkeypatch):
    monkeypatch.setattr(stopping, 'SAME', -1)
    with signals_stop_training():
        for _ in range(3):
            os.kill(os.getpid(), signum)
        assert requested() == signum


@pytest.mark.parametrize('signum', stopping.SIGNALS)
def test_ignored_signals_stay_so(signum):
    """SIGHUP under nohup, SIGINT in the background of a script."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with signals_stop_training():
            os.kill(os.getpid(), signum)
            assert requested() is None
        assert signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, before)


def test_signal_ends_at_once_where_nothing_is_half_done():
    with signals_stop_training():
        with pytest.raises(Interrupted), at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), at_once():  # it came before
            sys.exit('not reached')


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_training_stops_after_the_iteration(signum, tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    with signals_stop_training():
        train(model, 2)
        os.kill(os.getpid(), signum)
        with pytest.raises(TrainingStopped, match=str(128 + signum)) as caught:
            train(model, 4, first=3)
    assert f'{signum.name}: training stopped after iteration 3, which is saved ({tmp_path}' in caught.value.message
    assert sorted(os.listdir(tmp_path / 'training_states')) == ['3.state']
    wanted = train(model, 4, first=4)
    resumed = training_model(tmp_path, NLL_OPT, path={'pretrain_network_g': str(tmp_path / 'models' / 'net_g_3.pth')})
    resumed.resume_training(torch.load(tmp_path / 'training_states' / '3.state', weights_only=True))
    assert train(resumed, 4, first=4) == wanted


def test_signal_in_validation(tmp_path, monkeypatch):
    model = training_model(tmp_path, NLL_OPT)
    train(model, 2)
    seen = []
    monkeypatch.setattr(model, 'net_for_testing', lambda: (seen.append(1), os.kill(os.getpid(), signal.SIGINT)))
    with signals_stop_training(), pytest.raises(TrainingStopped, match='130'):
        model.validation(loader(IMAGES * 3), 2, None, False)
    assert len(seen) == 1 and os.listdir(tmp_path / 'training_states') == ['2.state']
    assert model.net_g.training


def test_validation_leaves_the_random_generators_alone(tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    train(model, 1)
    before = torch.get_rng_state()
    model.validation(loader(IMAGES), 1, None, False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('failing', [2, 3])
def test_full_disk_leaves_the_older_checkpoint_to_go_on_from(failing, tmp_path, monkeypatch):
    model = training_model(tmp_path, NLL_OPT)
    train(model, 1)
    model.save(0, 1)
    train(model, 2, first=2)
    save, calls = torch.save, [1]

    def fail(content, file):
        calls.append(1)
        if len(calls) == failing:
            file.write(b'half')
            raise OSError(28, 'No space left on device')
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, 'save', fail)
        with pytest.raises(InputError, match='Cannot save .*No space left on device'):
            model.save(0, 2)
    opt = {**model.opt, 'auto_resume': True}
    assert load_resume_state(opt)['iter'] == 1
    assert opt['path']['pretrain_network_g'].endswith('net_g_1.pth')
