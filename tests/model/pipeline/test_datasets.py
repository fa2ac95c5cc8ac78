"""Folders of pairs: BasicSR's own pairs where all have partners, and those without partners where it refuses."""
import math
import os

import basicsr.data
import pytest
import torch
from basicsr.data import paired_image_dataset, prefetch_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.data_util import paired_paths_from_folder
from basicsr.data.prefetch_dataloader import CPUPrefetcher

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.data.pairs import paired_paths
from hcflow_model.options.check_datasets import check_dataset
from hcflow_model.pipeline.datasets import PrefetchGenerator, build_dataloader, dataset_builder
from hcflow_model.pipeline.repairs import replaced


def write(root, lq_names, gt_names):
    for folder, names in (('lq', lq_names), ('gt', gt_names)):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).touch()
    return [str(root / 'lq'), str(root / 'gt')]


@pytest.mark.parametrize(('template', 'names'), [
    ('{}', ['b.png', 'a.png', 'c.jpg']), ('{}x4', ['bx4.png', 'ax4.png', 'cx4.jpg']), ('LR_{}', ['LR_b.png', 'LR_a.png',
                                                                                                 'LR_c.jpg'])])
def test_whole_folders(template, names, tmp_path):
    folders = write(tmp_path, names, ['b.png', 'a.png', 'c.jpg'])
    pairs = paired_paths(folders, ['lq', 'gt'], template)
    theirs = paired_paths_from_folder(folders, ['lq', 'gt'], template)
    assert pairs == sorted(theirs, key=lambda pair: pair['gt_path']) and len(pairs) == 3


def test_partners_that_are_missing(tmp_path):
    lq, gt = folders = write(tmp_path, ['ax4.png', 'dx4.png', 'bx4.png'], ['c.png', 'a.png', 'b.png'])
    assert paired_paths(folders, ['lq', 'gt'], '{}x4') == [
        {'lq_path': f'{lq}/{name}x4.png', 'gt_path': f'{gt}/{name}.png'} for name in 'abcd']
    (tmp_path / 'lq' / 'bx4.png').rename(tmp_path / 'lq' / 'b.png')  # not of the template: no second pair
    assert paired_paths(folders, ['lq', 'gt'], '{}x4') == [
        {'lq_path': f'{lq}/{name}x4.png', 'gt_path': f'{gt}/{name}.png'} for name in 'abcd']


@pytest.mark.parametrize('phase', ['val', 'test', 'train'])
@pytest.mark.parametrize('whole_pairs', [False, True])
def test_only_training_is_refused_unless_the_model_needs_whole_pairs(phase, whole_pairs, tmp_path):
    lq, gt = write(tmp_path, ['a.png', 'b.png', 'd.png'], ['a.png', 'b.png', 'c.png'])
    opt = {'name': 'set', 'type': 'PairedImageDataset', 'phase': phase, 'scale': 4, 'io_backend': {'type': 'disk'},
           'dataroot_gt': gt, 'dataroot_lq': lq}
    build_dataset = dataset_builder(whole_pairs)
    if phase == 'train' or whole_pairs:
        with pytest.raises(InputError, match=r'^Dataset set: c\.png is not in lq_paths'):
            build_dataset(opt)
    else:
        dataset = build_dataset(opt)
        assert isinstance(dataset, NamedErrors)
        assert [pair['gt_path'] for pair in dataset.paths] == [f'{gt}/{name}.png' for name in 'abcd']
    assert paired_image_dataset.paired_paths_from_folder is paired_paths_from_folder


def options_of(kind, lq, gt, **changes):
    return {'name': 'set', 'type': kind, 'phase': 'train', 'scale': 4, 'io_backend': {'type': 'disk'},
            'dataroot_gt': gt, 'dataroot_lq': lq, 'gt_size': 8, 'use_hflip': True, 'use_rot': True, **changes}


DATASETS = ['PairedImageDataset', 'SingleImageDataset', 'HROnlyDataset']


@pytest.mark.parametrize('kind', DATASETS)
@pytest.mark.parametrize('text', ['b.png\na.png (8,8,3)\n', 'b.png (8,8,3) 1\na.png 1'])
def test_lists_are_read_as_basicsr_reads_them(kind, text, tmp_path):
    lq, gt = write(tmp_path, ['a.png', 'b.png', 'c.png'], ['a.png', 'b.png', 'c.png'])
    (tmp_path / 'meta.txt').write_text(text)
    opt = options_of(kind, lq, gt, meta_info_file=str(tmp_path / 'meta.txt'))
    paths = dataset_builder(whole_pairs=True)(opt).paths
    assert paths == basicsr.data.build_dataset(opt).paths and len(paths) == 2


