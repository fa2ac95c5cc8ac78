"""Threads sleep while they wait only beside other programs, and only where the user has set nothing."""
import os
import sys

import pytest

from hcflow_model.utils import threads

pytestmark = pytest.mark.skipif(not hasattr(os, 'sched_getaffinity'), reason='Linux says which cores are busy')


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in threads.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, 'torch')
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: {0, 1})


def policy(monkeypatch, busy, load):
    monkeypatch.setattr(threads, 'busy_cores', lambda: busy)
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, load, load))
    threads.wait_asleep_beside_others()
    return os.environ.get('OMP_WAIT_POLICY')


@pytest.mark.parametrize(('busy', 'load', 'wanted'), [(0., 0., None), (0.1, 3., None), (1., 0.1, None),
                                                      (1., 1., 'passive'), (2., 9., 'passive')])
def test_policy(busy, load, wanted, monkeypatch):
    monkeypatch.setenv('OMP_WAIT_POLICY', '')  # so that it is taken away again
    monkeypatch.delenv('OMP_WAIT_POLICY')
    assert policy(monkeypatch, busy, load) == wanted


@pytest.mark.parametrize('name', threads.SETTINGS)
def test_what_the_user_has_set_stays(name, monkeypatch):
    monkeypatch.setenv(name, '2')
    before = dict(os.environ)
    policy(monkeypatch, 2., 9.)
    assert dict(os.environ) == before


def test_nothing_is_set_once_torch_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', object())
    assert policy(monkeypatch, 2., 9.) is None


def test_cores_that_are_busy(monkeypatch):
    ticks = iter([(100, 200), (105, 220)])
    monkeypatch.setattr(threads, '_idle_and_all', lambda: next(ticks))
    assert threads.busy_cores() == pytest.approx(1.5)
    for answer in (None, (0, 0)):
        monkeypatch.setattr(threads, '_idle_and_all', lambda answer=answer: answer)
        assert threads.busy_cores() == 0.


@pytest.mark.skipif(not os.path.exists('/proc/stat'), reason='there is no /proc/stat')
def test_the_system_says_so():
    idle, everything = threads._idle_and_all()
    assert 0 <= idle <= everything
