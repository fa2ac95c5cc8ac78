"""Processes that load data, however they are started: forked (Linux), spawned (Windows, macOS) or by a fork server."""
import gc
import random
import shutil

import basicsr.data
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from helpers import DATA

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.pipeline.repairs import worker_init_fn
from hcflow_model.pipeline.run import _end_training


@pytest.fixture(autouse=True)
def no_workers_are_left():
    yield
    gc.collect()  # loaders that failed end their workers
    _end_training()


class Draws(torch.utils.data.Dataset):
    """Items are draws of the three random generators."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return random.random(), np.random.rand(), torch.rand(()).item()


def loader_of(dataset, method, monkeypatch, rank=0, **options):
    """A loader as BasicSR's pipeline makes it, with two workers."""
    monkeypatch.setattr(basicsr.data, 'worker_init_fn', worker_init_fn)
    monkeypatch.setattr(basicsr.data, 'get_dist_info', lambda: (rank, 2))
    opt = {'phase': 'train', 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 2, **options}
    loader = basicsr.data.build_dataloader(dataset, opt, dist=True, seed=7)
    loader.multiprocessing_context = method
    return loader


def draws_of(loader, epochs):
    """(number of generators, draws)."""
    return np.concatenate([np.stack(batch) for _ in range(epochs) for batch in loader], axis=1)


@pytest.mark.slow
@pytest.mark.parametrize('persistent', [False, True])
def test_every_epoch_worker_and_process_draws_anew(persistent, monkeypatch):
    draws = []
    for rank in (0, 1):
        torch.manual_seed(3)  # even where processes had the same seed
        draws.append(draws_of(loader_of(NamedErrors(Draws()), 'fork', monkeypatch, rank,
                                        persistent_workers=persistent), 3))
    draws = np.concatenate(draws, axis=1)
    assert draws.shape == (3, 48)
    for of_one in draws:
        assert len(set(of_one)) == 48


def test_draws_are_those_of_the_seed(monkeypatch):
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(draws_of(loader_of(Draws(), 'fork', monkeypatch), 2))
    assert np.array_equal(draws[0], draws[1]) and not np.isin(draws[2], draws[0]).any()


def crops(path):
    """Random crops from an LMDB."""
    return NamedErrors(PairedImageDataset({
        'name': 'set', 'phase': 'train', 'scale': 1, 'io_backend': {'type': 'lmdb'}, 'dataroot_gt': str(path),
        'dataroot_lq': str(path), 'gt_size': 8, 'use_hflip': True, 'use_rot': True}))


@pytest.mark.parametrize('method', ['fork', pytest.param('forkserver', marks=pytest.mark.slow),
                                    pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers_read_and_draw_however_they_are_started(method, monkeypatch, tmp_path):
    path = shutil.copytree(DATA / 'train_gt.lmdb', tmp_path / 'gt.lmdb')
    meta_info = path / 'meta_info.txt'
    lines = meta_info.read_text().splitlines()
    meta_info.write_text(lines[0])  # one image, 24 times: what differs is drawn
    dataset = crops(path)
    dataset.dataset.paths *= 24
    loader = loader_of(dataset, method, monkeypatch)
    images = [image.numpy().tobytes() for _ in range(2) for batch in loader for image in batch['gt']]
    assert len(images) == 48 and len(set(images)) > 36
    meta_info.write_text('missing.png (64,64,3) 1')
    with pytest.raises(InputError, match=r"gt\.lmdb has no 'missing', which its meta_info\.txt lists"):
        list(loader_of(crops(path), method, monkeypatch, batch_size_per_gpu=1))
