from pathlib import Path

import pytest
from helpers import demo_options

from hcflow_arch import InputError
from hcflow_model.pipeline.run_folders import RunFolders, check_not_in_archive


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
