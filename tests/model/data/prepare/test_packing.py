"""LMDBs as BasicSR reads them."""
import shutil

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.data import build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from hcflow_arch import InputError
from hcflow_model.data.prepare import packing
from hcflow_model.data.prepare.images import PNG_LEVEL
from hcflow_model.data.prepare.packing import PAGE, lmdb_of, lmdb_problem, pack_folder


@pytest.fixture
def folder(tmp_path):
    """Three PNGs."""
    folder = tmp_path / 'gt'
    folder.mkdir()
    for index, name in enumerate('cab'):
        image = np.random.default_rng(index).integers(0, 256, (8 + index, 40, 3), np.uint8)
        cv2.imwrite(str(folder / f'{name}.png'), image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
    return folder


SIZES = {'a': (9, 40), 'b': (10, 40), 'c': (8, 40)}


def entries(path):
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        return dict(transaction.cursor())


def test_equals_basicsr_lmdb(folder):
    """Same keys, same bytes, same meta_info as BasicSR's make_lmdb_from_imgs."""
    steps = []
    pack_folder(folder, SIZES, lambda: steps.append(1))
    theirs = folder.with_name('theirs.lmdb')
    make_lmdb_from_imgs(str(folder), str(theirs), [f'{name}.png' for name in 'abc'], list('abc'),
                        compress_level=PNG_LEVEL)
    assert len(steps) == 3 and entries(lmdb_of(folder)) == entries(theirs)
    assert (lmdb_of(folder) / 'meta_info.txt').read_text() == (theirs / 'meta_info.txt').read_text()
    assert not list(folder.parent.glob('.*'))


def test_is_read_by_basicsr_datasets(folder):
    pack_folder(folder, SIZES, lambda: None)
    shutil.copytree(folder, folder.with_name('lq'))
    pack_folder(folder.with_name('lq'), SIZES, lambda: None)
    dataset = build_dataset({
        'name': 'set', 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 1, 'io_backend': {'type': 'lmdb'},
        'dataroot_gt': str(lmdb_of(folder)), 'dataroot_lq': str(folder.with_name('lq.lmdb'))})
    assert [dataset[index]['gt'].shape[1] for index in range(3)] == [9, 10, 8]


def test_an_interrupted_lmdb_is_made_again(folder, monkeypatch):
    class Killed(BaseException):
        pass

    def stop():
        raise Killed

    with pytest.raises(Killed):
        pack_folder(folder, SIZES, stop)
    assert not lmdb_of(folder).exists() and (folder.parent / '.gt.part.lmdb').is_dir()
    pack_folder(folder, SIZES, lambda: None)
    assert lmdb_problem(lmdb_of(folder), folder, SIZES) is None
    assert not (folder.parent / '.gt.part.lmdb').exists()


def test_problems_are_found(folder):
    final = lmdb_of(folder)
    assert 'cannot be read' in lmdb_problem(final, folder, SIZES)
    pack_folder(folder, SIZES, lambda: None)
    assert lmdb_problem(final, folder, SIZES) is None
    assert 'other images or sizes' in lmdb_problem(final, folder, {**SIZES, 'd': (1, 1)})
    assert 'other images or sizes' in lmdb_problem(final, folder, {**SIZES, 'a': (9, 41)})
    image = cv2.imread(str(folder / 'a.png'))
    image[0, 0] ^= 1
    cv2.imwrite(str(folder / 'a.png'), image)
    assert 'image a in it differs' in lmdb_problem(final, folder, SIZES)
    content = (final / 'data.mdb').read_bytes()
    (final / 'data.mdb').write_bytes(content[:len(content) // 2])
    assert 'is truncated' in lmdb_problem(final, folder, SIZES)
    (final / 'data.mdb').write_bytes(b'broken' * 1000)
    assert 'cannot be' in lmdb_problem(final, folder, SIZES)


def test_no_space_is_seen_before(folder, monkeypatch):
    monkeypatch.setattr(packing.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**6, 10**6, 5))
    with pytest.raises(InputError, match='needs 0 MB, but only 0 MB are free'):
        pack_folder(folder, SIZES, lambda: None)
    assert not list(folder.parent.glob('*gt*lmdb'))


def test_no_space_while_writing(folder, monkeypatch):
    """LMDB's own error, of a map that is too small, in place of a full disk."""
    open_lmdb = lmdb.open
    pack_folder(folder, SIZES, lambda: None)
    before = entries(lmdb_of(folder))
    monkeypatch.setattr(lmdb, 'open', lambda path, **kwargs: open_lmdb(path, **{**kwargs, 'map_size': 2 * PAGE}))
    with pytest.raises(InputError, match=r'Cannot write .*gt\.lmdb: .*MDB_MAP_FULL'):
        pack_folder(folder, SIZES, lambda: None)
    monkeypatch.undo()
    assert entries(lmdb_of(folder)) == before and not list(folder.parent.glob('.*'))
