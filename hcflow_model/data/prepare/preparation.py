"""A whole preparation: which images are still to do, the processes that do them, LMDBs, the check of everything."""
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from hcflow_arch import InputError
from hcflow_model.images.files import set_log_level

from .images import png_file_size, prepare_image
from .packing import lmdb_of, lmdb_problem, pack_folder
from .settings import (
    FINISHED_FILE,
    SETTINGS_FILE,
    Settings,
    as_text,
    cannot_write,
    read_finished,
    read_settings,
    write_settings,
    write_whole,
)
from .sources import plain_name, usable


class Prepared(NamedTuple):
    """What a run did.

    Attributes:
        settings: With the images that were chosen for validation.
        sizes: {folder: {file name without ending: (height, width)}} of all that is there now.
        done: Number of images done by this run.
        skipped: Number of images that an earlier run had finished.
        left_out: {image: why}.
        lmdb: Whether there are LMDBs.
        dropped: Number of sub-images with less detail than asked for.
    """
    settings: Settings
    sizes: dict[str, dict[str, tuple[int, int]]]
    done: int
    skipped: int
    left_out: dict[str, str]
    lmdb: bool
    dropped: int = 0


def prepare(items: list, out: Path, settings: Settings, lmdb: bool = False, workers: int = 1, overwrite: bool = False,
            progress: bool = True) -> Prepared:
    """Write modcropped HR images and their bicubic LR images, or sub-images of them, and check what was written.

    A run that was stopped is continued: what is finished is skipped, unless its source changed. Files stand under
    their final names only when they are whole.

    Args:
        items: Images, from :func:`find_images`.
        out: Folder of the data set, new or of an earlier run.
        settings: What is asked for.
        lmdb: Also pack the training images into LMDBs (kept up to date where there are some). Default: False.
        workers: Number of processes. Default: 1.
        overwrite: Remove what an earlier run made first. Default: False.
        progress: Show bars with ETA. Default: True.

    Raises:
        InputError: The folder holds other data or other settings, no image can be used, no space is left.
    """
    try:
        return _prepare(items, out, settings, lmdb, workers, overwrite, progress)
    except OSError as error:  # of images it is LeftOut
        raise cannot_write(error.filename or out, error) from error


def _prepare(items, out, settings, lmdb, workers, overwrite, progress):
    settings = _settle(items, out, settings, overwrite)
    finished = _still_whole(items, out, settings)
    to_do = [item for item in items if item.name not in finished]
    skipped, left_out = len(finished), {}
    with open(out / FINISHED_FILE, 'a', encoding='utf-8') as journal, \
            tqdm(total=len(items), initial=skipped, desc='images', unit='img', disable=not progress) as bar:
        for item, result in _run(partial(prepare_image, settings=settings, out=out), to_do, workers):
            if isinstance(result, str):
                left_out[str(item)] = result
            else:
                finished[item.name] = result
                journal.write(f'{json.dumps(result)}\n')
                journal.flush()
            bar.update()
    sizes = _sizes(settings, finished)
    dropped = sum(len(record.get('dropped', ())) for record in finished.values())
    if not sizes.get(settings.folders('train')[0]):
        what = 'None of the images' if not finished else 'No image for training'
        _remove(out, settings)  # the next run is free to take other settings
        if dropped:
            raise InputError(f'None of {dropped} sub-images has the detail that --min_detail '
                             f'{as_text(settings.min_detail)} asks for; take less.')
        raise InputError(f'{what} could be used: {_first_reason(left_out)}.')
    _check_folders(out, sizes)
    lmdb = lmdb or any(lmdb_of(out / folder).exists() for folder in settings.folders('train'))
    if lmdb:
        _pack(out, settings, sizes, progress)
    return Prepared(settings, sizes, len(finished) - skipped, skipped, left_out, lmdb, dropped)


def _settle(items, out, settings, overwrite):
    """The settings with their validation images, stored, after comparing them with those of an earlier run."""
    names = [item.name for item in items]
    if settings.val_images:
        chosen = _named_val_images(names, settings.val_images)
        settings = replace(settings, val_images=chosen, val=len(chosen))
    old = read_settings(out)
    if old is not None and overwrite:
        _remove(out, old)
        old = None
    if old is None:
        settings = replace(settings, val_images=settings.val_images or _choose_val_images(items, settings))
    else:
        _compare(out, old, settings)
        settings = old  # a folder that grew keeps its validation images
        gone = sorted({*read_finished(out)} - {*names})
        if gone:
            raise InputError(f'{out} also has images that are not in the input any more: {", ".join(gone[:3])} '
                             f'({len(gone)} in all). Put them back, give another output folder, or --overwrite.')
    out.mkdir(parents=True, exist_ok=True)
    for part in ('train', 'val')[:2 if settings.val else 1]:
        for folder in settings.folders(part):
            (out / folder).mkdir(exist_ok=True)
    write_settings(out, settings)
    return settings


def _choose_val_images(items, settings):
    """Names of `settings.val` readable images, by a hash of their names: spread, and the same every time."""
    chosen = []
    for item in sorted(items, key=lambda item: hashlib.sha256(item.name.encode()).digest()):
        if len(chosen) < settings.val and usable(item, settings.scale / settings.val_resize):
            chosen.append(item.name)
    if len(chosen) < settings.val or settings.val >= len(items):
        raise InputError(f'--val is {settings.val}, too many for {len(items)} images, of which some must be left for '
                         'training and broken ones do not count; take fewer.')
    return tuple(sorted(chosen))


