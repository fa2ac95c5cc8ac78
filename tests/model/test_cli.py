"""The `basicsr` command in this process, up to BasicSR's pipelines; test_end_to_end.py runs the installed one."""
import multiprocessing
import os
import signal
import time
from importlib import metadata
from types import SimpleNamespace

import basicsr.test
import basicsr.train
import pytest
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import REMOVED, SMALL_NET, demo_options

from hcflow_arch import InputError
from hcflow_model.pipeline.stopping import TrainingStopped
from hcflow_model.utils.plugins import installed_plugins


@pytest.fixture
def pipelines(monkeypatch):
    """In place of BasicSR's pipelines: what they would have parsed, [(root path, options)]."""
    seen = []
    for module, is_train in ((basicsr.train, True), (basicsr.test, False)):
        name = 'train_pipeline' if is_train else 'test_pipeline'
        monkeypatch.setattr(module, name, lambda root, module=module, is_train=is_train: seen.append(
            (root, module.parse_options(root, is_train=is_train)[0])))
    return seen


def write(changes=None):
    with open('opt.yml', 'w') as file:
        file.write(yaml.safe_dump(demo_options({**SMALL_NET, **(changes or {})})))
    return 'opt.yml'


def assert_one_line(result, message):
    code, _, errors = result
    assert code == 1
    assert errors.startswith('basicsr: error: ') and errors.count('\n') == 1 and errors.endswith('\n')
    assert message in errors


# ---- help and versions ----

def test_version(command):
    code, output, errors = command('--version')
    assert (code, errors) == (0, '')
    lines = dict(line.split(' ') for line in output.splitlines())
    assert lines == {'basicsr': basicsr.__version__, **{name: metadata.version(name) for name in ('torch', 'hcflow')}}


@pytest.mark.parametrize(('argv', 'words'), [
    (['--help'], ['train', 'test', '--version']), ([], ['train', 'test', '--version']),
    (['train', '--help'], ['-opt FILE', '--launcher', '--auto_resume', '--debug', '--force_yml']),
    (['test', '--help'], ['-opt FILE', 'Test a trained network'])])
def test_help(argv, words, command, capsys):
    try:
        code = command(*argv)[:2]
    except SystemExit as stop:
        code = (stop.code, capsys.readouterr().out)
    assert code[0] == 0 and all(word in code[1] for word in words)


@pytest.mark.parametrize('argv', [['train'], ['trian', '-opt', 'a'], ['train', '-opt', 'a', '--launcher', 'x']])
def test_wrong_usage(argv, command, capsys):
    with pytest.raises(SystemExit) as stop:
        command(*argv)
    assert stop.value.code == 2 and 'usage: basicsr' in capsys.readouterr().err


# ---- bad input ----

@pytest.mark.parametrize(('changes', 'entries', 'message'), [
    ({'train.optim_g.lr': '1e-4'}, [], "'train.optim_g.lr' is the text '1e-4'"),
    ({'plugins': ['no_such_module_of_anyone']}, [], "plugins: 'no_such_module_of_anyone' cannot be imported"),
    ({'plugins': 'realesrgan'}, [], "plugins is 'realesrgan'; it must be a list"),
    ({'plugins': [1]}, [], 'plugins is [1]'),
    ({}, ['nothing:x=1'], "no block 'nothing'"), ({}, ['train:total_itre=5'], "Unknown option 'train.total_itre'"),
    ({}, ['train:optim_g:lr=1e-4'], "'train.optim_g.lr' is the text '1e-4'"),
    ({}, ['datasets=1'], "'datasets' is 1; it must be a block"), ({}, ['network_g=~'], "has no 'network_g'")])
def test_bad_options(changes, entries, message, command, pipelines):
    """Those of every kind: bad_inputs.py."""
    write(changes)
    assert_one_line(command('train', '-opt', 'opt.yml', *(['--force_yml', *entries] if entries else [])), message)
    assert os.listdir() == ['opt.yml'] and not pipelines  # nothing was run or made


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads every file')
def test_option_file_without_permission(command):
    os.chmod(write(), 0)
    assert_one_line(command('train', '-opt', 'opt.yml'), 'Permission denied')


def test_bugs_keep_their_traceback(command, monkeypatch):
    def bug(root):
        raise KeyError('bug')

    monkeypatch.setattr(basicsr.train, 'train_pipeline', bug)
    write()
    with pytest.raises(KeyError, match='bug'):
        command('train', '-opt', 'opt.yml')


def test_messages_of_several_lines_become_one(command, monkeypatch):
    def fail(root):
        raise InputError('one\n  two')

    monkeypatch.setattr(basicsr.train, 'train_pipeline', fail)
    write()
    assert_one_line(command('train', '-opt', 'opt.yml'), 'error: one two')


@pytest.mark.parametrize(('stop', 'code', 'line'), [
    (TrainingStopped(15, 'SIGTERM: saved'), 143, 'basicsr: SIGTERM: saved'),
    (KeyboardInterrupt(), 130, 'basicsr: stopped by Ctrl-C')])
def test_signals_have_a_code_and_a_line(stop, code, line, command, monkeypatch):
    def end(root):
        raise stop

    monkeypatch.setattr(basicsr.train, 'train_pipeline', end)
    write()
    got, _, errors = command('train', '-opt', 'opt.yml')
    assert (got, errors) == (code, f'{line}\n')
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---- what is handed to BasicSR ----

