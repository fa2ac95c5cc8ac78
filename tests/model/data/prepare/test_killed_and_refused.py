"""Preparations that the system ends, stops or refuses: one line, and nothing is lost."""
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from preparing import run

from hcflow_arch import InputError
from hcflow_model.data.prepare import images, preparation


@pytest.mark.parametrize('workers', [1, 2])
def test_no_space(workers, photos, tmp_path):
    """A limit on the size of files stands in for a full disk: the operating system refuses to write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match=r'Cannot write .*\.png: File too large. Free some space'):
            run(photos, tmp_path / 'out', workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run(photos, tmp_path / 'out').done == 6
    assert not list((tmp_path / 'out').rglob('.*'))


@pytest.mark.parametrize('name', ['unlink', 'mkdir', 'iterdir', 'replace', 'rmtree', 'listdir'])
def test_every_error_of_the_output_folder_is_one_of_the_input(name, photos, tmp_path, monkeypatch):
    """Whoever runs the tests may be allowed everything, so the system's refusal is made here."""
    out = tmp_path / 'out'
    run(photos, out, lmdb=True)
    (out / 'train_HR_sub' / 'p1_s001.png').write_bytes(b'x')

    def refuse(path, *args, **kwargs):
        if str(path).startswith(str(out)):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return function(path, *args, **kwargs)

    owner = {'replace': os, 'listdir': os, 'rmtree': shutil}.get(name, Path)
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, refuse)
    try:
        run(photos, out, lmdb=True)
    except InputError as error:
        assert 'Permission denied' in str(error)


def die(item, **arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_p3(item, **arguments):
    if item.name == 'p3':
        die(item)
    return images.prepare_image(item, **arguments)


def test_a_killed_process_costs_one_image(photos, tmp_path, monkeypatch):
    """As the system does where memory is short; the second run takes the image up again."""
    monkeypatch.setattr(preparation, 'prepare_image', die_at_p3)
    prepared = run(photos, tmp_path / 'out', workers=2)
    assert prepared.done == 5
    assert prepared.left_out == {f'{photos}/p3.png': 'needs more memory than there is, most likely: its process was '
                                                     'killed'}
    monkeypatch.undo()
    assert run(photos, tmp_path / 'out').done == 1


def test_every_process_is_killed(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, 'prepare_image', die)
    with pytest.raises(InputError, match='None of the images could be used: .*its process was killed'):
        run(photos, tmp_path / 'out', workers=2)


@pytest.mark.parametrize('error', [MemoryError(), cv2.error('x'), RuntimeError('DefaultCPUAllocator: no memory')])
def test_an_image_that_is_too_large_for_memory(error, photos, tmp_path, monkeypatch):
    """Wherever it is met; nothing stays of the image."""
    error.code = -4  # OpenCV's
    png, calls = images._png, []

    def too_large(image):
        calls.append(0)
        if len(calls) == 8 + 3:  # the second image has some files
            raise error
        return png(image)

    monkeypatch.setattr(images, '_png', too_large)
    prepared = run(photos, tmp_path / 'out')
    assert prepared.done == 5 and prepared.left_out == {f'{photos}/p1.png': 'needs more memory than there is'}


def test_bugs_are_no_missing_memory(photos, tmp_path, monkeypatch):
    def bug(image):
        raise RuntimeError('a bug')

    monkeypatch.setattr(images, '_png', bug)
    with pytest.raises(RuntimeError, match='a bug'):
        run(photos, tmp_path / 'out')


ENDLESS = """
import multiprocessing, os, sys, time
from pathlib import Path
from hcflow_model.data.prepare import preparation

class Item:
    name, stamp = 'a', list

def work(item):
    Path(sys.argv[2], str(os.getpid())).touch()
    time.sleep(86400)

if __name__ == '__main__':
    multiprocessing.set_start_method(sys.argv[1])
    list(preparation._run(work, [Item(), Item(), Item()], 2))
"""


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'method'), [
    (signal.SIGTERM, 'fork'), (signal.SIGHUP, 'fork'), *((signal.SIGKILL, method) for method in
                                                         multiprocessing.get_all_start_methods())])
def test_workers_end_with_their_parent(number, method, tmp_path):
    (tmp_path / 'endless.py').write_text(ENDLESS)
    (tmp_path / 'pids').mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / 'endless.py', method, tmp_path / 'pids'])
    try:
        wait_for(lambda: len(os.listdir(tmp_path / 'pids')) == 2)
    finally:
        parent.send_signal(number)
        parent.wait()
    pids = [int(name) for name in os.listdir(tmp_path / 'pids')]
    wait_for(lambda: not any(map(is_running, pids)))


def wait_for(condition):
    end = time.monotonic() + 900  # no measure of speed: a failure ends
    while not condition():
        if time.monotonic() > end:
            pytest.fail('it never comes true')
        time.sleep(0.05)


def is_running(pid):
    """Neither gone, nor a zombie that nobody has waited for."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
