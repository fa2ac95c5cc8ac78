import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import demo_options

from hcflow_arch import InputError
from hcflow_model.checkpoints.files import atomic_save
from hcflow_model.pipeline import run_folders
from hcflow_model.pipeline.run_folders import RunFolders, check_not_in_archive, locked
from hcflow_model.utils.errors import input_error


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('opt.yml').write_text('name: a\n')
    return RunFolders(Path('opt.yml').read_text())


def files():
    return {str(path): path.read_text() for path in Path().rglob('*') if path.is_file()}


def start(folders):
    """What BasicSR does at the start of a run."""
    folders.archive('experiments/a')
    Path('experiments/a/models').mkdir()
    folders.copy_option_file('opt.yml', 'experiments/a')
    Path('experiments/a/new.log').write_text('new')


def test_archives_like_basicsr_and_twice_in_a_second(folders):
    for content in 'xyz':
        folders.archive('experiments/a/')
        Path('experiments/a/file').write_text(content)
    names = sorted(path.name for path in Path('experiments').iterdir())
    assert names[0] == 'a' and names[1].startswith('a_archived_20') and len(names) == 3
    assert sorted(files().values()) == ['name: a\n', 'x', 'y', 'z']


def test_puts_back_what_was_there(folders):
    Path('experiments/a').mkdir(parents=True)
    Path('experiments/a/net.pth').write_text('old')
    start(folders)
    folders.put_back()
    assert files() == {'opt.yml': 'name: a\n', 'experiments/a/net.pth': 'old', 'experiments/a/new.log': 'new'}


@pytest.mark.parametrize('made', ['models/net_g_5.pth', 'training_states/5.state', 'visualization/a.png',
                                  'metrics.csv'])
def test_keeps_what_the_run_has_made(made, folders):
    Path('experiments/a').mkdir(parents=True)
    Path('experiments/a/net.pth').write_text('old')
    start(folders)
    Path('experiments/a', made).parent.mkdir(exist_ok=True)
    Path('experiments/a', made).write_text('made')
    folders.put_back()
    archive, = (path for path in Path('experiments').iterdir() if 'archived' in path.name)
    assert Path(archive, 'net.pth').read_text() == 'old' and Path('experiments/a', made).read_text() == 'made'


def test_option_copy_of_a_run_that_goes_on(folders):
    Path('experiments/a').mkdir(parents=True)
    for name in ('opt.yml', 'net.pth'):
        Path('experiments/a', name).write_text('old')
    folders.copy_option_file('opt.yml', 'experiments/a')
    text = Path('experiments/a/opt.yml').read_text()
    assert text.startswith('# GENERATE TIME: ') and text.endswith('\n\nname: a\n')
    folders.put_back()
    assert Path('experiments/a/opt.yml').read_text() == 'old'
    folders.copy_option_file('opt.yml', 'experiments/a')
    Path('experiments/a/net.pth').write_text('newer')
    folders.put_back()
    assert Path('experiments/a/opt.yml').read_text().endswith('name: a\n')


