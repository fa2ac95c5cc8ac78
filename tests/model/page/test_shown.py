"""What the page shows, without a browser and without Gradio."""
import zipfile

import cv2
import numpy as np
import pytest
from basicsr.metrics.psnr_ssim import calculate_psnr
from helpers import DATA, perturb, small_net

from hcflow_arch import InputError
from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.images.files import read_image, read_image_file, write_image
from hcflow_model.images.original import Sidecar
from hcflow_model.page import shown as page

LR, GT = (cv2.imread(str(DATA / folder / 'tower.png')) for folder in ('val_lq_x4', 'val_gt'))


@pytest.fixture(scope='module')
def upscaler():
    return HCFlowUpscaler(perturb(small_net(), 0.02), device='cpu')


@pytest.fixture(scope='module')
def rescaler():
    return HCFlowRescaler(perturb(small_net(task='rescaling'), 0.02), device='cpu')


@pytest.fixture
def shown(tmp_path):
    return page.Shown(tmp_path, None)


def test_samples_are_those_of_upscale(upscaler, shown):
    seen = [list(shown.files) for _ in page.super_resolve(upscaler, shown, LR, GT, 0.7, 2, 5)]
    assert seen == [['LR', 'bicubic'], ['LR', 'bicubic', 'temperature 0']]  # as soon as they are there
    assert list(shown.files) == [*seen[-1], 'sample 1', 'sample 2', 'standard deviation', 'ground truth']
    for i, sample in enumerate(upscaler.samples(LR, 2, 0.7, 5), 1):
        assert np.array_equal(read_image(shown.files[f'sample {i}']), sample)
    assert np.array_equal(read_image(shown.files['temperature 0']), upscaler(LR, 0))
    with zipfile.ZipFile(shown.archive()) as archive:
        assert archive.namelist() == [path.name for path in shown.files.values()]


def test_figures_are_those_of_the_files(upscaler, shown):
    list(page.super_resolve(upscaler, shown, LR, GT, 0.7, 1, 5))
    titles, *rows = shown.figures
    assert titles == ['', 'PSNR', 'SSIM', 'LR-PSNR'] and [row[0] for row in rows] == ['bicubic', 'temperature 0',
                                                                                    'sample 1']
    for name, psnr, *_ in rows:
        assert float(psnr) == pytest.approx(calculate_psnr(read_image(shown.files[name]), GT, crop_border=4), abs=0.01)
    nll = -upscaler.log_likelihood(GT, LR)
    assert shown.remarks == ['Temperature 0.7, seed 5.',
                             f'nll of the ground truth: {nll:.4f} bits per HR pixel.']


def test_without_ground_truth(upscaler, shown):
    list(page.super_resolve(upscaler, shown, LR, None, 0, 3, 0))  # temperature 0: one picture, no samples
    assert list(shown.files) == ['LR', 'bicubic', 'temperature 0']
    assert shown.figures[0] == ['', 'LR-PSNR'] and not shown.remarks


@pytest.mark.parametrize(('shape', 'dtype'), [((9, 12), np.uint8), ((9, 12, 4), np.uint8), ((9, 12, 2), np.uint16),
                                              ((3, 2, 3), np.uint8)])
def test_pictures_of_all_kinds(upscaler, shown, shape, dtype):
    lr = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    list(page.super_resolve(upscaler, shown, lr, None, 0.5, 2, 0))
    sample = read_image(shown.files['sample 1'])
    assert sample.shape == (4 * shape[0], 4 * shape[1], *shape[2:]) and sample.dtype == dtype
    assert bool(shown.figures) == (shape[0] > 8)  # less is too small to measure


def test_high_resolution_is_shrunk_first(upscaler):
    with_alpha = np.dstack([GT, np.full_like(GT[..., :1], 9)])
    lr, hr = page.shrunk(with_alpha[:159, :158], 4)  # no multiple of 4
    assert np.array_equal(hr, GT[:156, :156])
    inside = (slice(0, 35), slice(0, 35))  # not where the crop is
    assert np.abs(lr[inside].astype(int) - LR[inside]).max() <= 1
    with pytest.raises(InputError, match='4x4'):
        page.shrunk(GT[:3], 4)


def test_ground_truth_must_belong_to_the_picture(upscaler, shown):
    with pytest.raises(InputError, match='gt is 160x100 and lq 40x40'):
        list(page.super_resolve(upscaler, shown, LR, GT[:, :100], 0.5, 1, 0))


