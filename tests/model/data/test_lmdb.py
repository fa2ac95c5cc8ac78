import os
import shutil

import lmdb
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient
from helpers import DATA

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.data.lmdb import LmdbBackend, open_lmdb
from hcflow_model.pipeline.repairs import backends, replaced


@pytest.fixture(autouse=True)
def in_a_command():
    """Our backend in the place of BasicSR's."""
    with replaced([(FileClient, '_backends', backends())]):
        yield


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DATA / 'train_gt.lmdb', tmp_path / 'gt.lmdb')


def keys(path):
    return [line.split('.')[0] for line in (path / 'meta_info.txt').read_text().splitlines()]


def dataset(path, **options):
    return NamedErrors(PairedImageDataset({
        'name': 'set', 'phase': 'val', 'scale': 1, 'io_backend': {'type': 'lmdb'}, 'dataroot_gt': str(path),
        'dataroot_lq': str(path), **options}))


def test_two_datasets_share_one(copy):
    """lmdb refuses to open it twice; and both halves of a pair are the same LMDB here."""
    first, second = dataset(copy), dataset(copy)
    assert torch.equal(first[0]['gt'], second[0]['lq'])
    assert open_lmdb(copy) is open_lmdb(str(copy) + '/') is open_lmdb(copy / '..' / copy.name)
    with pytest.raises(lmdb.Error, match='already open'):
        lmdb.open(str(copy), readonly=True)


def test_several_workers_and_this_process_read_at_once(copy):
    shared = dataset(copy)
    first = shared[0]['gt']  # this process has it open when the workers are forked
    loader = torch.utils.data.DataLoader(shared, batch_size=4, num_workers=2)
    images = torch.cat([batch['gt'] for batch in loader])
    assert len(images) == len(keys(copy)) and torch.equal(images[0], first) and torch.equal(shared[0]['gt'], first)


def test_worker_that_fails_names_the_key(copy):
    with lmdb.open(str(copy)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(keys(copy)[3].encode())
    loader = torch.utils.data.DataLoader(dataset(copy), num_workers=2)
    with pytest.raises(InputError, match=rf"gt\.lmdb has no '{keys(copy)[3]}', which its meta_info\.txt lists"):
        list(loader)


@pytest.mark.slow
def test_replaced_files_are_opened_anew(copy):
    key = keys(copy)[0].encode()
    with open_lmdb(copy).begin() as transaction:
        assert transaction.get(key)
    shutil.rmtree(copy)
    with lmdb.open(str(copy), map_size=2 ** 20) as environment, environment.begin(write=True) as transaction:
        transaction.put(key, b'new')
    with open_lmdb(copy).begin() as transaction:
        assert transaction.get(key) == b'new'


@pytest.mark.slow
@pytest.mark.parametrize(('size', 'message'), [
    (0, 'cannot be opened'), (100, 'cannot be opened'), (4096, 'cannot be opened'), (8192, 'is truncated'),
    (1_000_000, 'is truncated: its data.mdb has 1000000 bytes of')])
def test_truncated(size, message, copy):
    """Reading it would end the process by SIGBUS."""
    os.truncate(copy / 'data.mdb', size)
    with pytest.raises(InputError, match=message):
        open_lmdb(copy)
    with pytest.raises(InputError, match=message):
        dataset(copy)[0]


def test_no_lmdb(tmp_path):
    (tmp_path / 'text').write_text('no folder')
    for name in ('none', 'text', '.'):
        with pytest.raises(InputError, match=r'has no data\.mdb'):
            open_lmdb(tmp_path / name)


def test_backend_of_basicsr(copy):
    client = FileClient('lmdb', db_paths=[str(copy)], client_keys=['gt'], readahead=True)
    assert isinstance(client.client, LmdbBackend)
    assert client.get(keys(copy)[0], 'gt').startswith(b'\x89PNG')
    with pytest.raises(InputError, match="has no 'ö'"):
        client.get('ö', 'gt')
