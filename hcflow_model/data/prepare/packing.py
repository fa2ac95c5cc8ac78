"""LMDBs of prepared folders, in BasicSR's format, and their check through BasicSR's loaders."""
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
from basicsr.data.data_util import paths_from_lmdb
from basicsr.utils.lmdb_util import LmdbMaker

from hcflow_arch import InputError
from hcflow_model.data.lmdb import open_anew
from hcflow_model.utils.files import open_regular

from .images import PNG_LEVEL
from .settings import cannot_write

PAGE = 4096  # bytes; an image starts a page of its own
BATCH = 100  # images in memory before they are written: BasicSR's 5000 would be gigabytes


def lmdb_of(folder: Path) -> Path:
    """Where the LMDB of a folder is."""
    return folder.with_name(f'{folder.name}.lmdb')


def pack_folder(folder: Path, sizes: dict[str, tuple[int, int]], advance: Callable[[], object]) -> None:
    """Make the LMDB of a folder of PNGs, replacing an older one only when it is whole and checked.

    The PNGs go in as they are: BasicSR's make_lmdb_from_imgs would decode and encode every one again.

    Args:
        folder: The folder.
        sizes: {key: (height, width)}: the PNGs, without ending.
        advance: Called after every image.

    Raises:
        InputError: No space left.
    """
    final, part = lmdb_of(folder), folder.with_name(f'.{folder.name}.part.lmdb')
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    bytes_needed = sum((os.path.getsize(folder / f'{key}.png') // PAGE + 2) * PAGE for key in sizes)
    free = shutil.disk_usage(folder).free
    if bytes_needed > free:
        raise InputError(f'{final} needs {bytes_needed / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free. Free some '
                         'space, then run the same command again: it goes on from there.')
    try:
        # the tree of keys takes little beside the images; the size is a limit, not what the file takes
        maker = LmdbMaker(str(part), map_size=2 * bytes_needed + 2**24, batch=BATCH, compress_level=PNG_LEVEL)
        try:
            for key in sorted(sizes):
                maker.put((folder / f'{key}.png').read_bytes(), key, (*sizes[key], 3))
                advance()
            maker.txn.commit()
        finally:  # not maker.close(), which would commit again after an error
            maker.env.close()
            maker.txt_file.close()
    except (lmdb.Error, OSError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise cannot_write(final, error) from error
    problem = lmdb_problem(part, folder, sizes)
    if problem:
        raise InputError(f'{part} was written, but {problem}; the disk may be damaged or full.')
    shutil.rmtree(final, ignore_errors=True)
    os.replace(part, final)


def lmdb_problem(path: Path, folder: Path, sizes: dict[str, tuple[int, int]]) -> str | None:
    """Read an LMDB back as BasicSR does and hold it against its folder.

    Args:
        path: The LMDB.
        folder: Its PNGs.
        sizes: {key: (height, width)} that it should hold.

    Returns:
        What is wrong, or None.
    """
    try:
        meta_info = ''.join(f'{key}.png ({h},{w},3) {PNG_LEVEL}\n' for key, (h, w) in sorted(sizes.items()))
        with open_regular(path / 'meta_info.txt') as file:
            listed = file.read().decode()
        if listed != meta_info or paths_from_lmdb(str(path)) != sorted(sizes):
            return 'its meta_info.txt lists other images or sizes'
        with open_anew(path) as environment, environment.begin() as transaction:
            for key in sizes:
                if transaction.get(key.encode()) != (folder / f'{key}.png').read_bytes():
                    return f'image {key} in it differs from {folder / key}.png'
    except (OSError, UnicodeDecodeError, lmdb.Error, InputError) as error:
        return f'it cannot be read ({error})'
    return None