def test_options_and_flags_reach_the_pipeline(command, pipelines, tmp_path):
    write({'name': 'mine', 'val.num_samples': 3})
    code, _, errors = command('train', '-opt', 'opt.yml', '--auto_resume', '--debug', '--force_yml',
                              'train:ema_decay=0.5', 'train:optim_g:betas=[0.5, 0.9]', 'manual_seed=7')
    assert (code, errors) == (0, '')
    (root, opt), = pipelines
    assert root == str(tmp_path) and opt['path']['experiments_root'] == f'{tmp_path}/experiments/debug_mine'
    assert opt['train']['ema_decay'] == 0.5 and opt['train']['optim_g']['betas'] == [0.5, 0.9]
    assert (opt['manual_seed'], opt['auto_resume'], opt['is_train'], opt['dist']) == (7, True, True, False)
    assert opt['val']['num_samples'] == 3 and opt['option_file'] == 'opt.yml'


@pytest.mark.parametrize('flag', ['--local-rank=1', '--local_rank=1'])
@pytest.mark.parametrize('before', [True, False])
def test_ranks_of_torch_distributed_launch(flag, before, command, pipelines):
    write()
    flags = [[flag], []] if before else [[], [flag]]
    assert command(*flags[0], 'train', '-opt', 'opt.yml', *flags[1])[0] == 0 and len(pipelines) == 1


def test_the_test_pipeline(command, pipelines, tmp_path):
    write({'train': REMOVED, 'logger': REMOVED, 'datasets.train': REMOVED})
    assert command('test', '-opt', 'opt.yml')[0] == 0
    (_, opt), = pipelines
    assert not opt['is_train'] and opt['path']['results_root'] == f'{tmp_path}/results/demo_HCFlow_x4'


# ---- plugins ----

PLUGIN = """
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


@ARCH_REGISTRY.register()
class NetOfAPlugin(nn.Conv2d):
    def __init__(self, num_feat=3):
        super().__init__(3, num_feat, 3)
"""


def test_plugins_of_an_option_file(command, pipelines, tmp_path, monkeypatch):
    (tmp_path / 'plugin_of_a_test').mkdir()
    (tmp_path / 'plugin_of_a_test' / 'archs.py').write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {'network_g': {'type': 'NetOfAPlugin'}, 'model_type': 'SRModel'}
    write(changes)
    assert_one_line(command('train', '-opt', 'opt.yml'), "'NetOfAPlugin', which is not registered in BasicSR")
    try:
        write({**changes, 'plugins': ['plugin_of_a_test.archs']})
        assert command('train', '-opt', 'opt.yml')[0] == 0
        (_, opt), = pipelines
        assert opt['network_g']['type'] == 'NetOfAPlugin' and 'NetOfAPlugin' in ARCH_REGISTRY
    finally:
        ARCH_REGISTRY._obj_map.pop('NetOfAPlugin', None)


def test_plugin_that_raises(command, tmp_path, monkeypatch):
    (tmp_path / 'broken_plugin_of_a_test.py').write_text('import no_such_module_of_anyone\n')
    monkeypatch.syspath_prepend(tmp_path)
    write({'plugins': ['broken_plugin_of_a_test']})
    assert_one_line(command('train', '-opt', 'opt.yml'), "No module named 'no_such_module_of_anyone'")


def test_plugin_with_a_slip_shows_its_traceback(command, tmp_path, monkeypatch):
    (tmp_path / 'slip_of_a_test.py').write_text('nothing_of_that_name\n')
    monkeypatch.syspath_prepend(tmp_path)
    write({'plugins': ['slip_of_a_test']})
    with pytest.raises(NameError, match='nothing_of_that_name'):
        command('train', '-opt', 'opt.yml')


def test_installed_plugins(command, pipelines, monkeypatch):
    def broken():
        raise RuntimeError('too old')

    loaded = []
    plugins = [SimpleNamespace(name='broken', load=broken), SimpleNamespace(name='good', load=lambda: loaded.append(1))]
    monkeypatch.setattr('hcflow_model.utils.plugins.installed_plugins', lambda: plugins)
    write()
    code, _, errors = command('train', '-opt', 'opt.yml')
    assert code == 0 and loaded == [1] and len(pipelines) == 1
    assert "plugin broken cannot be imported and is left out: RuntimeError('too" in errors
    assert 'test_cli.py", line' in errors  # a bug


def test_this_package_is_an_installed_plugin():
    plugins = {plugin.name: plugin.value for plugin in installed_plugins()}
    assert plugins['hcflow'] == 'hcflow_model'
    scripts = {script.name: script.value for script in metadata.entry_points(group='console_scripts')}
    assert scripts['basicsr'] == 'hcflow_model.cli:main'


def test_workers_end_with_the_command(command, monkeypatch):
    """They ignore SIGTERM; Python would wait for them without end when it exits."""
    started = []

    def pipeline(root):
        started.append(multiprocessing.get_context('fork').Process(target=_ignore_and_sleep, daemon=True))
        started[0].start()
        raise InputError('broken')

    monkeypatch.setattr(basicsr.train, 'train_pipeline', pipeline)
    write()
    assert_one_line(command('train', '-opt', 'opt.yml'), 'broken')
    assert started[0].exitcode == -signal.SIGKILL


def _ignore_and_sleep():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
