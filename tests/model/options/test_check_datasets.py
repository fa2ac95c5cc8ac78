import shutil

import cv2
import lmdb
import numpy as np
import pytest
from helpers import DATA, change_options

from hcflow_arch import InputError
from hcflow_model.options.check_datasets import check_dataset, read_lmdb_meta

LOADER = {'batch_size_per_gpu': 1, 'num_worker_per_gpu': 0, 'use_hflip': True, 'use_rot': False}


def write_lmdb(path, sizes, info=None):
    """An LMDB of black images {key: (height, width)}; `info`: its meta_info.txt, by default a true one."""
    with lmdb.open(str(path), map_size=2 ** 20) as environment, environment.begin(write=True) as transaction:
        for key, size in sizes.items():
            transaction.put(key.encode(), cv2.imencode('.png', np.zeros((*size, 3), np.uint8))[1].tobytes())
    true = ''.join(f'{key}.png ({h},{w},3) 1\n' for key, (h, w) in sizes.items())
    (path / 'meta_info.txt').write_text(true if info is None else info)


@pytest.fixture
def folder(tmp_path):
    """Small stand-ins: pairs as folders and as LMDBs."""
    for name, side in (('gt', 32), ('lq', 8)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / 'a.png'), np.zeros((side, side, 3), np.uint8))
        write_lmdb(tmp_path / f'{name}.lmdb', {'a': (side, side), 'b': (side, 2 * side)})
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'notes' / 'notes.txt').write_text('no image')
    (tmp_path / 'meta.txt').write_text('a.png\n')
    return tmp_path


def check(folder, backend, changes, scale=4):
    ending = '.lmdb' if backend == 'lmdb' else ''
    dataset = {'name': 'set', 'type': 'PairedImageDataset', 'phase': 'train', 'io_backend': {'type': backend},
               'dataroot_gt': f'gt{ending}', 'dataroot_lq': f'lq{ending}', 'gt_size': 16, **LOADER}
    change_options(dataset, changes)
    for key in ('dataroot_gt', 'dataroot_lq', 'meta_info_file'):
        if isinstance(dataset.get(key), str):
            dataset[key] = str(folder / dataset[key])
    check_dataset('datasets.train', dataset, {'scale': scale})


@pytest.mark.parametrize('backend', ['disk', 'lmdb'])
@pytest.mark.parametrize('changes', [
    {}, {'gt_size': 32}, {'phase': 'val', 'gt_size': None}, {'meta_info_file': 'meta.txt'}, {'meta_info_file': None}])
def test_good_datasets(folder, backend, changes):
    check(folder, backend, changes)


def test_bundled_data():
    for block in ({'dataroot_gt': 'train_gt.lmdb', 'dataroot_lq': 'train_lq_x4.lmdb', 'phase': 'train',
                   'gt_size': 128, 'io_backend': {'type': 'lmdb'}, **LOADER},
                  {'dataroot_gt': 'val_gt', 'dataroot_lq': 'val_lq_x4', 'phase': 'val',
                   'io_backend': {'type': 'disk'}}):
        block.update(type='PairedImageDataset')
        block.update({key: str(DATA / value) for key, value in block.items() if key.startswith('dataroot')})
        check_dataset('datasets.train', block, {'scale': 4})


BAD = [
    ('disk', {'dataroot_gt': 'none'}, r"'datasets.train.dataroot_gt': .*none does not exist \(looked from /"),
    ('disk', {'dataroot_lq': 'none'}, "'datasets.train.dataroot_lq': .*none does not exist"),
    ('disk', {'dataroot_gt': 'meta.txt'}, 'meta.txt does not exist|is no folder'),
    ('disk', {'dataroot_gt': 'empty'}, "'datasets.train.dataroot_gt': no images found in .*empty"),
    ('disk', {'dataroot_lq': 'notes'}, 'no images found in .*notes'),
    ('disk', {'meta_info_file': 'none.txt'}, "'datasets.train.meta_info_file': .*none.txt does not exist"),
    ('dist', {}, "'datasets.train.io_backend.type' is 'dist'; allowed are disk and lmdb"),
    ('disk', {'gt_size': 18}, "'datasets.train.gt_size' is 18; HR patches must be a multiple of the scale 4"),
    ('lmdb', {'gt_size': 64}, "'datasets.train.gt_size' is 64, but image a is 32x32; take smaller patches"),
    ('disk', {'dataroot_lq': None}, "datasets.train has no 'dataroot_lq'"),
    ('lmdb', {'dataroot_gt': 'none.lmdb'}, 'none.lmdb does not exist'),
    ('lmdb', {'dataroot_gt': 'gt'}, 'gt is not an LMDB as BasicSR makes it: data.mdb is missing'),
    ('lmdb', {'dataroot_lq': 'gt.lmdb'}, 'image a is 32x32 in dataroot_gt and 32x32 in dataroot_lq; at scale 4 HR must '
                                         'be 128x128'),
]


@pytest.mark.parametrize(('backend', 'changes', 'message'), BAD, ids=[str(bad[1]) for bad in BAD])
def test_bad_datasets(folder, backend, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check(folder, backend, changes)
    assert '\n' not in str(caught.value)


def test_pairs_that_do_not_belong_together(folder):
    with pytest.raises(InputError, match='at scale 2 HR must be 16x16'):
        check(folder, 'lmdb', {}, scale=2)
    write_lmdb(folder / 'other_lq.lmdb', {'a': (8, 8), 'z': (8, 16)})
    with pytest.raises(InputError, match=r"do not hold the same keys; \['b', 'z'\] stand in one only"):
        check(folder, 'lmdb', {'dataroot_lq': 'other_lq.lmdb'})


def test_read_lmdb_meta(folder):
    assert read_lmdb_meta('set', str(folder / 'gt.lmdb')) == {'a': (32, 32), 'b': (32, 64)}
    assert len(read_lmdb_meta('set', str(DATA / 'train_gt.lmdb'))) == len(
        (DATA / 'train_gt.lmdb' / 'meta_info.txt').read_text().splitlines())


def test_broken_lmdbs(folder):
    shutil.copytree(folder / 'gt.lmdb', folder / 'other')
    with pytest.raises(InputError, match=r'must end with \.lmdb'):
        read_lmdb_meta('set', str(folder / 'other'))
    (folder / 'gt.lmdb' / 'meta_info.txt').write_text('')
    with pytest.raises(InputError, match=r'no images found in .*gt\.lmdb \(meta_info.txt lists none\)'):
        read_lmdb_meta('set', str(folder / 'gt.lmdb'))
    (folder / 'gt.lmdb' / 'meta_info.txt').unlink()
    with pytest.raises(InputError, match='meta_info.txt is missing'):
        read_lmdb_meta('set', str(folder / 'gt.lmdb'))
