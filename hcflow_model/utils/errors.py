"""Errors of the input, which the commands tell in one line, and bugs, which keep their traceback."""
import errno
import linecache
import re
import traceback

from hcflow_arch.errors import InputError

NO_ACCESS = (errno.EACCES, errno.EPERM)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # also where no file is named
LOST = re.compile('(gloo|nccl|store).*(closed by|reset by|broken pipe|timed? ?out|remote (process|peer))', re.I | re.S)


class LostProcessError(RuntimeError):
    """Another process of a distributed run has failed, and says itself why."""


def input_error(error: Exception) -> str | None:
    """One line for an exception over the user's input; None for every other one, a bug that keeps its traceback."""
    text = str(error).strip()
    if isinstance(error, InputError):  # of a worker that loads data, the text is a traceback that ends with it
        return text.split(f'{type(error).__module__}.{type(error).__qualname__}: ')[-1]
    if text.startswith('DataLoader worker (pid') or _is_of_a_lost_worker(error):  # the system killed it
        what = text.splitlines()[0] if text.startswith('DataLoader') else 'a worker has ended.'
        return f'Loading data failed: {what} Memory may be short; take fewer workers (num_worker_per_gpu).'
    if isinstance(error, LostProcessError) or (isinstance(error, RuntimeError) and LOST.search(text)):
        return ('Another process of this run has ended or does not answer, so this one ends, too; the output of that '
                'one says why. What was saved before is whole.')
    if isinstance(error, UnicodeEncodeError):
        return (f'{error.object!r} cannot be written in {error.encoding}, the encoding of this locale. Set '
                'PYTHONUTF8=1 in the environment.')
    if isinstance(error, OSError):
        return _file_error(error)
    return f'{type(error).__name__}: {error_text(error)}' if said_by(error, 'basicsr') else None


def _is_of_a_lost_worker(error):
    """Whether what a process sent that loads data can no longer be fetched from it."""
    return isinstance(error, (EOFError, OSError)) and any(
        frame.f_globals.get('__name__', '').startswith(('torch.multiprocessing.', 'multiprocessing.'))
        for frame, _ in traceback.walk_tb(error.__traceback__))


def said_by(error: BaseException, *packages: str) -> bool:
    """Whether code of these packages says what is wrong with its input: by `raise` or `assert` in a line of its own.

    What an operation raises, such as an index or an import that fails, is a bug; so is what a library says of values
    that this code has handed to it. BasicSR, though, leaves missing options to the KeyError of its dict.
    """
    if not isinstance(error, (ValueError, AssertionError, KeyError)) or error.__traceback__ is None:
        return False
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    if isinstance(error, KeyError):
        return package == 'basicsr'
    statement = linecache.getline(frame.f_code.co_filename, line).lstrip()
    return package in packages and statement.startswith(('raise ', 'assert '))


def error_text(error: BaseException) -> str:
    """What an exception says; its name where it says nothing. BasicSR hands over pieces of a sentence."""
    if isinstance(error, OSError):
        return str(error)  # with the file's name
    if isinstance(error, KeyError):
        return f'option {error} is missing'
    return ''.join(str(part) for part in error.args) or type(error).__name__


def _file_error(error):
    """Of files that cannot be read or written; None for others, such as connections."""
    if error.errno in NO_ACCESS:
        return f'Cannot open {error.filename or "a file"}: {error.strerror}. Give yourself access to it.'
    if error.errno in DISK_ERRORS:
        return (f'Cannot write {error.filename or "a file"}: {error.strerror}. Free some space or make the folder '
                'writable; what was saved before is whole.')
    if error.errno == errno.ENAMETOOLONG:
        return (f'Cannot open {error.filename}: {error.strerror}. Shorten the name (most file systems take 255 bytes) '
                'or the path to it.')
    return f'Cannot open {error.filename}: {error.strerror}.' if error.filename is not None else None
