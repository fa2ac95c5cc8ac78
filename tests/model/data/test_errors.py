"""Images as people have them: read as BasicSR reads them, or one error that names the file."""
import io

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.data.transforms import mod_crop
from basicsr.utils import img2tensor
from PIL import Image

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors
from hcflow_model.data.hr_only_dataset import HROnlyDataset
from hcflow_model.utils.errors import input_error

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


class Odd(torch.utils.data.Dataset):
    """Of a plugin: it has no paths."""
    opt = {'name': 'odd'}

    def __init__(self, read):
        self.read = read

    def __getitem__(self, index):
        return self.read()


def fail(error):
    raise error


SAID = {
    'file': (lambda: np.fromfile('none/b.npy'), r"No such file or directory: 'none/b\.npy'"),
    'memory': (lambda: fail(MemoryError()), 'MemoryError'),
    'pieces': (lambda: fail(ValueError('LQ is ', 'small')), 'LQ is small'),
    'option of BasicSR': (lambda: PairedImageDataset({}), "option 'io_backend' is missing"),
    'BasicSR': (lambda: mod_crop(np.zeros(2), 4), r'Wrong img ndim: 1\.')}
SLIPS = {
    'name': (lambda: nothing_of_that_name, NameError),  # noqa: F821
    'key': (lambda: {}['gt_size'], KeyError),
    'index': (lambda: [][1], IndexError),
    'none': (lambda: None.size, AttributeError),
    'type': (lambda: len(1), TypeError),
    'number': (lambda: int('x'), ValueError),
    'numpy': (lambda: np.stack([np.zeros(1), np.zeros(2)]), ValueError),
    'torch': (lambda: torch.ones(2) @ torch.ones(3), RuntimeError),
    'BasicSR': (lambda: img2tensor(None), AttributeError),
    'import': (lambda: __import__('none_such'), ImportError)}


@pytest.mark.parametrize('name', SAID)
def test_what_a_dataset_says_is_told(name):
    with pytest.raises(InputError, match=f'item 0 of dataset odd: .*{SAID[name][1]}'):
        NamedErrors(Odd(SAID[name][0]))[0]


@pytest.mark.parametrize('name', SLIPS)
def test_slips_of_a_dataset_keep_their_traceback(name, tmp_path):
    read, kind = SLIPS[name]
    with pytest.raises(kind) as caught:
        NamedErrors(Odd(read))[0]
    assert not isinstance(caught.value, InputError) and input_error(caught.value) is None
    write(tmp_path, png(BGR))
    dataset = datasets(tmp_path)[PairedImageDataset]
    dataset.__class__ = type('Plugin', (PairedImageDataset,), {'__getitem__': lambda self, index: read()})
    with pytest.raises(kind) as caught:  # its files can be read
        NamedErrors(dataset)[0]
    assert input_error(caught.value) is None
    (tmp_path / 'gt' / 'a.png').write_bytes(b'')
    with pytest.raises(InputError, match='a.png is broken'):  # that is what it does not look for
        NamedErrors(dataset)[0]


def test_slips_in_workers_show_file_and_line():
    loader = torch.utils.data.DataLoader(NamedErrors(Odd(SLIPS['name'][0])), num_workers=1, sampler=[0])
    with pytest.raises(NameError) as caught:
        next(iter(loader))
    assert input_error(caught.value) is None
    assert 'test_errors.py", line' in str(caught.value) and 'nothing_of_that_name' in str(caught.value)


def test_lmdb_under_another_name(tmp_path):
    """FFHQDataset names its LMDB 'default'."""
    class Client:
        def get(self, path, key):
            return {'default': b''}[key]

    class OneLmdb(torch.utils.data.Dataset):
        paths, file_client, opt = ['00000000'], Client(), {'name': 'faces'}

        def __getitem__(self, index):
            raise ValueError('no size')

    with pytest.raises(InputError, match=r'^Image 00000000: no size$'):
        NamedErrors(OneLmdb())[0]


@pytest.mark.parametrize('workers', [0, 1])
def test_errors_in_loaders(workers, tmp_path):
    write(tmp_path, b'')
    loader = torch.utils.data.DataLoader(NamedErrors(datasets(tmp_path)[PairedImageDataset]), num_workers=workers)
    with pytest.raises(InputError, match=r'/a\.png is broken'):
        next(iter(loader))
