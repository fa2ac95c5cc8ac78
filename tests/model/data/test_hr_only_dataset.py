import random

import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.utils import FileClient
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from hcflow_arch import InputError
from hcflow_model.data.hr_only_dataset import HROnlyDataset
from hcflow_model.data.lmdb import LmdbBackend
from hcflow_model.pipeline.repairs import backends, replaced

SIZE = 24  # height; the width is 8 more


@pytest.fixture
def folder(tmp_path):
    """Two images of different noise, and a file that is none."""
    folder = tmp_path / 'gt'
    folder.mkdir()
    for seed, name in enumerate(('b', 'a')):
        image = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE + 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), image)
    (folder / 'notes.txt').write_text('no image')
    return folder


def options(folder, phase='train', backend='disk', **kwargs):
    return {'name': 'photos', 'type': 'HROnlyDataset', 'dataroot_gt': str(folder), 'io_backend': {'type': backend},
            'gt_size': 16, 'use_hflip': False, 'use_rot': False, 'phase': phase, **kwargs}


def read_rgb(path):
    """(3, H, W) in [0, 1]."""
    image = cv2.imread(str(path))[..., ::-1].transpose(2, 0, 1)
    return torch.from_numpy(image.astype(np.float32) / 255)


def is_crop(patch, image):
    side = patch.shape[1]
    windows = image.unfold(1, side, 1).unfold(2, side, 1)  # (3, top, left, side, side)
    return bool((windows == patch[:, None, None]).all(dim=(0, 3, 4)).any())


def test_validation_gives_whole_images_in_order(folder):
    dataset = build_dataset(options(folder, 'val'))
    assert isinstance(dataset, HROnlyDataset) and len(dataset) == 2
    for index, name in enumerate(('a', 'b')):
        data = dataset[index]
        assert data.keys() == {'gt', 'gt_path'} and data['gt_path'] == str(folder / f'{name}.png')
        assert torch.equal(data['gt'], read_rgb(folder / f'{name}.png'))


def test_training_crops_at_random(folder):
    dataset, image = HROnlyDataset(options(folder)), read_rgb(folder / 'a.png')
    random.seed(0)
    patches = [dataset[0]['gt'] for _ in range(20)]
    assert all(patch.shape == (3, 16, 16) and is_crop(patch, image) for patch in patches)
    assert len({patch.numpy().tobytes() for patch in patches}) > 10
    random.seed(0)
    assert torch.equal(dataset[0]['gt'], patches[0])


@pytest.mark.slow
@pytest.mark.parametrize('hflip,rot,count', [(True, False, 2), (False, True, 4), (True, True, 8)])
def test_training_augments(folder, hflip, rot, count):
    dataset = HROnlyDataset(options(folder, gt_size=SIZE, use_hflip=hflip, use_rot=rot))
    image = read_rgb(folder / 'a.png')
    seen = set()
    for _ in range(80):
        patch = dataset[0]['gt']
        views = [patch, patch.flip(2), patch.flip(1), patch.flip(1, 2)]
        views += [view.transpose(1, 2) for view in views]
        seen.add(tuple(is_crop(view, image) for view in views))
    assert all(sum(found) == 1 for found in seen) and len(seen) == count


@pytest.mark.parametrize('ours', [False, True])
def test_lmdb(ours, folder, tmp_path):
    """In programs of others by BasicSR's own backend, in our commands by ours."""
    make_lmdb_from_imgs(str(folder), str(tmp_path / 'gt.lmdb'), ['a.png', 'b.png'], ['a', 'b'], map_size=2**20)
    dataset = build_dataset(options(tmp_path / 'gt.lmdb', 'val', 'lmdb'))
    with replaced([(FileClient, '_backends', backends())] if ours else []):
        assert [dataset[i]['gt_path'] for i in range(len(dataset))] == ['a', 'b']
        assert torch.equal(dataset[1]['gt'], read_rgb(folder / 'b.png'))
        assert isinstance(dataset.file_client.client, LmdbBackend) == ours
        dataset.paths[0] = 'c'
        with pytest.raises(InputError, match=r"'c'|Image c"):
            dataset[0]
    batches = torch.utils.data.DataLoader(dataset, num_workers=1, sampler=[1])
    assert torch.equal(next(iter(batches))['gt'][0], read_rgb(folder / 'b.png'))


def test_meta_info_file_chooses_images(folder, tmp_path):
    (tmp_path / 'names.txt').write_text('b.png (24,32,3)\n\n')
    dataset = HROnlyDataset(options(folder, meta_info_file=str(tmp_path / 'names.txt')))
    assert dataset.paths == [str(folder / 'b.png')]


def test_loader_with_a_worker(folder):
    opt = options(folder, num_worker_per_gpu=1, batch_size_per_gpu=2)
    batch = next(iter(build_dataloader(build_dataset(opt), opt, num_gpu=0, seed=0)))
    assert batch['gt'].shape == (2, 3, 16, 16) and len(batch['gt_path']) == 2


def test_gray_image_gets_three_channels(folder):
    cv2.imwrite(str(folder / 'a.png'), np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE))
    gt = HROnlyDataset(options(folder, 'val'))[0]['gt']
    assert gt.shape == (3, SIZE, SIZE) and torch.equal(gt[0], gt[2])


@pytest.mark.parametrize('content', [b'', b'not an image'])
def test_broken_image_is_named(folder, content):
    (folder / 'a.png').write_bytes(content)
    with pytest.raises(InputError, match=r'a\.png.*broken'):
        HROnlyDataset(options(folder))[0]


def test_missing_image_is_named(folder, tmp_path):
    (tmp_path / 'names.txt').write_text('c.png\n')
    with pytest.raises(InputError, match=r'c\.png.*No such file'):
        HROnlyDataset(options(folder, meta_info_file=str(tmp_path / 'names.txt')))[0]


def test_small_image_is_named(folder):
    with pytest.raises(InputError, match=r'a\.png.*24x32, smaller than gt_size 32'):
        HROnlyDataset(options(folder, gt_size=32))[0]


@pytest.mark.parametrize('key', ['dataroot_gt', 'io_backend', 'gt_size', 'use_hflip', 'use_rot'])
def test_missing_key(folder, key):
    opt = options(folder)
    del opt[key]
    with pytest.raises(InputError, match=key):
        HROnlyDataset(opt)


def test_no_images(tmp_path):
    with pytest.raises(InputError, match='no images found'):
        HROnlyDataset(options(tmp_path))
