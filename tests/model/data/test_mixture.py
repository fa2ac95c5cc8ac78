"""Several folders and LMDBs as one dataset: what an epoch has of each, and going on within one."""
import re
from collections import Counter

import cv2
import pytest
import torch
import yaml
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from helpers import DATA, REMOVED, SMALL_NET, demo_options

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_file
from hcflow_model.data.mixture import Mixture
from hcflow_model.pipeline.datasets import dataset_builder
from hcflow_model.pipeline.sampler import EpochSampler


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Five pairs in a.lmdb and a_lq.lmdb, two in b/ and b_lq/."""
    root = tmp_path_factory.mktemp('folders')
    image = cv2.imread(str(DATA / 'val_gt' / 'tower.png'))
    for name, count in (('a', 5), ('b', 2)):
        for folder, scale in ((root / name, 1), (root / f'{name}_lq', 4)):
            folder.mkdir()
            for number in range(count):
                cv2.imwrite(str(folder / f'{name}{number}.png'), image[number:number + 32, :32][::scale, ::scale])
            if name == 'a':
                make_lmdb_from_imgs(str(folder), f'{folder}.lmdb', [f'a{number}.png' for number in range(5)],
                                    [f'a{number}' for number in range(5)], map_size=2**20)
    return root


def options(folders, kind='PairedImageDataset', phase='train', **changes):
    paths = {'dataroot_gt': [str(folders / 'a.lmdb'), str(folders / 'b')]}
    if kind == 'PairedImageDataset':
        paths['dataroot_lq'] = [str(folders / 'a_lq.lmdb'), str(folders / 'b_lq')]
    return {'name': 'two', 'type': kind, 'phase': phase, 'scale': 4, 'gt_size': 16, 'use_hflip': False,
            'use_rot': False, **paths, **changes}


def names_of(dataset, indices):
    return [re.search(r'[ab]\d', dataset[index]['gt_path']).group() for index in indices]


@pytest.mark.parametrize('kind', ['PairedImageDataset', 'HROnlyDataset'])
def test_an_epoch_has_the_shares(kind, folders):
    dataset = dataset_builder(whole_pairs=False)(options(folders, kind, shares=[3, 1]))
    counts = Counter(names_of(dataset, range(len(dataset))))
    assert counts == {'a0': 2, 'a1': 1, 'a2': 1, 'a3': 1, 'a4': 1, 'b0': 1, 'b1': 1}
    assert dataset[0].keys() >= ({'lq', 'gt'} if kind == 'PairedImageDataset' else {'gt'})
    sampler = EpochSampler(dataset, 1, 0, 2)
    seen = Counter(name[0] for name in names_of(dataset, iter(sampler)))
    assert seen == {'a': 12, 'b': 4}
    EpochSampler.newest = None


def test_without_shares_every_image_comes_once_and_has_its_name(folders):
    dataset = dataset_builder(whole_pairs=False)(options(folders, phase='val'))
    assert names_of(dataset, range(len(dataset))) == ['a0', 'a1', 'a2', 'a3', 'a4', 'b0', 'b1']
    assert len(dataset.paths) == 7 and dataset.opt['name'] == 'two'


@pytest.mark.parametrize(('sizes', 'shares', 'counts'), [
    ([4, 4], [3, 1], [12, 4]), ([4, 4], [1, 1], [4, 4]), ([10, 2, 3], [0.5, 0.25, 0.25], [10, 5, 5]),
    ([1, 7], [1, 1], [7, 7])])
def test_every_image_of_every_part_comes(sizes, shares, counts):
    parts = [[(part, index) for index in range(size)] for part, size in enumerate(sizes)]
    mixture = Mixture(parts, {'name': 'parts'}, shares)
    seen = Counter(mixture[index] for index in range(len(mixture)))
    assert len(seen) == sum(sizes)
    assert [sum(count for (part, _), count in seen.items() if part == number) for number in range(len(sizes))] == counts
    for number in range(len(sizes)):
        times = [count for (part, _), count in seen.items() if part == number]
        assert max(times) - min(times) <= 1


def test_shares_that_make_an_epoch_endless():
    with pytest.raises(InputError, match='parts: by its shares .1, 1000000000., an epoch has'):
        Mixture([[0], [0]], {'name': 'parts'}, [1, 10 ** 9])


# ---- through the command ----

@pytest.fixture
def run(command, folders):
    def run(changes, *arguments):
        lists = {f'datasets.train.{key}': value for key, value in options(folders).items()
                 if key.startswith('dataroot')}
        opt = demo_options({
            **SMALL_NET, **lists, 'name': 'shares', 'datasets.train.shares': [3, 1], 'datasets.train.gt_size': 16,
            'datasets.train.io_backend': REMOVED, 'datasets.train.num_worker_per_gpu': 0, 'train.warmup_iter': -1,
            'datasets.train.dataset_enlarge_ratio': 1, 'datasets.train.batch_size_per_gpu': 2, 'datasets.val': REMOVED,
            'val': REMOVED, 'train.total_iter': 6, 'train.pixel_opt': REMOVED, 'logger.print_freq': 1,
            'logger.save_checkpoint_freq': 2, 'logger.use_tb_logger': False, **changes})
        with open('opt.yml', 'w') as file:
            yaml.safe_dump(opt, file, sort_keys=False)
        return command('train', '-opt', 'opt.yml', *arguments)
    return run


@pytest.mark.slow
def test_a_training_goes_on_within_an_epoch_exactly(run, tmp_path):
    code, output, errors = run({})
    assert code == 0 and 'Number of train images: 8' in output + errors, output + errors
    wanted = load_file('experiments/shares/models/net_g_6.pth')['params']
    for path in tmp_path.rglob('*'):
        if re.search(r'net_g_[46]\.pth|[46]\.state', path.name):
            path.unlink()
    code, output, errors = run({}, '--auto_resume')
    assert code == 0 and 'Resuming training from epoch: 0, iter: 2' in output + errors, output + errors
    got = load_file('experiments/shares/models/net_g_6.pth')['params']
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(('changes', 'message'), [
    ({'shares': [1]}, "'datasets.train': dataroot_gt has 2, dataroot_lq has 2, shares has 1; its lists"),
    ({'shares': [1, 0]}, "'datasets.train.shares' is .1, 0.; it must be a list of numbers above 0"),
    ({'shares': 3}, "'datasets.train.shares' is 3; it must be a list"),
    ({'dataroot_lq': 'lq'}, "'datasets.train.dataroot_lq' is 'lq'; beside shares or a list it must be a list"),
    ({'dataroot_gt': ['nowhere', 'b'], 'shares': REMOVED}, "'datasets.train.dataroot_gt': nowhere does not exist"),
    ({'gt_size': 40}, "'datasets.train.gt_size' is 40, but image a0 is 32x32")])
def test_mistakes_are_one_line(changes, message, run):
    code, _, errors = run({f'datasets.train.{key}': value for key, value in changes.items()})
    assert code == 1 and re.search(message, errors), errors


def test_shares_have_no_meaning_in_validation(run, folders):
    val = {**options(folders, shares=[3, 1]), 'name': 'v'}
    del val['phase']
    code, _, errors = run({'datasets.val': val, 'val': {'val_freq': 9}})
    assert code == 1 and "'datasets.val.shares' has no effect: validation and tests take every image once" in errors
