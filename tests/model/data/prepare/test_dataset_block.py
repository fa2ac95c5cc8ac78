"""The block that is printed for option files."""
from pathlib import Path

import pytest

from hcflow_model.data.prepare import Settings
from hcflow_model.data.prepare.dataset_block import dataset_block

OUT = Path('datasets') / 'photos'


def block(settings, train, val=None, lmdb=False):
    parts = {'train': train} if val is None else {'train': train, 'val': val}
    return dataset_block(OUT, settings, {folder: sizes for part, sizes in parts.items()
                                         for folder in settings.folders(part)}, lmdb)['datasets']


def test_pairs_in_lmdbs_with_validation():
    datasets = block(Settings(4, 480, val=1), {f'a{i}': (480, 480) for i in range(20)}, {'b': (500, 300)}, lmdb=True)
    assert datasets['train'] == {
        'name': 'photos', 'type': 'PairedImageDataset', 'dataroot_gt': 'datasets/photos/train_HR_sub.lmdb',
        'dataroot_lq': 'datasets/photos/train_LR_bicubic_X4_sub.lmdb', 'io_backend': {'type': 'lmdb'}, 'gt_size': 160,
        'use_hflip': True, 'use_rot': False, 'num_worker_per_gpu': 6, 'batch_size_per_gpu': 16,
        'dataset_enlarge_ratio': 1}
    assert datasets['val'] == {
        'name': 'photos_val', 'type': 'PairedImageDataset', 'dataroot_gt': 'datasets/photos/val_HR',
        'dataroot_lq': 'datasets/photos/val_LR_bicubic_X4', 'io_backend': {'type': 'disk'}}


def test_hr_only():
    datasets = block(Settings(4, hr_only=True), {'a': (480, 480)})
    assert list(datasets) == ['train'] and datasets['train']['type'] == 'HROnlyDataset'
    assert datasets['train']['dataroot_gt'] == 'datasets/photos/train_HR' and datasets['train']['use_rot']
    assert 'dataroot_lq' not in datasets['train'] and datasets['train']['io_backend'] == {'type': 'disk'}


@pytest.mark.parametrize(('side', 'gt_size'), [(160, 160), (159, 128), (40, 32), (28, 24), (8, 8)])
def test_patches_fit_into_the_smallest_image(side, gt_size):
    assert block(Settings(8), {'a': (side, 900), 'b': (900, 900)})['train']['gt_size'] == gt_size


@pytest.mark.parametrize(('count', 'ratio'), [(1, 16), (5, 4), (16, 1), (17, 1)])
def test_an_epoch_is_a_batch_or_more(count, ratio):
    train = block(Settings(4), {str(index): (160, 160) for index in range(count)})['train']
    assert train['dataset_enlarge_ratio'] == ratio and count * ratio >= train['batch_size_per_gpu']
