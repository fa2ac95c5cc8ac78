"""Images as people have them: read as BasicSR reads them, or one error that names the file."""
import io

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from PIL import Image

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.data.hr_only_dataset import HROnlyDataset

RGB = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def png(image):
    return cv2.imencode('.png', image)[1].tobytes()


def pil(file_format, mode='RGB', image=RGB, **kwargs):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, file_format, **kwargs)
    return file.getvalue()


def turned():
    """A JPEG whose EXIF says: turn me by 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x112] = 6
    return pil('JPEG', exif=exif, quality=100)


BGR = RGB[..., ::-1]
GREY = cv2.cvtColor(BGR, cv2.COLOR_BGR2GRAY)
GREY_RGB = np.stack([GREY] * 3, 2)
PLAIN = np.zeros_like(RGB) + np.uint8([255, 0, 51])  # a colour of the web palette
# name: (bytes, the RGB image that comes out, None: only its size (height, width) is known exactly)
GOOD = {
    '8 bit': (png(BGR), RGB), '16 bit': (png(BGR.astype(np.uint16) * 257), RGB),
    'grey': (png(GREY), GREY_RGB), 'grey of 16 bit': (png(GREY.astype(np.uint16) * 257), GREY_RGB),
    'alpha': (pil('PNG', 'RGBA'), RGB), 'grey with alpha': (pil('PNG', 'LA', GREY_RGB), GREY_RGB),
    'palette': (pil('PNG', 'P', PLAIN), PLAIN),
    'two colours': (pil('PNG', '1', np.zeros_like(RGB) + 255), np.zeros_like(RGB) + 255),
    'JPEG called png': (pil('JPEG', quality=100), (8, 12)), 'CMYK': (pil('JPEG', 'CMYK'), (8, 12)),
    'EXIF': (turned(), (12, 8)), '1x1': (png(BGR[:1, :1]), RGB[:1, :1]),
    '20000x10': (png(np.zeros((10, 20000, 3), np.uint8)), np.zeros((10, 20000, 3), np.uint8)),
}
BAD = {'truncated': png(BGR)[:-20], 'half': png(BGR)[:100], 'empty': b'', 'text': b'no image',
       'head alone': png(BGR)[:8], 'JPEG truncated': pil('JPEG')[:-40],
       'damaged': png(BGR)[:60] + b'\0' * 40 + png(BGR)[100:]}


def datasets(folder, phase='val', **options):
    """The three datasets on a folder with gt/a.png and lq/a.png."""
    opt = {'name': 'set', 'phase': phase, 'scale': 1, 'io_backend': {'type': 'disk'}, 'dataroot_gt': str(folder / 'gt'),
           'dataroot_lq': str(folder / 'lq'), 'use_hflip': False, 'use_rot': False, **options}
    return {kind: kind({**opt, 'io_backend': dict(opt['io_backend'])})
            for kind in (PairedImageDataset, SingleImageDataset, HROnlyDataset)}


def write(folder, content):
    for name in ('gt', 'lq'):
        (folder / name).mkdir()
        (folder / name / 'a.png').write_bytes(content)


@pytest.mark.parametrize('name', GOOD)
def test_good_images(name, tmp_path):
    content, wanted = GOOD[name]
    write(tmp_path, content)
    for kind, dataset in datasets(tmp_path).items():
        item = NamedErrors(dataset)[0]
        for key in {PairedImageDataset: ('gt', 'lq'), SingleImageDataset: ('lq',), HROnlyDataset: ('gt',)}[kind]:
            image = item[key]
            assert image.dtype == torch.float32 and image.shape[0] == 3
            if isinstance(wanted, tuple):
                assert tuple(image.shape[1:]) == wanted and 0 <= image.min() < image.max() <= 1
            else:
                assert torch.equal((image * 255).round(), torch.from_numpy(wanted.transpose(2, 0, 1)).float())


@pytest.mark.parametrize('name', BAD)
def test_bad_images(name, tmp_path):
    write(tmp_path, BAD[name])
    for kind, dataset in datasets(tmp_path).items():
        folder = 'lq' if kind is SingleImageDataset else 'gt'
        with pytest.raises(InputError) as caught:
            NamedErrors(dataset)[0]
        assert f'{tmp_path / folder / "a.png"}' in str(caught.value) or kind is PairedImageDataset
        assert 'a.png' in str(caught.value) and 'broken' in str(caught.value) and '\n' not in str(caught.value)


def test_only_the_broken_one_is_named(tmp_path):
    write(tmp_path, png(BGR))
    (tmp_path / 'gt' / 'a.png').write_bytes(b'')
    with pytest.raises(InputError, match=r'Image \S+/gt/a\.png is broken or no image \(0 bytes\)') as caught:
        NamedErrors(datasets(tmp_path)[PairedImageDataset])[0]
    assert '/lq/' not in str(caught.value)


def test_files_that_have_gone(tmp_path):
    write(tmp_path, png(BGR))
    dataset = NamedErrors(datasets(tmp_path)[PairedImageDataset])
    (tmp_path / 'lq' / 'a.png').unlink()
    with pytest.raises(InputError, match=r'Image \S+/lq/a\.png cannot be read: No such file'):
        dataset[0]


def test_good_images_that_do_not_fit(tmp_path):
    write(tmp_path, png(BGR))
    dataset = NamedErrors(datasets(tmp_path, 'train', gt_size=16)[PairedImageDataset])
    with pytest.raises(InputError, match=r'lq/a\.png \(lq, 8x12\) and \S+gt/a\.png \(gt, 8x12\): LQ .* is smaller'):
        dataset[0]


def test_all_else_is_as_the_dataset_has_it(tmp_path):
    write(tmp_path, png(BGR))
    inner = datasets(tmp_path)[PairedImageDataset]
    dataset = NamedErrors(inner)
    assert len(dataset) == 1 and dataset.opt is inner.opt and dataset.paths is inner.paths
    with pytest.raises(AttributeError):
        dataset.nothing  # noqa: B018


def test_datasets_that_have_no_paths():
    class Odd(torch.utils.data.Dataset):
        opt = {'name': 'odd'}

        def __getitem__(self, index):
            raise KeyError('x')

    with pytest.raises(InputError, match='item 3 of dataset odd: x'):
        NamedErrors(Odd())[3]


@pytest.mark.parametrize(('error', 'message'), [
    (FileNotFoundError(2, 'No such file or directory', 'a/b.png'), r"No such file or directory: 'a/b\.png'$"),
    (KeyError('gt_size'), r'gt_size \(KeyError\)$'),
    (ValueError('LQ is ', 'small'), 'item 0 of dataset None: LQ is small$'),
    (IndexError(), 'item 0 of dataset None: IndexError$')])
def test_errors_of_other_datasets_are_told_in_full(error, message):
    class NoOptions(torch.utils.data.Dataset):
        def __getitem__(self, index):
            raise error

    with pytest.raises(InputError, match=message):
        NamedErrors(NoOptions())[0]


def test_lmdb_under_another_name(tmp_path):
    """FFHQDataset names its LMDB 'default'."""
    class Client:
        def get(self, path, key):
            return {'default': b''}[key]

    class OneLmdb(torch.utils.data.Dataset):
        paths, file_client, opt = ['00000000'], Client(), {'name': 'faces'}

        def __getitem__(self, index):
            raise TypeError('no size')

    with pytest.raises(InputError, match=r'^Image 00000000: no size \(TypeError\)$'):
        NamedErrors(OneLmdb())[0]


@pytest.mark.parametrize('workers', [0, 1])
def test_errors_in_loaders(workers, tmp_path):
    write(tmp_path, b'')
    loader = torch.utils.data.DataLoader(NamedErrors(datasets(tmp_path)[PairedImageDataset]), num_workers=workers)
    with pytest.raises(InputError, match=r'/a\.png is broken'):
        next(iter(loader))
