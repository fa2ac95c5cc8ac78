"""One image: HR and LR files against BasicSR's own functions."""
import cv2
import numpy as np
import pytest
from basicsr.data.transforms import mod_crop
from basicsr.utils.matlab_functions import imresize
from helpers import DATA
from PIL import Image

from hcflow_model.data.prepare import Settings
from hcflow_model.data.prepare.images import bicubic_downscaled, png_file_size, png_size, prepare_image
from hcflow_model.data.prepare.sources import find_images


def smooth(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None and image.ndim == 3
    return image


@pytest.mark.parametrize('name', ['cat', 'rocket', 'tower'])
def test_downscaled_equals_basicsr(name):
    """The bundled LR images were made by BasicSR's imresize."""
    assert np.array_equal(bicubic_downscaled(read(DATA / 'val_gt' / f'{name}.png'), 4),
                          read(DATA / 'val_lq_x4' / f'{name}.png'))


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_tiny_images(scale):
    image = np.full((scale, 2 * scale, 3), 77, np.uint8)
    assert np.array_equal(bicubic_downscaled(image, scale), np.full((1, 2, 3), 77))


def prepared(tmp_path, image, settings):
    (tmp_path / 'in').mkdir()
    cv2.imwrite(str(tmp_path / 'in' / 'a.png'), image)
    for part in ('train', 'val'):
        for folder in settings.folders(part):
            (tmp_path / folder).mkdir()
    item, = find_images(tmp_path / 'in')
    return prepare_image(item, settings, tmp_path), item


def test_sub_images_are_cut_from_whole_images(tmp_path):
    settings, image = Settings(4, 32, 16), smooth(51, 70)
    record, item = prepared(tmp_path, image, settings)
    assert record == {'name': 'a', 'stamp': item.stamp(), 'size': [48, 68]}
    hr = mod_crop(image, 4)
    lr = bicubic_downscaled(hr, 4)
    windows = settings.windows('a', 48, 68)
    assert len(windows) == 2 * 4
    for stem, top, left, height, width in windows:
        assert np.array_equal(read(tmp_path / 'train_HR_sub' / f'{stem}.png'),
                              hr[top:top + height, left:left + width])
        assert np.array_equal(read(tmp_path / 'train_LR_bicubic_X4_sub' / f'{stem}.png'),
                              lr[top // 4:(top + height) // 4, left // 4:(left + width) // 4])
    files = {path.name for folder in settings.folders('train') for path in (tmp_path / folder).iterdir()}
    assert files == {f'a_s{index:03d}.png' for index in range(1, 9)}


def test_images_for_validation_stay_whole(tmp_path):
    settings = Settings(4, 32, val=1, val_images=('a',))
    prepared(tmp_path, smooth(21, 30), settings)  # smaller than crop
    assert read(tmp_path / 'val_HR' / 'a.png').shape == (20, 28, 3)
    assert read(tmp_path / 'val_LR_bicubic_X4' / 'a.png').shape == (5, 7, 3)


@pytest.mark.parametrize('hr_only', [False, True])
def test_sub_images_with_little_detail_are_not_written(hr_only, tmp_path):
    """At each size, by the error of bicubic upscaling that BasicSR's functions give."""
    image = smooth(80, 132)
    image[:40, 60:] = 99
    settings = Settings(4, 16, 16, hr_only=hr_only, resize=(1, 0.5), min_detail=(2, 8))
    record, _ = prepared(tmp_path, image, settings)
    half = np.asarray(Image.fromarray(image).resize((66, 40), Image.Resampling.BICUBIC))[:40, :64]
    kept, dropped = [], []
    for hr, factor, least in ((image, 1, 2), (half, 0.5, 8)):
        up = imresize(imresize(hr / 255, 1 / 4), 4) * 255
        for stem, top, left, height, width in settings.windows('a', 80, 132, factor):
            place = np.s_[top:top + height, left:left + width]
            detail = np.sqrt(((hr[place] - up[place]) ** 2).mean())
            assert abs(detail - least) > 0.5  # rounding to 8 bits decides about none
            (kept if detail >= least else dropped).append(stem)
            if detail >= least:
                assert np.array_equal(read(tmp_path / 'train_HR_sub' / f'{stem}.png'), hr[place])
    assert kept and dropped and any('x0p5' in stem for stem in kept) and any('x0p5' in stem for stem in dropped)
    for folder in settings.folders('train'):
        assert {path.stem for path in (tmp_path / folder).iterdir()} == {*kept}
    assert [*settings.sizes('a', *record['size'], record['dropped'])['train_HR_sub']] == kept
    assert len(record['dropped']) == len(dropped)


def test_lr_of_a_smaller_size(tmp_path):
    image = smooth(50, 70)
    prepared(tmp_path, image, Settings(2, resize=(0.5,)))
    hr = read(tmp_path / 'train_HR' / 'a_x0p5.png')
    assert hr.shape == (24, 34, 3)
    assert np.array_equal(read(tmp_path / 'train_LR_bicubic_X2' / 'a_x0p5.png'), bicubic_downscaled(hr, 2))


def test_hr_only(tmp_path):
    prepared(tmp_path, smooth(17, 24), Settings(8, hr_only=True))
    assert read(tmp_path / 'train_HR' / 'a.png').shape == (16, 24, 3)
    assert not list(tmp_path.glob('*LR*'))


@pytest.mark.parametrize(('settings', 'size', 'reason'), [
    (Settings(4, 32), (31, 64), 'is 31x64, smaller than --crop 32'), (Settings(8), (64, 7), 'smaller than --scale 8'),
    (Settings(4, 32, resize=(0.5, 0.25)), (62, 90), 'is 62x90, smaller than --crop 32 at 0.5 of its size')])
def test_small_images_are_left_out(settings, size, reason, tmp_path):
    assert reason in prepared(tmp_path, smooth(*size), settings)[0]
    assert not list(tmp_path.glob('train_*/*'))


def test_size_of_a_png(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), smooth(20, 300))
    content = path.read_bytes()
    assert png_file_size(path) == png_size(content) == (20, 300)
    for broken in (content[:-1], content[1:], b'', content[:30]):
        path.write_bytes(broken)
        assert png_file_size(path) is None
    assert png_file_size(tmp_path / 'none.png') is None
