"""Networks by name: where they are looked for, and how they are fetched, from a server on this machine."""
import hashlib
import io
import multiprocessing
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from helpers import Exploit, demo_options, released_state_dict

from hcflow_arch import InputError, load_official_state_dict
from hcflow_model import HCFlowRescaler
from hcflow_model.checkpoints import named
from hcflow_model.checkpoints.info import checkpoint_info, info_table
from hcflow_model.checkpoints.named import BUNDLED, NAMED, Named, cache_folder, find_named, use_named, weights_path
from hcflow_model.checkpoints.pretrained import load_pretrained
from hcflow_model.commands import main

NAME, FILE = 'Rescaling_DF2K_X4_HCFlow', 'Rescaling_DF2K_X4_HCFlow.pth'


def saved(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    return file.getvalue()


@pytest.fixture(scope='module')
def content():
    """A file with the names and shapes of the release."""
    return saved(released_state_dict('re4'))


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content` under any name, in parts where they are asked for, and notes the requests."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, first = self.server, self.headers.get('Range')
        server.requests.append((self.path, first))
        first = int(first.removeprefix('bytes=').removesuffix('-')) if first and server.ranges else 0
        size = len(server.content)
        if server.status != 200 or first >= size:
            self.send_response(server.status if server.status != 200 else 416)
            self.send_header('Content-Range', f'bytes */{size}')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        self.send_header('Content-Length', str(size - first))
        self.end_headers()
        part = server.content[first:]
        self.wfile.write(part[:server.cuts.pop(0)] if server.cuts else part)


@pytest.fixture
def server(content, tmp_path, monkeypatch):
    """The release. `cuts`: after how many bytes the next answers break off; `ranges`: whether it can send parts."""
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.content, server.status, server.cuts, server.ranges, server.requests = content, 200, [], True, []
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv('HCFLOW_RELEASE', f'http://127.0.0.1:{server.server_port}/v0')
    monkeypatch.setenv('HCFLOW_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def assert_fetched(content):
    path = cache_folder() / FILE
    assert path.read_bytes() == content
    assert (cache_folder() / f'{FILE}.sha256').read_text() == f'{hashlib.sha256(content).hexdigest()}  {FILE}\n'
    assert {file.name for file in cache_folder().iterdir()} <= {FILE, f'{FILE}.sha256', f'.{FILE}.lock'}


def assert_nothing_kept():
    assert not [file.name for file in cache_folder().iterdir() if not file.name.startswith('.')]


def test_a_name_is_fetched_once(server, content):
    for given in (NAME, FILE, NAME):
        assert weights_path(given) == cache_folder() / FILE
    assert_fetched(content)
    assert server.requests == [(f'/v0/{FILE}', None)]
    assert HCFlowRescaler(NAME).net.task == 'rescaling'
    assert len(server.requests) == 1


def test_a_broken_download_goes_on(server, content):
    server.cuts = [5000, 10_000]
    weights_path(NAME)
    assert_fetched(content)
    assert [first for _, first in server.requests] == [None, 'bytes=5000-', 'bytes=15000-']


def test_a_later_command_goes_on(server, content, capsys):
    server.cuts = [5000, 0, 0]
    with pytest.raises(InputError, match=r'the connection broke .* it goes on after 0\.0 MB'):
        weights_path(NAME)
    assert_nothing_kept()
    weights_path(NAME)
    assert_fetched(content)
    assert server.requests[-1][1] == 'bytes=5000-'


def test_a_server_that_sends_no_parts(server, content):
    server.cuts, server.ranges = [5000], False
    weights_path(NAME)
    assert_fetched(content)


@pytest.mark.parametrize('extra', [0, 7])
def test_nothing_is_left_to_send(extra, server, content):
    """A download that was stopped before its check, or whose file was another one."""
    cache_folder().mkdir()
    (cache_folder() / f'.{FILE}.part').write_bytes(content + extra * b'x')
    weights_path(NAME)
    assert_fetched(content)


@pytest.mark.parametrize('status', [404, 403, 503])
def test_an_answer_that_is_an_error(status, server, capsys):
    server.status = status
    assert main(['info', NAME]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and f'HTTP {status}' in error and str(cache_folder()) in error
    assert f'{os.environ["HCFLOW_RELEASE"]}/{FILE}' in error
    assert_nothing_kept()


@pytest.mark.slow
@pytest.mark.parametrize(('make', 'message'), [
    (lambda: b'<html>no network</html>', 'not a safe checkpoint'),
    (lambda: saved({'flow.layers.0.a': Exploit()}), 'not a safe checkpoint'),
    (lambda: saved({'a': torch.zeros(1)}), 'not the names'),
    (lambda: saved(released_state_dict('sr4')), "network of {'scale': 4, 'task': 'sr'"),
    (lambda: saved(dict(list(released_state_dict('re4').items())[:-1])), 'missing'),
    (lambda: saved({name: value.repeat_interleave(2, 0) if name.endswith('RDB1.conv2.bias') else value
                    for name, value in released_state_dict('re4').items()}), 'of another shape')])
def test_wrong_content_is_not_kept(make, message, server, content):
    server.content = make()
    with pytest.raises(InputError, match=f'sent is not {NAME}.*{message}'):
        weights_path(NAME)
    assert_nothing_kept()
    assert not list(cache_folder().glob('.*.part')) and not Path('ran').exists()
    server.content = content
    weights_path(NAME)
    assert_fetched(content)


def test_content_without_end(server, monkeypatch):
    monkeypatch.setattr(named, 'MAX_BYTES', 1000)
    with pytest.raises(InputError, match='sends more than 1000 bytes'):
        weights_path(NAME)
    assert_nothing_kept()


@pytest.mark.parametrize('address', ['http://127.0.0.1:1/v0', 'no address', 'http://', 'file:///nowhere'])
def test_without_a_connection(address, server, monkeypatch, capsys):
    monkeypatch.setenv('HCFLOW_RELEASE', address)
    assert main(['info', NAME]) == 1
    error = capsys.readouterr().err
    assert f'cannot be fetched from {address}/{FILE}: ' in error and f'into {cache_folder()}' in error
    assert error.startswith('hcflow: error: ') and error.count('\n') == 1


@pytest.mark.slow
def test_two_processes_at_once(server, content):
    """The second waits for the first, and takes what that fetched."""
    context = multiprocessing.get_context('fork')
    both = context.Barrier(2)
    processes = [context.Process(target=_fetch, args=(both,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert_fetched(content)
    assert len(server.requests) == 1


def _fetch(both):
    both.wait(60)
    assert weights_path(NAME) == cache_folder() / FILE


def test_a_cache_that_cannot_be_written(server, monkeypatch):
    Path('home').write_text('a file')
    with pytest.raises(InputError, match='Cannot write .*home: .*set HCFLOW_HOME'):
        weights_path(NAME)


def test_where_names_are_looked_for(server, content, monkeypatch):
    places = [cache_folder() / FILE, Path('experiments', 'pretrained_models', f'{NAME}.safetensors'), Path(FILE)]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        assert find_named(NAME) == place
    assert weights_path(NAME) == Path(FILE) and not server.requests
    monkeypatch.delenv('HCFLOW_HOME')
    monkeypatch.setenv('XDG_CACHE_HOME', '/x')
    monkeypatch.setattr('sys.platform', 'linux')
    assert cache_folder() == Path('/x/hcflow')


def test_paths_stay_paths(server):
    Path('net.pth').write_bytes(b'x')
    for path in ('net.pth', '.', f'other/{FILE}'):
        assert weights_path(path) == Path(path)
    with pytest.raises(InputError, match=r'does not exist, and no network has this name \(did you mean SR_DF2K_X4_HCF'):
        weights_path('SR_DF2K_X4_HCFlo+.pth')
    assert not server.requests


def test_names_in_option_files(server):
    opt = {'path': {'pretrain_network_g': NAME}}
    use_named(opt)
    assert opt['path']['pretrain_network_g'] == str(cache_folder() / FILE)
    for path in ({}, {'pretrain_network_g': None}, {'pretrain_network_g': 'experiments/a.pth'}):
        opt = {'path': dict(path)}
        use_named(opt)
        assert opt['path'] == path


def test_basicsr_train_takes_names(server, command):
    Path('opt.yml').write_text(yaml.safe_dump(demo_options({'path.pretrain_network_g': NAME})))
    server.status = 404
    code, _, errors = command('train', '-opt', 'opt.yml')
    assert code == 1 and f'{NAME} cannot be fetched from' in errors and 'HTTP 404' in errors
    assert not Path('experiments').exists()


@pytest.mark.slow
def test_info_knows_what_was_fetched(server, content):
    info = checkpoint_info(NAME)
    assert info['sha256'] == info['fetched_sha256'] == hashlib.sha256(content).hexdigest()
    assert f'{info["sha256"]}, as it was fetched\n' in info_table(info)
    (cache_folder() / FILE).write_bytes(saved({name: value + 1 for name, value in released_state_dict('re4').items()}))
    assert 'CHANGED since it was fetched' in info_table(checkpoint_info(NAME))


def test_table_of_names(server, capsys):
    assert main(['weights', NAME]) == 0
    assert capsys.readouterr().out == f'{cache_folder() / FILE}\n'
    assert main(['weights']) == 0
    lines = capsys.readouterr().out.splitlines()
    released = [name for name, network in NAMED.items() if not network.bundled]
    assert len(released) == 7 and [line.split()[0] for line in lines[2:2 + len(NAMED)]] == list(NAMED)
    assert [line for line in lines if str(cache_folder() / FILE) in line][0].startswith(NAME)
    assert [line.split()[0] for line in lines if 'fetched when used' in line] == [
        name for name in released if name != NAME]


def test_a_network_of_the_package(server, monkeypatch, tmp_path, content):
    """A bundled file is taken from the package before all other places."""
    assert BUNDLED.parent.name == 'hcflow_model'
    monkeypatch.setattr(named, 'BUNDLED', tmp_path / 'data')
    monkeypatch.setitem(NAMED, 'small', Named('rescaling', 'small.pth', {}, bundled=True))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'small.pth').write_bytes(content)
    assert weights_path('small') == tmp_path / 'data' / 'small.pth' and load_pretrained('small').task == 'rescaling'
    assert not server.requests


@pytest.mark.slow
def test_released_weights_in_safetensors(tmp_path, monkeypatch):
    """Wherever a .pth can be named: by path, by name, for the network alone."""
    from safetensors.torch import save_file
    monkeypatch.chdir(tmp_path)
    save_file({name: value.clone() for name, value in released_state_dict('re4').items()}, f'{NAME}.safetensors')
    assert load_pretrained(NAME).task == load_pretrained(f'{NAME}.safetensors').task == 'rescaling'
    assert load_official_state_dict(f'{NAME}.safetensors')[1] == NAMED[NAME].arguments
    assert checkpoint_info(NAME)['origin'] == 'released'
