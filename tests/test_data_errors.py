"""Broken image files in folders and LMDBs: the sentence names the file, and the other images are read."""
import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from hcflow_arch import InputError
from hcflow_model.data_errors import describe_data_error, images_of_rank, paths_of_item

NAMES = ('a', 'b', 'c', 'd', 'e')


def write_pairs(root, names=NAMES, gt_size=16):
    for folder, size in (('gt', gt_size), ('lq', gt_size // 4)):
        (root / folder).mkdir(parents=True)
        for i, name in enumerate(names):
            image = np.random.default_rng(i).integers(0, 256, (size, size + size // 4, 3), np.uint8)
            cv2.imwrite(str(root / folder / f'{name}.png'), image)


def paired(root, ending='', backend='disk', **more):
    opt = {'name': 'set', 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 4, 'io_backend': {'type': backend},
           'dataroot_gt': str(root / f'gt{ending}'), 'dataroot_lq': str(root / f'lq{ending}'), **more}
    return build_dataset(opt)


def error_of(dataset, name):
    index = next(i for i in range(len(dataset)) if f'{name}.' in f'{paths_of_item(dataset, i)["lq"]}.')
    with pytest.raises(Exception) as caught:  # noqa: PT011  (BasicSR raises whatever its code falls over)
        dataset[index]
    return describe_data_error(dataset, index, caught.value)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


BREAKAGES = {
    'is empty.': lambda path: path.write_bytes(b''),
    'is broken or no image.': truncate,
    'is broken or no image. ': lambda path: path.write_text('no image'),
    'cannot be read: No such file or directory.': lambda path: path.unlink(),
}


@pytest.mark.parametrize('folder', ['lq', 'gt'])
@pytest.mark.parametrize('sentence', BREAKAGES)
def test_the_sentence_names_the_file(sentence, folder, tmp_path):
    write_pairs(tmp_path)
    dataset = paired(tmp_path)
    path = tmp_path / folder / 'b.png'
    BREAKAGES[sentence](path)
    assert error_of(dataset, 'b') == f'{path} {sentence.strip()}'


@pytest.mark.parametrize('kind', ['SingleImageDataset', 'HROnlyDataset'])
def test_datasets_of_single_images(kind, tmp_path):
    write_pairs(tmp_path)
    key = {'SingleImageDataset': 'lq', 'HROnlyDataset': 'gt'}[kind]
    dataset = build_dataset({'name': 'set', 'type': kind, 'phase': 'val', 'io_backend': {'type': 'disk'},
                             f'dataroot_{key}': str(tmp_path / key)})
    path = tmp_path / key / 'c.png'
    truncate(path)
    assert paths_of_item(dataset, 2) == {key: str(path)}
    with pytest.raises(Exception) as caught:  # noqa: PT011
        dataset[2]
    sentence = describe_data_error(dataset, 2, caught.value)
    assert str(path) in sentence and 'broken' in sentence


def test_missing_key_of_an_lmdb(tmp_path):
    write_pairs(tmp_path, gt_size=64)
    for folder in ('gt', 'lq'):
        names = NAMES if folder == 'gt' else NAMES[:-1]
        make_lmdb_from_imgs(str(tmp_path / folder), str(tmp_path / f'{folder}.lmdb'), [f'{n}.png' for n in names],
                            list(names))
    (tmp_path / 'lq.lmdb' / 'meta_info.txt').write_text((tmp_path / 'gt.lmdb' / 'meta_info.txt').read_text())
    dataset = paired(tmp_path, '.lmdb', 'lmdb')
    assert error_of(dataset, 'e') == f'e (in {tmp_path}/lq.lmdb) is missing.'
    assert dataset[0]['lq'].shape == (3, 16, 20)


def test_other_errors_keep_their_words():
    class Odd(torch.utils.data.Dataset):
        opt = {'name': 'set'}

    assert describe_data_error(Odd(), 3, KeyError('lq')) == "Item 3 cannot be used: KeyError: 'lq'"
    assert describe_data_error(Odd(), 3, InputError('x.png is odd.')) == 'x.png is odd.'


@pytest.mark.parametrize(('world_size', 'num_workers'), [(1, 0), (2, 0), (2, 1), (3, 0), (7, 0)])
def test_ranks_have_every_image_once_and_go_on(world_size, num_workers, tmp_path):
    write_pairs(tmp_path)
    dataset = paired(tmp_path)
    loader = torch.utils.data.DataLoader(dataset, num_workers=num_workers)
    wanted = dict(enumerate(loader))
    broken = f'{tmp_path}/lq/d.png'
    truncate(tmp_path / 'lq' / 'd.png')
    seen = set()
    for rank in range(world_size):
        share = images_of_rank(loader, rank, world_size)
        for index, batch, error in share:
            assert index % world_size == rank and index not in seen
            seen.add(index)
            if wanted[index]['lq_path'] == [broken]:
                assert batch is None and error == f'{broken} is broken or no image.'
                assert share.dataset.name(index) == 'd'
            else:
                assert error is None and batch['lq_path'] == wanted[index]['lq_path']
                assert all(torch.equal(batch[key], wanted[index][key]) for key in ('lq', 'gt'))
    assert seen == {0, 1, 2, 3, 4}
