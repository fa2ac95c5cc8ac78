"""The `datasets` block of an option file for prepared data."""
import math
from pathlib import Path

from .settings import Settings

GT_SIZE, BATCH_SIZE = 160, 16  # of the paper's recipes
DISCRIMINATOR_STEP = 32  # patches of GAN training are a multiple of it


def dataset_block(out: Path, settings: Settings, sizes: dict[str, dict[str, tuple[int, int]]], lmdb: bool) -> dict:
    """Options that train on the data, ready for `yaml.safe_dump`.

    Args:
        out: Folder of the data, as it is to stand in the options.
        settings: What was asked for.
        sizes: {folder: {file name without ending: (height, width)}}.
        lmdb: Train from the LMDBs.

    Returns:
        {'datasets': {'train': …, 'val': …}}; without val where no images were kept for it.
    """
    name = out.resolve().name
    train_sizes = sizes[settings.folders('train')[0]]
    train = {
        'name': name, **_place(out, settings, 'train', lmdb),
        'gt_size': _patch_size(min(map(min, train_sizes.values())), settings.scale),
        'use_hflip': True, 'use_rot': settings.hr_only,  # as in the paper's recipes
        'num_worker_per_gpu': 6, 'batch_size_per_gpu': BATCH_SIZE,
        'dataset_enlarge_ratio': math.ceil(BATCH_SIZE / len(train_sizes)),  # 1, or a batch at least
    }
    datasets = {'train': train}
    if sizes.get(settings.folders('val')[0]):
        datasets['val'] = {'name': f'{name}_val', **_place(out, settings, 'val', lmdb=False)}
    return {'datasets': datasets}


def _place(out, settings, part, lmdb):
    ending = '.lmdb' if lmdb else ''
    roots = {key: (out / f'{folder}{ending}').as_posix()
             for key, folder in zip(('dataroot_gt', 'dataroot_lq'), settings.folders(part), strict=False)}
    return {'type': 'HROnlyDataset' if settings.hr_only else 'PairedImageDataset', **roots,
            'io_backend': {'type': 'lmdb' if lmdb else 'disk'}}


def _patch_size(smallest, scale):
    if smallest >= GT_SIZE:
        return GT_SIZE
    step = DISCRIMINATOR_STEP if smallest >= DISCRIMINATOR_STEP else scale
    return smallest // step * step
