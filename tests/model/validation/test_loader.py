"""Shares of a dataset's images: each once, and broken ones do not keep others from being read."""
import cv2
import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from helpers import Images
from PIL import Image

from hcflow_arch import InputError
from hcflow_model.validation.loader import check_cropped_pair, check_validation_set, images_of_rank, unique_names

NAMES = ('a', 'b', 'c', 'd', 'e')


@pytest.fixture
def dataset(tmp_path):
    """Pairs of 20x16 and 5x4 pixels, of the NAMES."""
    for folder, size in (('gt', 16), ('lq', 4)):
        (tmp_path / folder).mkdir(parents=True)
        for i, name in enumerate(NAMES):
            image = np.random.default_rng(i).integers(0, 256, (size, size + size // 4, 3), np.uint8)
            cv2.imwrite(str(tmp_path / folder / f'{name}.png'), image)
    return build_dataset({
        'name': 'set', 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 4, 'io_backend': {'type': 'disk'},
        'dataroot_gt': str(tmp_path / 'gt'), 'dataroot_lq': str(tmp_path / 'lq')})


@pytest.mark.parametrize(('world_size', 'num_workers'), [(1, 0), (2, 0), (2, 1), (3, 0), (7, 0)])
def test_ranks_have_every_image_once_and_go_on(world_size, num_workers, dataset, tmp_path):
    loader = torch.utils.data.DataLoader(dataset, num_workers=num_workers)
    wanted = dict(enumerate(loader))
    broken = tmp_path / 'lq' / 'd.png'
    broken.write_bytes(broken.read_bytes()[:-30])
    seen = set()
    for rank in range(world_size):
        share = images_of_rank(loader, rank, world_size)
        for index, batch, error in share:
            assert index % world_size == rank and index not in seen
            seen.add(index)
            if wanted[index]['lq_path'] == [str(broken)]:
                assert batch is None and f'{broken} is broken or no image' in error
                assert share.dataset.name(index) == 'd'
            else:
                assert error is None and batch['lq_path'] == wanted[index]['lq_path']
                assert all(torch.equal(batch[key], wanted[index][key]) for key in ('lq', 'gt'))
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(('size', 'fits'), [((16, 20), True), ((17, 22), True), ((39, 43), True), ((40, 20), False),
                                            ((16, 44), False), ((64, 80), False), ((20, 16), True), ((80, 64), False)])
def test_hr_files_that_were_cropped(size, fits, dataset, tmp_path):
    cv2.imwrite(str(tmp_path / 'gt' / 'c.png'), np.zeros((*size, 3), np.uint8))
    share = images_of_rank(torch.utils.data.DataLoader(dataset))
    (_, batch, error), = (item for item in share if share.dataset.name(item[0]) == 'c')
    assert (error is None) == fits == (batch is not None)
    if not fits:
        assert error.startswith(f'gt is {size[0]}x{size[1]} and lq 4x5; at scale 4 this LR image belongs to an HR image'
                                ' of 16x20.')


def test_turned_by_exif(dataset, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / 'gt.jpg'
    Image.fromarray(np.zeros((80, 16, 3), np.uint8)).save(path, exif=exif)
    assert cv2.imread(str(path)).shape == (16, 80, 3)
    check_cropped_pair({'lq': torch.zeros(3, 4, 20), 'gt': None, 'gt_path': str(path)}, 4)
    with pytest.raises(InputError, match='gt is 16x80 and lq 20x4'):
        check_cropped_pair({'lq': torch.zeros(3, 20, 4), 'gt': None, 'gt_path': str(path)}, 4)


def test_images_of_other_ranks_are_not_read():
    class Seen(Images):
        def __getitem__(self, index):
            seen.append(index)
            if index == 4:
                raise InputError('image4.png is odd.')
            return super().__getitem__(index)

    seen = []
    loader = torch.utils.data.DataLoader(Seen([{'lq': torch.zeros(3, 4, 4)}] * 6))
    share = images_of_rank(loader, 1, 3)
    assert len(share) == 2
    items = list(share)
    assert seen == [1, 4]
    assert items[0][1]['lq_path'] == ['/data/image1.png'] and items[1] == [4, None, 'image4.png is odd.']
    assert share.dataset.name(4) == 'item 4'


def test_names():
    assert unique_names(['c/d.e.png', 'key', 'a/cat.png', 'a/cat.jpg', 'a/x.png', 'b/x.png']) == [
        'd.e', 'key', 'cat_png', 'cat_jpg', 'x_png_5', 'x_png_6']
    assert unique_names(['a/caf\udce9.png', 'ä.png']) == ['caf\\xe9', 'ä']  # can be written and shown everywhere
    plain = images_of_rank(torch.utils.data.DataLoader(Images([{}]))).dataset
    assert plain.name(0, {'gt_path': '/a/b.png', 'lq_path': 'c/d.png'}) == 'd' and plain.name(0) == 'item 0'
    plain.dataset.paths = ['a/x.png', 'b/y.png']  # of other images than there are items
    crops = images_of_rank(torch.utils.data.DataLoader(plain.dataset)).dataset
    assert crops.name(0, {'lq_path': 'c/z.png'}) == 'z'
    plain.dataset.paths = ['a/x.png']
    other = images_of_rank(torch.utils.data.DataLoader(plain.dataset)).dataset
    assert other.name(0, {'lq_path': 'c/z.png'}) == 'z' and other.name(0) == 'x'


def test_a_set_of_which_an_image_can_be_used(dataset, tmp_path):
    """Known before a training begins."""
    def check(item):
        seen.append(item['lq_path'])

    seen, opt = [], {'val': {'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}}
    check_validation_set(dataset, check, opt)
    assert len(seen) == 1
    for name in 'abc':
        (tmp_path / 'lq' / f'{name}.png').write_bytes(b'')
    check_validation_set(dataset, check, opt)
    assert len(seen) == 2
    for name in 'de':
        (tmp_path / 'lq' / f'{name}.png').write_bytes(b'')
    with pytest.raises(InputError, match=r'Dataset set: none of its 5 images can be used\. The last: .* is broken'):
        check_validation_set(dataset, check, opt)
    others = Images([{'lq': torch.zeros(3, 16, 16), 'gt': torch.zeros(3, 16, 16)}])
    others.opt['scale'] = 4
    with pytest.raises(InputError, match='The last: gt is 16x16 and lq 16x16; at scale 4'):
        check_validation_set(others, lambda item: None, opt)
    without_gt = Images([{'lq': torch.zeros(3, 4, 4)}])
    check_validation_set(without_gt, lambda item: None, {'val': {'metrics': {'niqe': {'type': 'calculate_niqe'}}}})
    check_validation_set(without_gt, lambda item: None, {})
    with pytest.raises(InputError, match='Dataset set gives no ground truth, which all of val.metrics need'):
        check_validation_set(without_gt, lambda item: None, opt)
