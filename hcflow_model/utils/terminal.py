"""Output of commands, which may be closed, full, or unable to show every character."""
import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import TextIO

MAX_LENGTH = 1500  # characters of an error: what a broken file holds may be of any length
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells know it


def one_line(text: str) -> str:
    """A message in one line, whose control characters (of file names, or of what files hold) are written out."""
    text = ' '.join(text.split())
    if len(text) > MAX_LENGTH:  # what is wrong is said at its beginning or at its end
        text = f'{text[:MAX_LENGTH // 2]} ... {text[-MAX_LENGTH // 2:]}'
    return ''.join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char):
    if 0xdc80 <= ord(char) <= 0xdcff:  # how Python keeps a byte of a name that is no UTF-8
        return f'\\x{ord(char) - 0xdc00:x}'
    return char.encode('unicode_escape').decode('ascii')


def with_output(name: str, run: Callable[[], int]) -> int:
    """Run a command.

    A stream that was closed before the start takes everything and shows nothing, characters that a terminal lacks are
    written as escapes, a reader that goes away (`| head`) ends the command in silence, and a full disk behind the
    standard output is one error.

    Args:
        name: Of the command, before its error.
        run: The command; returns its exit code.

    Returns:
        Exit code.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(write_through=False)  # PYTHONUNBUFFERED: argparse would swallow errors of writing
    try:
        try:
            return run()
        finally:
            sys.stdout.flush()  # here, where a failure can be told
    except BrokenPipeError:
        code, message = BROKEN_PIPE, None
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT):
            raise  # of a file
        code, message = 1, f'{name}: error: The standard output cannot be written: {error.strerror}.'
    _discard(sys.stdout)
    if message is not None:
        say(message)
    return code


def say(line: str) -> None:
    """Write a line to the error output, if that can be written."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f'{line}\n')
        sys.stderr.flush()


class OptionalStream:
    """A stream whose text may be lost: of work that leaves its results in files. What cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        try:
            return self._stream.write(text)
        except OSError:
            _discard(self._stream)
            return len(text)

    def flush(self):
        try:
            self._stream.flush()
        except OSError:
            _discard(self._stream)


def _discard(stream):
    """Send what is left in a stream's buffer, and what comes, nowhere: it would fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it has no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _open_closed_streams():
    """Files that are opened must not get the numbers of the standard streams, into which libraries write."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while os.open(os.devnull, os.O_RDWR) <= 2:  # takes the lowest number that is free
        pass
    sys.stdin = sys.stdin or open(0, encoding='utf-8')  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, 'w', encoding='utf-8')  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, 'w', encoding='utf-8')  # noqa: SIM115