def test_a_large_picture_is_tiled_and_says_so(upscaler, shown, monkeypatch):
    for module in ('hcflow_model.inference.tile_size', 'hcflow_model.page.shown'):
        monkeypatch.setattr(f'{module}.memory_needed', lambda *args: 2**60)
    monkeypatch.setattr('hcflow_model.inference.tile_size.DEFAULT_TILE', 32)
    with page.stoppable(upscaler, shown.remarks, lambda: False, lambda share: None):
        list(page.super_resolve(upscaler, shown, LR, GT, 0.5, 1, 0))
    assert ['tiles of 32' in remark for remark in shown.remarks] == [True, False, False]  # said once
    assert shown.remarks[-1] == 'The likelihood is left out: the picture does not fit into memory whole.'


@pytest.mark.parametrize('extension', ['.png', '.jpg', '.webp'])
def test_rescaling(rescaler, shown, extension):
    hr = GT[:, :157]
    list(page.rescale(rescaler, shown, hr, extension, 70, 1, 3))
    small = read_image_file(shown.files['small'])
    assert shown.files['small'].suffix == extension
    sidecar = Sidecar.from_text(small.text, 'small', small.pixels, 4)  # hcflow restore takes the file
    assert sidecar[:2] == hr.shape[:2]
    assert np.array_equal(small.pixels, rescaler.downscale(hr)) == (extension == '.png')
    assert np.array_equal(read_image(shown.files['restored']), rescaler.restore(small.pixels, hr.shape[:2], 1, 3))
    rows = {name: figures for name, *figures in shown.figures}
    for name, file in (('restored', 'small'), ('bicubic', 'bicubic small')):
        assert rows[name][0] == f'{shown.files[file].stat().st_size:,}'
        assert float(rows[name][1]) == pytest.approx(calculate_psnr(read_image(shown.files[name]), hr, 4), abs=0.01)


@pytest.mark.parametrize(('shape', 'dtype'), [((33, 41), np.uint8), ((33, 41, 3), np.uint16)])
def test_rescaling_keeps_the_kind(rescaler, shown, shape, dtype):
    hr = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    list(page.rescale(rescaler, shown, hr, '.webp', 70, 0, 0))
    for name in ('restored', 'bicubic'):
        restored = read_image(shown.files[name])
        assert restored.shape == shape and restored.dtype == dtype


def test_alpha_is_not_lost_in_silence(rescaler, shown):
    with pytest.raises(InputError, match='.jpg holds no transparency'):
        list(page.rescale(rescaler, shown, np.zeros((32, 32, 4), np.uint8), '.jpg', 70, 0, 0))


def test_work_stops_inside_a_tile(upscaler, shown):
    asked = []

    def is_stopped():
        asked.append(True)
        return len(asked) > 20

    with pytest.raises(page.Stopped), page.stoppable(upscaler, [], is_stopped, lambda share: None):
        upscaler(LR)
    assert len(asked) == 21  # at once, in a network of more layers
    assert upscaler.progress is None
    assert upscaler(LR).shape == GT.shape  # the hook is gone
    assert len(asked) == 21


def test_progress_is_reported(upscaler):
    shares = []
    with page.stoppable(upscaler, [], lambda: False, shares.append):
        upscaler.samples(LR, 4)
    assert shares == [0.25, 0.5, 0.75, 1]


def test_what_is_no_picture(tmp_path):
    with pytest.raises(InputError, match='drop one'):
        page.read_picture(None)
    (tmp_path / 'notes.png').write_text('no picture')
    with pytest.raises(InputError, match=r'^notes.png is no image'):  # not where it lies
        page.read_picture(tmp_path / 'notes.png')


def test_a_small_file_of_too_many_pixels(tmp_path):
    write_image(tmp_path / 'bomb.png', np.zeros((8192, 4096), np.uint8))
    with pytest.raises(InputError, match='bomb.png has 4096x8192 pixels'):
        page.read_picture(tmp_path / 'bomb.png')


def test_profile_is_kept(upscaler, tmp_path):
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    shown = page.Shown(tmp_path, profile)
    shown.add('LR', LR)
    assert read_image_file(shown.files['LR']).profile == profile


def test_bundled_pictures_are_pictures():
    assert [read_image(path).shape[2] for path in page.bundled_pictures()] == [3, 3, 3]
