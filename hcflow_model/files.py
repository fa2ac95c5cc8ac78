"""Files that are whole or not there."""
import os
import tempfile
from pathlib import Path

from hcflow_arch.errors import InputError


class WriteError(InputError):
    """A file cannot be written: no space, no permission."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by renaming a finished one; on every failure what was there before stays.

    Raises:
        WriteError: No space, no permission, and the like.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # a name of its own, so that two runs into one folder do not write into each other's file; cut, because names
        # have at most 255 bytes
        handle, part = tempfile.mkstemp(prefix=f'.{path.name[:40]}.', suffix='.part', dir=path.parent)
        with open(handle, 'wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)  # as open() would have made it
        os.replace(part, path)
    except OSError as error:
        raise WriteError(f'Cannot write {path}: {error.strerror}. Free some space, or choose a folder that can be '
                         'written.') from error
    finally:
        if part is not None and os.path.exists(part):
            os.unlink(part)
