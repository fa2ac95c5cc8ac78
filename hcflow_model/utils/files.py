"""Files that are whole or not there."""
import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hcflow_arch.errors import InputError

MAX_NAME_BYTES = 255  # of most file systems


class WriteError(InputError):
    """A file cannot be written: no space, no permission. Others beside it would fare no better."""


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file to read, but only a regular one: a FIFO waits for a writer, and a device may never end.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # open() refuses folders
        raise OSError(errno.EINVAL, 'it is no regular file', str(path))
    return open(path, 'rb')


def real_path(path: str | os.PathLike) -> Path:
    """`path` without links. `Path.resolve` raises an error for a link that leads to itself (before Python 3.13)."""
    return Path(os.path.realpath(path))


def file_name(name: str, end: str = '') -> str:
    """`name` and `end` as the name of a file. What file systems do not take is replaced or cut, and a hash added."""
    plain = re.sub(r'[/\0]|^\.{0,2}$', '_', name)
    content, spare = os.fsencode(plain), MAX_NAME_BYTES - len(os.fsencode(end))
    if plain == name and len(content) <= spare:
        return name + end
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f'{content[:spare - 9].decode(errors="ignore")}-{digest}{end}'


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be written, or made where it is not there: before the work that is to lie in it."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise InputError(f'Output {path}: {there} is a file; give a folder.')
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f'Output {path}: you have no permission to write to {there}; give another folder.')


def printable(name: str | os.PathLike) -> str:
    """A name with bytes that are no UTF-8, which Python keeps as surrogates, and NUL, which CSV of Python 3.10 refuses,
    written out: 'caf\\xe9.png'."""
    return os.fsencode(name).decode(errors='backslashreplace').replace('\0', '\\x00')


@contextlib.contextmanager
def whole_file(path: Path, shared: bool = False, sync: bool = True) -> Iterator[BinaryIO]:
    """A file to write into that gets its name at the end; on every failure what was there before stays.

    Args:
        path: The name, in a folder that is there.
        shared: Other processes may write this file at the same time, so the unfinished one has a name of its own.
            Default: it is `.NAME.part`, which BasicSR's loaders pass over and which replaces what a kill left of one.
        sync: Also hold after a power cut. Default: True.

    Raises:
        OSError: It cannot be written.
    """
    part = None
    try:
        if shared:
            handle, part = tempfile.mkstemp(prefix=f'.{path.name[:40]}.', suffix='.part', dir=path.parent)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)  # as open() would have made it
        else:
            part = handle = path.with_name(f'.{path.name}.part')
            part.unlink(missing_ok=True)  # what a kill left, or a link that somebody put there
        with open(handle, 'wb' if shared else 'xb') as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(part, path)
        part = None
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                os.unlink(part)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, and the folders to it, by :func:`whole_file`; two runs into one folder do not disturb each other.

    Raises:
        WriteError: No space, no permission, and the like.
        InputError: The name or the path is too long; others may not be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, shared=True) as file:
            file.write(content)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f'Cannot write {path}: {error.strerror}. Shorten the name (most file systems take 255 '
                             'bytes) or the path to it.') from error
        if error.errno == errno.EISDIR:
            raise InputError(f'Cannot write {path}: it is a folder. Move it away.') from error
        raise WriteError(f'Cannot write {path}: {error.strerror}. Free some space, or choose a folder that can be '
                         'written.') from error


def file_hash(path: str | None) -> str | None:
    """SHA-256 of a file, None where there is none."""
    if path is None or not os.path.isfile(path):
        return None
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else hashlib.sha256(
            file.read()).hexdigest()
