"""Folders of pairs: BasicSR's own pairs where all have partners, and those without partners where it refuses."""
import pytest
from basicsr.data import paired_image_dataset
from basicsr.data.data_util import paired_paths_from_folder

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.data.pairs import paired_paths
from hcflow_model.pipeline.datasets import PrefetchGenerator, dataset_builder


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
