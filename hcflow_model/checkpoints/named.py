"""Networks by name: released by the method's authors and fetched when they are first used, or part of this package."""
import difflib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from tqdm import tqdm

from hcflow_arch.errors import InputError
from hcflow_model.utils.errors import DISK_ERRORS
from hcflow_model.utils.files import file_hash, write_bytes

RELEASE = 'https://github.com/JingyunLiang/HCFlow/releases/download/v0.0'
BUNDLED = Path(__file__).parents[1] / 'weights_data'
ENDINGS = ('', '.pth', '.safetensors')
TRIES, TIMEOUT = 3, 30  # seconds without a byte
BLOCK, MAX_BYTES = 2**18, 2**30


class Named(NamedTuple):
    """A network that is known by name.

    Attributes:
        about: What it does, in a few words.
        file: Name of its file: in the release, and then in the cache, or in `BUNDLED`.
        arguments: Of HCFlowNet, as far as names and shapes tell them; a fetched file is held against them.
        bundled: Whether it comes with the package. Default: False.
    """
    about: str
    file: str
    arguments: dict
    bundled: bool = False


_SR = {'task': 'sr', 'num_flow_steps': 13, 'num_cond_steps': 13, 'hidden_channels': 64, 'num_feat': 64,
       'num_grow_ch': 32}
_X4, _X8 = {**_SR, 'scale': 4, 'num_block': (7, 7)}, {**_SR, 'scale': 8, 'num_block': (5, 5)}
_RESCALING = {'task': 'rescaling', 'scale': 4, 'num_flow_steps': 8, 'num_cond_steps': 6, 'hidden_channels': 64,
              'num_feat': 64, 'num_block': (2, 1), 'num_grow_ch': 16, 'num_subnet_grow_ch': 32}
_LOSSES = {'': 'trained on likelihood', '+': 'also on an L1 loss', '++': 'also on perceptual and GAN losses'}
NAMED = {
    # figures: PSNR-Y on the photographs of docs/networks.md that were held out, at temperature 0; bicubic has 28.29 dB
    'x4': Named('super-resolution x4, small: 29.43 dB', 'x4.safetensors', {'task': 'sr', 'scale': 4}, bundled=True),
    'rescaling-x4': Named('rescaling x4, small: 32.86 dB', 'rescaling-x4.safetensors',
                          {'task': 'rescaling', 'scale': 4}, bundled=True),
    'rescaling-x4-jpeg': Named('rescaling x4, small, through JPEG 90: 29.11 dB', 'rescaling-x4-jpeg.safetensors',
                               {'task': 'rescaling', 'scale': 4}, bundled=True),
    **{f'SR_DF2K_X4_HCFlow{mark}': Named(f'super-resolution x4, {losses}', f'SR_DF2K_X4_HCFlow{mark}.pth', _X4)
       for mark, losses in _LOSSES.items()},
    **{f'SR_CelebA_X8_HCFlow{mark}': Named(f'faces x8, {losses}', f'SR_CelebA_X8_HCFlow{mark}.pth', _X8)
       for mark, losses in _LOSSES.items()},
    'Rescaling_DF2K_X4_HCFlow': Named('rescaling x4', 'Rescaling_DF2K_X4_HCFlow.pth', _RESCALING),
}

DEFAULTS = {'sr': 'x4', 'rescaling': 'rescaling-x4'}  # for a task, where no network is named


def bundled(task: str) -> list[str]:
    """The networks of this package for a task, its default first."""
    return [name for name, named in NAMED.items() if named.bundled and named.arguments['task'] == task]


def cache_folder() -> Path:
    """Where fetched files are kept: HCFLOW_HOME, else `hcflow` in the platform's cache."""
    if os.environ.get('HCFLOW_HOME'):
        return Path(os.path.expanduser(os.environ['HCFLOW_HOME']))
    if sys.platform == 'win32':
        base = os.environ.get('LOCALAPPDATA') or '~/AppData/Local'
    else:
        base = '~/Library/Caches' if sys.platform == 'darwin' else os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.path.expanduser(base)) / 'hcflow'


def release() -> str:
    """Where the released files are: the authors' release, or the mirror of it that HCFLOW_RELEASE names."""
    return os.environ.get('HCFLOW_RELEASE') or RELEASE


def find_named(name: str) -> Path | None:
    """The file of a name, looked for in the current folder, experiments/pretrained_models and the cache folder.

    None: it is in none of them.
    """
    if NAMED[name].bundled:
        return BUNDLED / NAMED[name].file
    folders = Path(), Path('experiments', 'pretrained_models'), cache_folder()
    return next((path for folder in folders for ending in ENDINGS if (path := folder / f'{name}{ending}').is_file()),
                None)


