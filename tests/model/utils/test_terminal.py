"""The commands with a standard output that is closed, full, or cannot show every character."""
import os
import shlex
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, small_net

from hcflow_model.commands import _parser
from hcflow_model.utils.terminal import OptionalStream, one_line

HCFLOW = [sys.executable, '-m', 'hcflow_model.commands']
TEXTS = [['--help'], ['upscale', '--help'], ['weights']]
ASCII = {'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C', 'PYTHONCOERCECLOCALE': '0', 'PYTHONUTF8': '0'}


def run(command, **kwargs):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), **kwargs.pop('env', {})}
    return subprocess.run(command, stderr=subprocess.PIPE, env=environment, timeout=100, **kwargs)


def info(folder):
    torch.save({'params': small_net().state_dict()}, folder / 'net.pth')
    return ['info', str(folder / 'net.pth')]


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
@pytest.mark.parametrize('arguments', TEXTS, ids=' '.join)
def test_full(arguments, tmp_path):
    with open('/dev/full', 'w') as full:
        done = run([*HCFLOW, *arguments], stdout=full, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b'hcflow: error: The standard output cannot be written: No space left on device.\n'


@pytest.mark.parametrize('arguments', TEXTS, ids=' '.join)
def test_a_reader_that_is_gone(arguments, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = run([*HCFLOW, *arguments], stdout=writer, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b'')


@pytest.mark.skipif(os.name != 'posix', reason='of a shell')
@pytest.mark.parametrize('streams', ['>&-', '<&- >&-', '2>&-', '<&- >&- 2>&-'])
@pytest.mark.parametrize('arguments', TEXTS, ids=' '.join)
def test_closed(arguments, streams, tmp_path):
    done = run(['sh', '-c', f'{shlex.join([*HCFLOW, *arguments])} {streams}'], stdout=subprocess.DEVNULL, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b'')


@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='of a shell')
def test_what_is_known_of_a_checkpoint(tmp_path):
    command = shlex.join([*HCFLOW, *info(tmp_path)])
    for streams, code, words in (('| true', 0, b''), ('>&-', 0, b''), ('>/dev/full', 1, b'cannot be written'),
                                 ('2>&-', 0, b'')):
        done = run(['sh', '-c', f'{command} {streams}'], stdout=subprocess.PIPE)
        assert done.returncode == code and words in done.stderr and done.stderr.count(b'\n') <= 1


@pytest.mark.parametrize('command', [None, *_parser()[1]])
def test_help_is_ascii(command):
    """Old terminals show the rest as escapes."""
    parser = _parser()[0]
    if command:
        parser = parser._subparsers._group_actions[0].choices[command]
    assert parser.format_help().isascii()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bl\u00e4tter.pth', 'caf\udce9.pth', '\u4e2d' * 80, 'x' * 300, 'a\nb\x1b[2J.pth'])
def test_names_that_a_terminal_lacks(name, tmp_path):
    done = run([*HCFLOW, 'upscale', '-i', name, '-o', name, '-w', 'x'], stdout=subprocess.PIPE, env=ASCII, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(b'hcflow: error: ')
    assert done.stderr.isascii() and done.stderr.count(b'\n') == 1 and b'\x1b' not in done.stderr


def test_one_line():
    assert one_line('a\n  b\tc') == 'a b c'
    assert one_line('\x1b[2J \u202e \udce9 \u00e4') == '\\x1b[2J \\u202e \\xe9 \u00e4'
    line = one_line(f'It is wrong: {"x" * 100_000}. Mend it.')  # both ends are kept
    assert len(line) < 2000 and line.startswith('It is wrong: x') and line.endswith('x. Mend it.') and ' ... ' in line


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
@pytest.mark.parametrize('buffering', [1, -1])
def test_work_goes_on_without_its_output(buffering, tmp_path):
    """What a training prints into a full disk or a terminal that is gone is lost, not the training."""
    with open('/dev/full', 'w', buffering=buffering) as file:
        stream = OptionalStream(file)
        for _ in range(2):
            print('text', file=stream, flush=True)
        assert os.path.samestat(os.fstat(stream.fileno()), os.stat(os.devnull))
    with open(tmp_path / 'a', 'w') as file:
        stream = OptionalStream(file)
        assert stream.write('text') == 4 and not stream.isatty()
        stream.flush()
        assert (tmp_path / 'a').read_text() == 'text'
