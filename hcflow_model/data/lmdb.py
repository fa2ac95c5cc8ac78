"""BasicSR's LMDB backend with one environment per process and file, and errors that name what is missing."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
from basicsr.utils.file_client import BaseStorageBackend

from hcflow_arch import InputError

_opened = {}  # {real path: (process id and file as they were, environment)}


def open_lmdb(path: str | os.PathLike) -> lmdb.Environment:
    """Open an LMDB for reading, without locks: once in a process, however many datasets read it.

    lmdb refuses to open a file twice in a process, and counts what the parent of a forked worker had opened.

    Args:
        path: The folder.

    Raises:
        InputError: No LMDB, or a truncated one. Reading that would end the process without a word (SIGBUS).
    """
    key = os.path.realpath(path)
    try:
        file = (Path(key) / 'data.mdb').stat()
    except OSError as error:
        raise InputError(f'LMDB {path} has no data.mdb ({error.strerror}); give the folder that holds it.') from error
    opener = os.getpid(), file.st_ino, file.st_size, file.st_mtime_ns
    if key in _opened:
        if _opened[key][0] == opener:
            return _opened[key][1]
        _opened.pop(key)[1].close()  # the parent's, where this worker must have its own; or of a file since replaced
    _opened[key] = opener, open_anew(path)
    return _opened[key][1]


def open_anew(path: str | os.PathLike) -> lmdb.Environment:
    """As :func:`open_lmdb`, for a file that nothing else reads; the caller closes it."""
    key = os.path.realpath(path)
    try:
        environment = lmdb.open(key, readonly=True, lock=False, readahead=False)
        needed = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
    except lmdb.Error as error:
        reason = str(error).removeprefix(f'{key}: ')
        raise InputError(f'LMDB {path} cannot be opened ({reason}): its data.mdb is broken or none. Copy or make it '
                         'again.') from error
    size = os.path.getsize(f'{key}/data.mdb')
    if size < needed:
        environment.close()
        raise InputError(f'LMDB {path} is truncated: its data.mdb has {size} bytes of {needed}. Copy or make it again.')
    return environment


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[lmdb.Transaction]:
    """A transaction that reads an LMDB; the values are only valid within it.

    Raises:
        InputError: As :func:`open_lmdb`; or pages of the file are damaged.
    """
    try:
        with open_lmdb(path).begin(buffers=True) as transaction:
            yield transaction
    except lmdb.Error as error:
        raise InputError(f'LMDB {path} cannot be read ({error}). Copy or make it again.') from error


class LmdbBackend(BaseStorageBackend):
    """Takes the place of BasicSR's backend of this name (utils/file_client.py).

    Args:
        db_paths (str | list[str]): Folders of the LMDBs.
        client_keys (str | list[str]): How callers name them. Default: 'default'.
        **kwargs: `io_backend` may have more for BasicSR's (readonly, lock, readahead); reading needs none of them.
    """

    def __init__(self, db_paths, client_keys='default', **kwargs):
        paths, keys = ([value] if isinstance(value, str) else list(value) for value in (db_paths, client_keys))
        self.paths = dict(zip(keys, paths, strict=True))
        for path in paths:
            open_lmdb(path)

    def get(self, filepath: str, client_key: str) -> bytes:
        """The bytes of an image.

        Raises:
            InputError: The LMDB has no such key, or is broken where it lies.
        """
        path = self.paths[client_key]
        with reading(path) as transaction:
            value = transaction.get(os.fsencode(str(filepath)))
            if value is None:
                raise InputError(f'LMDB {path} has no {filepath!r}, which its meta_info.txt lists. Make it again.')
            return bytes(value)

    def get_text(self, filepath):
        raise NotImplementedError
