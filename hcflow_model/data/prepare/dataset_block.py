"""The `datasets` block of an option file for prepared data."""
import math
from pathlib import Path

from hcflow_model.utils.files import real_path

from .settings import Settings

PAPER = {'gt_size': 160, 'use_hflip': True, 'num_worker_per_gpu': 6, 'batch_size_per_gpu': 16,
         'dataset_enlarge_ratio': 1}  # of its recipes
DISCRIMINATOR_STEP = 32  # patches of GAN training are a multiple of it


def dataset_block(out: Path, settings: Settings, sizes: dict[str, dict[str, tuple[int, int]]], lmdb: bool,
                  recipe: dict | None = None) -> dict:
    """Options that train on the data, ready for `yaml.safe_dump`.

    Args:
        out: Folder of the data, as it is to stand in the options.
        settings: What was asked for.
        sizes: {folder: {file name without ending: (height, width)}}.
        lmdb: Train from the LMDBs.
        recipe: `datasets.train` of an option file, whose patches, flips, batches and loader are kept as far as the data
            allows. Default: None, the paper's.

    Returns:
        {'datasets': {'train': …, 'val': …}}; without val where no images were kept for it.
    """
    name = real_path(out).name
    place = _place(out, settings, 'train', lmdb)
    if recipe and recipe['type'] == 'RealESRGANDataset':  # of HR images, with settings of its own
        place = {key: value for key, value in place.items() if key != 'dataroot_lq'} | {'type': recipe['type']}
    train_sizes = sizes[settings.folders('train')[0]]
    kept = recipe or {**PAPER, 'use_rot': settings.hr_only}
    order = ('gt_size', 'use_hflip', 'use_rot')
    kept = {key: kept[key] for key in (*order, *kept) if key not in ('name', 'meta_info_file', 'filename_tmpl', *place)}
    train = {
        'name': name, **place, **kept, 'gt_size': _patch_size(min(map(min, train_sizes.values())), settings.scale,
                                                              kept['gt_size']),
        'dataset_enlarge_ratio': max(math.ceil(kept['batch_size_per_gpu'] / len(train_sizes)),  # a batch at least
                                     kept['dataset_enlarge_ratio']),
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


def _patch_size(smallest, scale, wanted):
    if smallest >= wanted:
        return wanted
    step = DISCRIMINATOR_STEP if smallest >= DISCRIMINATOR_STEP else scale
    return smallest // step * step