def _named_val_images(names, wanted):
    """Names of images that are named as they are or as their files, with or without ending."""
    chosen = set()
    for text in wanted:
        found = [name for name in (plain_name(text), plain_name(os.path.splitext(text)[0])) if name in names]
        if not found:
            raise InputError(f'--val_names: no image is called {text}; there are {", ".join(names[:5])}'
                             f'{" and others" if len(names) > 5 else ""}.')
        chosen.add(found[0])
    if len(chosen) == len(names):
        raise InputError('--val_names names all images; some must be left for training.')
    return tuple(sorted(chosen))


def _compare(out, old, new):
    for key in ('scale', 'crop', 'step', 'thresh', 'hr_only', 'val_images' if new.val_images else 'val', 'resize',
                'min_detail', 'val_resize'):
        before, now = getattr(old, key), getattr(new, key)
        if before != now:
            option = 'val_names' if key == 'val_images' else key
            raise InputError(f'{out} was made with --{option} {as_text(before)}, now it is {as_text(now)}; give the '
                             'same settings to go on, another output folder, or --overwrite to make it again.')


def _remove(out, settings):
    """Remove what an earlier run made, its settings last: a kill in between leaves them."""
    for folder in (*settings.folders('train'), *settings.folders('val')):
        for path in (out / folder, lmdb_of(out / folder)):
            shutil.rmtree(path, ignore_errors=True)
    for file in (FINISHED_FILE, SETTINGS_FILE):
        (out / file).unlink(missing_ok=True)


def _still_whole(items, out, settings):
    """{name: record} of the images that need not be done again; what the others left is removed."""
    stamps = {item.name: item.stamp() for item in items}
    whole = {}
    for name, record in read_finished(out).items():
        files = {out / folder / f'{stem}.png': size for folder, sizes in _files(settings, record).items()
                 for stem, size in sizes.items()}
        if record['stamp'] == stamps[name] and all(png_file_size(file) == size for file, size in files.items()):
            whole[name] = record
        else:  # the new version may be smaller and have fewer sub-images
            for file in files:
                file.unlink(missing_ok=True)
    write_whole(out / FINISHED_FILE, ''.join(f'{json.dumps(record)}\n' for record in whole.values()).encode())
    return whole


def _files(settings, record):
    return settings.sizes(record['name'], *record['size'], record.get('dropped', ()))


def _run(function: Callable, items: list, workers: int) -> Iterator[tuple]:
    """(item, function(item)) as they are done, in several processes; in this one where `workers` is 1.

    Where the system kills a process, most likely for want of memory, one process goes on, and the images at which that
    is killed as well are left out.
    """
    if workers == 1 or len(items) < 2:
        yield from ((item, function(item)) for item in items)
        return
    # where it is safe, forked: a new Python would need seconds to import all again
    method = multiprocessing.get_start_method(allow_none=True) or ('fork' if sys.platform == 'linux' else None)
    left = dict.fromkeys(items)
    while left:
        pool = ProcessPoolExecutor(min(workers, len(left)), multiprocessing.get_context(method), _start_worker)
        try:
            for item, result in _results(pool, function, list(left), workers):
                del left[item]
                yield item, result
        except BrokenProcessPool:
            if workers == 1:
                item = next(iter(left))
                del left[item]
                yield item, 'needs more memory than there is, most likely: its process was killed'
            workers = 1
        finally:
            pool.shutdown(cancel_futures=True)


def _results(pool, function, items, workers):
    if workers == 1:  # one by one, so that it is known which of them the process was killed at
        yield from ((item, pool.submit(function, item).result()) for item in items)
        return
    futures = {pool.submit(function, item): item for item in items}
    for future in as_completed(futures):
        yield futures.pop(future), future.result()


def _start_worker():
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # the processes are the parallelism
    set_log_level(0)  # a broken image is named once, in the report
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends them


def _end_with_parent():
    """However the parent ended: after SIGKILL nobody else would tell this process."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _first_reason(left_out):
    item, reason = next(iter(left_out.items()))
    return f'{item} {reason}'


def _sizes(settings, finished):
    sizes = {}
    for name in sorted(finished, key=lambda name: (settings.part_of(name), name)):
        for folder, files in _files(settings, finished[name]).items():
            sizes.setdefault(folder, {}).update(files)
    return sizes


def _check_folders(out, sizes):
    """Every folder holds exactly its files, all whole and of their size: BasicSR pairs them by name."""
    for folder, files in sizes.items():
        there = {name for name in os.listdir(out / folder) if not name.startswith('.')}
        strange = sorted(there ^ {f'{stem}.png' for stem in files})
        if strange:
            raise InputError(f'{out / folder} should hold {len(files)} images and holds {len(there)} files; '
                             f'{strange[0]} is one that it should not hold, or lacks. Move away what hcflow prepare '
                             'did not write, and run the same command again.')
        for stem, size in files.items():
            if png_file_size(out / folder / f'{stem}.png') != size:
                raise InputError(f'{out / folder / stem}.png is not a whole PNG of {size[0]}x{size[1]}; run the same '
                                 'command again. If that does not help, the disk may be damaged.')


def _pack(out, settings, sizes, progress):
    folders = settings.folders('train')
    count = sum(len(sizes[folder]) for folder in folders)
    with tqdm(total=count, desc='LMDB', unit='img', disable=not progress) as bar:
        for folder in folders:
            if lmdb_problem(lmdb_of(out / folder), out / folder, sizes[folder]) is None:
                bar.update(len(sizes[folder]))
            else:
                pack_folder(out / folder, sizes[folder], bar.update)
