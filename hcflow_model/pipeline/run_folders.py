"""The folders of a run: earlier ones are archived as BasicSR does, and put back when the run fails at its start."""
import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from basicsr.utils import get_time_str
from basicsr.utils.dist_util import master_only

from hcflow_arch import InputError
from hcflow_model.utils.files import real_path, write_bytes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NOTES = ('.log', '.yml', '.yaml')  # what a run writes before it has made anything


def check_not_in_archive(opt: dict) -> None:
    """Refuse checkpoints and data in the folder that this run would archive: they would be gone when they are read."""
    root = real_path(opt['path']['experiments_root' if opt['is_train'] else 'results_root'])
    used = {f'path.{key}': value for key, value in opt['path'].items() if key.startswith('pretrain_network')}
    for phase, dataset in opt['datasets'].items():
        used.update({f'datasets.{phase}.{key}': dataset.get(key) for key in ('dataroot_gt', 'dataroot_lq')})
    for name, value in used.items():
        paths = [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, str)]
        for path in (path for path in paths if root in real_path(path).parents):
            raise InputError(f"'{name}': {path} lies in {root}, which a new run of this name moves away. Change `name`"
                             f'{", or go on with --auto_resume" if opt["is_train"] else ""}.')


def refuse_links(root: str | os.PathLike, renames: bool = True) -> None:
    """Refuse links that lead out of an experiment's folder and that would be written through: those to folders,
    pictures and logs. Other files are written beside their name and renamed, which replaces a link.

    Args:
        root: The folder.
        renames: The model writes its checkpoints in this way. BasicSR's own models do not.

    Raises:
        InputError: There is one.
    """
    inside = os.path.realpath(root)
    for folder, folders, files in os.walk(root):
        if renames and 'visualization' not in Path(folder).relative_to(root).parts:
            files = [name for name in files if name.endswith('.log')]
        for path in (os.path.join(folder, name) for name in (*folders, *files)):
            target = os.path.realpath(path)
            if os.path.islink(path) and not target.startswith(f'{inside}{os.sep}'):
                raise InputError(f'{path} is a link to {target}, outside of the experiment, so training would write '
                                 'there. Remove the link, or put the folder in its place.')


@contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
    """Within it no other process has the folder of this experiment, which need not be there, also on other machines
    that share it. The system releases it when this process ends, however it ends.

    Raises:
        InputError: Another process has it.
    """
    if fcntl is None:
        yield
        return
    path = Path(folder).with_name(f'.{Path(folder).name}.lock')
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a process: what loads data does not inherit it
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(handle)
                raise InputError(f'{folder} is in use by another run of this name. Wait for its end, or give this one '
                                 'another `name`.') from error
            break  # a file system without locks
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            break
        os.close(handle)  # the other run has just ended and removed it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


class RunFolders:
    """What a run does to folders that were there before it.

    Args:
        option_text (str): Of its option file, which may lie in the folder that is archived.
        renames (bool): See :func:`refuse_links`.
    """

    def __init__(self, option_text: str, renames: bool = True):
        self.option_text, self.renames = option_text, renames
        self.archived = []  # (folder, its archive)
        self.before = {}  # {file: (time, size)} of the folders when the run got them
        self.option_copy = None  # (file, what it held before)

    def archive(self, path: str) -> None:
        """Take the place of BasicSR's `mkdir_and_rename` (utils/misc.py), which cannot archive twice in a second."""
        path = os.path.normpath(path)
        try:
            if os.path.lexists(path):
                archive = f'{path}_archived_{get_time_str()}'
                while os.path.lexists(archive):
                    archive += '_'
                sys.stdout.write(f'Path already exists. Rename it to {archive}\n')
                os.rename(path, archive)
                self.archived.append((path, archive))
            os.makedirs(path)
        except OSError as error:
            raise InputError(f'Folder {path} cannot be made: {error.strerror}. Make the folder above it writable, or '
                             'run in another one.') from error

    @master_only
    def copy_option_file(self, option_file: str, experiments_root: str) -> None:
        """Take the place of BasicSR's `copy_opt_file` (utils/options.py)."""
        refuse_links(experiments_root, self.renames)
        for folder in ('models', 'training_states'):  # which BasicSR does not make where training resumes: there, the
            (Path(experiments_root) / folder).mkdir(parents=True, exist_ok=True)  # name may still be a new one
        file = Path(experiments_root) / Path(option_file).name
        self.before = _listing(experiments_root)
        self.option_copy = (file, file.read_bytes() if file.is_file() else None)
        head = f'# GENERATE TIME: {time.asctime()}\n# CMD:\n# {" ".join(sys.argv)}\n\n'
        write_bytes(file, (head + self.option_text).encode())

    def put_back(self) -> None:
        """Undo all this, unless the run has made something: a checkpoint, an image, a report. Logs are kept."""
        folders = [path for path, _ in self.archived]
        if self.option_copy is not None:
            folders.append(self.option_copy[0].parent)
        if any(self._is_new(file, entry) for folder in folders for file, entry in _listing(folder).items()):
            return
        if self.option_copy is not None and self.option_copy[1] is not None:
            write_bytes(*self.option_copy)
        for path, archive in reversed(self.archived):
            for log in Path(path).rglob('*.log'):
                os.replace(log, _free_name(Path(archive) / log.name))
            shutil.rmtree(path)
            os.rename(archive, path)

    @contextmanager
    def put_back_on_error(self) -> Iterator[None]:
        """Within it every exception puts the folders back."""
        try:
            yield
        except BaseException:
            self.put_back()
            raise

    def _is_new(self, file, entry):
        return not file.endswith(NOTES) and 'events.out.tfevents' not in file and self.before.get(file) != entry


def _listing(folder):
    files = [path for path in Path(folder).rglob('*') if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _free_name(path):
    while path.exists():
        path = path.with_name(f'{path.stem}_{path.suffix}')
    return path