def test_option_file_in_the_folder_that_is_archived(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('experiments/a').mkdir(parents=True)
    Path('experiments/a/opt.yml').write_text('name: a\n')
    folders = RunFolders(Path('experiments/a/opt.yml').read_text())
    folders.archive('experiments/a')
    folders.copy_option_file('experiments/a/opt.yml', 'experiments/a')
    assert Path('experiments/a/opt.yml').read_text().endswith('name: a\n')


@pytest.mark.parametrize('error', [InputError, KeyboardInterrupt, KeyError])
def test_every_exception_puts_back(error, folders):
    Path('experiments/a').mkdir(parents=True)
    with pytest.raises(error), folders.put_back_on_error():
        start(folders)
        raise error('x')
    assert [path.name for path in Path('experiments').iterdir()] == ['a']
    assert [path.name for path in Path('experiments/a').iterdir()] == ['new.log']


def test_folder_that_cannot_be_made(folders):
    Path('experiments').write_text('a file')
    with pytest.raises(InputError, match='experiments/a cannot be made: Not a directory'):
        folders.archive('experiments/a')


@pytest.mark.parametrize('key', ['path.pretrain_network_g', 'datasets.val.dataroot_gt'])
def test_what_would_be_moved_away(key, tmp_path):
    opt = demo_options({'is_train': True, 'path.experiments_root': str(tmp_path / 'a')})
    check_not_in_archive(opt)
    opt = demo_options({'is_train': True, 'path.experiments_root': str(tmp_path / 'a'), key: str(tmp_path / 'a' / 'x')})
    with pytest.raises(InputError, match=f"'{key}': .* moves away"):
        check_not_in_archive(opt)


def test_folders_of_a_training_that_goes_on_under_a_new_name(folders):
    folders.copy_option_file('opt.yml', 'experiments/new')
    assert all(Path('experiments/new', name).is_dir() for name in ('models', 'training_states'))


@pytest.mark.parametrize('link', ['models', 'training_states', 'visualization', 'visualization/a.png',
                                  'visualization/set', 'other', 'models/deeper', 'train_a.log', 'models/net_g_2.pth',
                                  'training_states/2.state'])
def test_links_out_of_an_experiment_are_refused(link, folders, tmp_path):
    """Those to checkpoints only where BasicSR's own models would write through them."""
    folders.renames = False
    outside, root = tmp_path / 'outside', Path('experiments/a')
    outside.mkdir()
    Path(root, link).parent.mkdir(parents=True)
    Path(root, link).symlink_to(outside / 'a.png' if '.' in link else outside)
    with pytest.raises(InputError, match=f'{link} is a link to .*outside.*Remove the link'):
        folders.copy_option_file('opt.yml', str(root))
    assert not (root / 'opt.yml').exists() and not any(outside.iterdir())


def test_links_within_an_experiment_stay(folders):
    Path('experiments/a/models').mkdir(parents=True)
    Path('experiments/a/best').symlink_to('models')
    folders.copy_option_file('opt.yml', 'experiments/a')
    assert Path('experiments/a/opt.yml').is_file()


@pytest.mark.parametrize('name', ['experiments/a/opt.yml', 'experiments/a/models/.net_g_2.pth.part',
                                  'experiments/a/models/net_g_2.pth', 'experiments/a/training_states/.2.state.part',
                                  'experiments/a/training_states/2.state'])
@pytest.mark.parametrize('there', [True, False])
def test_planted_links_are_replaced(name, there, folders, tmp_path):
    outside = tmp_path / 'outside'
    if there:
        outside.write_text('mine')
    for folder in ('models', 'training_states'):
        Path('experiments/a', folder).mkdir(parents=True)
    Path(name).symlink_to(outside)
    folders.copy_option_file('opt.yml', 'experiments/a')
    for path in ('models/net_g_2.pth', 'training_states/2.state'):
        atomic_save({'a': 1}, Path('experiments/a', path))
    folders.put_back()
    assert (outside.read_text() == 'mine') if there else not outside.exists()
    assert not any(path.is_symlink() for path in Path('experiments').rglob('*'))


# ---- locks ----

HOLD = """
import os, sys, time
from hcflow_model.pipeline.run_folders import locked
with locked(sys.argv[1]):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time(tmp_path):
    """Also while its folder is not there, or archived; whoever is killed holds nothing, nor what loads its data."""
    folder = tmp_path / 'experiments' / 'a'
    with subprocess.Popen([sys.executable, '-c', HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        worker = int(other.stdout.readline())
        for _ in range(2):
            with pytest.raises(InputError, match='in use by another run of this name'), locked(folder):
                pass
        with locked(tmp_path / 'experiments' / 'b'):
            pass
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert list((tmp_path / 'experiments').iterdir()) == [tmp_path / 'experiments' / '.a.lock']
        with locked(folder):
            pass
        os.kill(worker, signal.SIGKILL)
    assert not any((tmp_path / 'experiments').iterdir())


def test_lock_that_is_a_link(tmp_path):
    (tmp_path / '.a.lock').symlink_to(tmp_path / 'outside')
    with pytest.raises(OSError) as caught, locked(tmp_path / 'a'):
        pass
    assert '.a.lock' in input_error(caught.value) and not (tmp_path / 'outside').exists()


@pytest.mark.parametrize('problem', ['no fcntl', 'no locks'])
def test_systems_without_locks(problem, tmp_path, monkeypatch):
    if problem == 'no fcntl':
        monkeypatch.setattr(run_folders, 'fcntl', None)
    else:
        def fail(*args):
            raise OSError(errno.ENOLCK, 'No locks available')
        monkeypatch.setattr(run_folders.fcntl, 'lockf', fail)
    with locked(tmp_path / 'a'):
        pass
    assert not any(tmp_path.iterdir())