def weights_path(path: str | os.PathLike) -> Path:
    """The file or folder that a path or a name means; what is only named and not here is fetched.

    Args:
        path: A file or folder, which is given back as it is, or a name of `NAMED`, also with the ending of its file.
            The name of a network of this package always means it; a file or folder of that name is ./NAME.

    Raises:
        InputError: A bare name that is neither, or a file that cannot be fetched or is not what it should be.
    """
    if os.fspath(path) in NAMED and NAMED[os.fspath(path)].bundled:
        return find_named(os.fspath(path))
    path = Path(path)
    if os.path.exists(path) or len(path.parts) != 1:
        return path
    name = next((name for name, named in NAMED.items() if str(path) in (name, named.file)), None)
    if name is None:
        close = difflib.get_close_matches(path.stem, NAMED, 1)
        raise InputError(f'Checkpoint {path} does not exist, and no network has this name'
                         f'{f" (did you mean {close[0]}?)" if close else ""}. Check its path; hcflow weights lists the '
                         'names.')
    return find_named(name) or fetch(name)


def use_named(opt: dict) -> None:
    """Replace a name in `path.pretrain_network_g` of options by its file; a path, there or not, stays."""
    value = (opt.get('path') or {}).get('pretrain_network_g')
    if isinstance(value, str) and any(value in (name, named.file) for name, named in NAMED.items()):
        opt['path']['pretrain_network_g'] = str(weights_path(value))


def fetch(name: str) -> Path:
    """Download a released file into the cache folder, once, however many processes ask for it.

    A download that broke off goes on where it stopped. The file gets its name when it is whole, loads without
    unpickling code, and has the names and shapes of its network; its SHA-256 is written beside it.

    Raises:
        InputError: It cannot be fetched, written, or is not this network.
    """
    folder, file = cache_folder(), NAMED[name].file
    path, part = folder / file, folder / f'.{file}.part'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f'.{file}.lock'):
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(name, part)
                _check(name, part)
                write_bytes(_hash_file(path), f'{file_hash(str(part))}  {file}\n'.encode())
                os.replace(part, path)
    except OSError as error:
        raise InputError(f'Cannot write {error.filename or part}: {error.strerror}. Free some space, or set '
                         'HCFLOW_HOME to a folder that can be written.') from error
    return path


def fetched_hash(path: Path) -> str | None:
    """The SHA-256 that a file had when it was fetched; None where none is kept."""
    try:
        return _hash_file(path).read_text(encoding='ascii', errors='replace').split()[0]
    except (OSError, IndexError):
        return None


def _address(name):
    return f'{release()}/{NAMED[name].file}'


def _hash_file(path):
    return path.with_name(f'{path.name}.sha256')  # as sha256sum -c reads it


def _download(name, part):
    """Fetch into a file, on from what it has; tries again where the connection breaks."""
    for attempt in range(TRIES):
        try:
            _receive(name, part)
            return
        except urllib.error.HTTPError as error:
            reason = f'HTTP {error.code} {error.reason}'
            if error.code == 416 and part.stat().st_size:  # nothing comes after what is here
                if error.headers.get('Content-Range') == f'bytes */{part.stat().st_size}':
                    return
                part.unlink()
            elif error.code < 500:
                break
        except InputError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: HCFLOW_RELEASE is no address
            if getattr(error, 'errno', None) in DISK_ERRORS or getattr(error, 'filename', None):
                raise
            reason = getattr(error, 'reason', None) or str(error) or type(error).__name__
            if attempt == 0 and isinstance(error, (urllib.error.URLError, ValueError)):  # no connection at all
                break
    size = part.stat().st_size if part.exists() else 0
    raise InputError(
        f'{name} cannot be fetched from {_address(name)}: {reason}. Run the same command again when there is a '
        f'connection{f", it goes on after {size / 1e6:.1f} MB" if size else ""}; or download that file by other means '
        f'and put it into {cache_folder()} or the current folder.')


def _receive(name, part):
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(_address(name), headers={
        'User-Agent': 'hcflow', **({'Range': f'bytes={start}-'} if start else {})})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        start = start if response.status == 206 else 0  # else the server sends all of it again
        length = response.headers.get('Content-Length')
        total = start + int(length) if length else None
        with open(part, 'ab' if start else 'wb') as file, \
                tqdm(total=total, initial=start, desc=name, unit='B', unit_scale=True) as bar:
            while file.tell() <= MAX_BYTES and (block := response.read(BLOCK)):
                bar.update(file.write(block))
            size = file.tell()
    if size > MAX_BYTES:
        part.unlink()
        raise InputError(f'{_address(name)} sends more than {MAX_BYTES} bytes; that is not {name}.')
    if total is not None and size < total:
        raise http.client.HTTPException(f'the connection broke after {size} of {total} bytes')


def _check(name, part):
    """Whether a downloaded file is what it should be; removes it where it is not."""
    import torch

    from hcflow_arch import HCFlowNet, load_official_state_dict

    from .files import check_names_and_shapes
    try:
        state_dict, arguments = load_official_state_dict(part)
        if arguments != NAMED[name].arguments:
            raise InputError(f'it is a network of {arguments}.')
        with torch.device('meta'):  # names and shapes alone
            net = HCFlowNet(**arguments)
        check_names_and_shapes(net, state_dict, part)
    except InputError as error:
        part.unlink()
        raise InputError(f'What {_address(name)} sent is not {name}: {error} Nothing of it was kept; run the same '
                         'command again.') from error