@pytest.mark.parametrize('kind', DATASETS)
def test_lists_of_other_forms(kind, tmp_path):
    """What BasicSR's readers take for parts of names, or for names of their own."""
    lq, gt = write(tmp_path, ['caf\udce9.png', 'b.png'], ['caf\udce9.png', 'b.png'])
    (tmp_path / 'meta.txt').write_bytes(b'\xef\xbb\xbfcaf\xe9.png\t(8,8,3)\r\n\r\n  b.png\t(8,8,3)\r\n \t\n')
    opt = options_of(kind, lq, gt, meta_info_file=str(tmp_path / 'meta.txt'))
    check_dataset('datasets.train', {**opt, 'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0}, {'scale': 4})
    paths = dataset_builder(whole_pairs=True)(opt).paths
    names = [path['lq_path'] if isinstance(path, dict) else path for path in paths]
    assert [os.path.basename(name) for name in names] == ['caf\udce9.png', 'b.png']
    if kind == 'PairedImageDataset':
        assert [os.path.basename(path['gt_path']) for path in paths] == ['caf\udce9.png', 'b.png']


@pytest.mark.parametrize('kind', DATASETS)
@pytest.mark.parametrize('whole_pairs', [False, True])
@pytest.mark.parametrize('phase', ['train', 'val'])
def test_other_files_are_no_images(kind, phase, whole_pairs, tmp_path):
    names = ['a.png', 'b.JPG', 'Thumbs.db', 'desktop.ini', '.DS_Store', 'notes.txt']
    lq, gt = write(tmp_path, names, names)
    dataset = dataset_builder(whole_pairs)(options_of(kind, lq, gt, phase=phase))
    assert sorted(path['gt_path'] if isinstance(path, dict) else path for path in dataset.paths) == [
        f'{lq if kind == "SingleImageDataset" else gt}/{name}' for name in names[:2]]


@pytest.mark.parametrize('kind', DATASETS)
def test_lists_of_lmdbs(kind, tmp_path):
    folders = []
    for name in ('lq', 'gt'):
        folders.append(tmp_path / f'{name}.lmdb')
        folders[-1].mkdir()
        (folders[-1] / 'meta_info.txt').write_text('b.png (8,8,3) 1\n\n a.png\t(8,8,3) 1\n \n')
    opt = options_of(kind, *map(str, folders), io_backend={'type': 'lmdb'})
    keys = [path['lq_path'] if isinstance(path, dict) else path for path in dataset_builder(True)(opt).paths]
    assert keys == ['a', 'b'] if kind == 'PairedImageDataset' else ['b', 'a']
    (folders[0] / 'meta_info.txt').write_text('c.png (8,8,3) 1\n')
    if kind == 'PairedImageDataset':
        with pytest.raises(InputError, match=r"do not hold the same keys; \['a', 'b', 'c'\] are in one only"):
            dataset_builder(True)(opt)


def test_prefetching_ends_and_fails():
    """BasicSR's thread would leave the training waiting for ever."""
    def broken():
        yield 1
        raise InputError('image a')

    generator = PrefetchGenerator(broken(), 1)
    assert next(generator) == 1
    with pytest.raises(InputError, match='image a'):
        next(generator)
    assert list(PrefetchGenerator(iter([1, 2]), 2)) == [1, 2]


class Counted:
    """An iterator over 0, 1, ... that knows how often it was asked."""
    def __init__(self):
        self.asked = 0

    def __next__(self):
        self.asked += 1
        return self.asked - 1

    def __iter__(self):
        return self


def test_only_the_generator_that_is_used_reads():
    """BasicSR's prefetchers make two of one loader; with persistent workers both would read from one iterator."""
    class Loader(list):
        def __iter__(self):
            self.append(Counted())
            return PrefetchGenerator(self[-1], 1)

    loader = Loader()
    prefetcher = CPUPrefetcher(loader)
    prefetcher.reset()
    assert [prefetcher.next() for _ in range(3)] == [0, 1, 2]
    unused, used = list.__iter__(loader)
    assert unused.asked == 0 and used.asked >= 3


def test_persistent_workers_with_prefetching():
    opt = {'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 2, 'prefetch_mode': 'cpu',
           'num_prefetch_queue': 1, 'persistent_workers': True, 'pin_memory': torch.cuda.is_available()}
    with replaced([(prefetch_dataloader, 'PrefetchGenerator', PrefetchGenerator)]):
        loader = build_dataloader(torch.utils.data.TensorDataset(torch.arange(8)), opt, seed=0, num_gpu=0)
        prefetcher = CPUPrefetcher(loader)
        for _ in range(3):
            prefetcher.reset()
            batches = list(iter(prefetcher.next, None))
            assert sorted(torch.cat([batch[0] for batch in batches]).tolist()) == list(range(8))


@pytest.mark.parametrize(('images', 'ratio', 'batch', 'world', 'enough'), [
    (1, 4, 4, 1, 4), (1, 4, 4, 2, 8), (3, 1, 4, 1, 2), (8, 1, 4, 2, 1), (8, 1, 4, 3, 2), (5, 0.1, 1, 1, 1),
    (5, 0.5, 3, 1, 1), (1, 1, 1, 8, 8)])
def test_an_epoch_without_a_batch_is_refused(images, ratio, batch, world, enough, monkeypatch):
    """On every process, however the images are shared; what is advised is enough."""
    dataset = torch.utils.data.TensorDataset(torch.arange(images))

    def build(rank, ratio):
        opt = {'phase': 'train', 'batch_size_per_gpu': batch, 'num_worker_per_gpu': 0, 'dataset_enlarge_ratio': ratio}
        sampler = EnlargedSampler(dataset, world, rank, ratio)
        return build_dataloader(dataset, opt, num_gpu=0, dist=world > 1, sampler=sampler, seed=0)

    monkeypatch.setattr('hcflow_model.pipeline.datasets.get_dist_info', lambda: (0, world))
    for rank in range(world):
        assert len(build(rank, enough)) > 0
        if math.ceil(images * ratio / world) >= batch:
            assert len(build(rank, ratio)) > 0
        else:
            with pytest.raises(InputError, match=f"'datasets.train': {images} images.* nothing would be trained. Set "
                               f'dataset_enlarge_ratio to {enough} or more'):
                build(rank, ratio)
