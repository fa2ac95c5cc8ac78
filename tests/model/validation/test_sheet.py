import hcflow_arch  # noqa: F401  isort: skip  (makes `import basicsr` work)
import cv2
import numpy as np
import pytest
import torch
from helpers import DATA

from hcflow_model.images import drawing as sheet_drawing
from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.drawing import MARGIN, value_map
from hcflow_model.validation.sheet import TOP_QUANTILE, draw_sheet, std_over

METRICS = 'psnr 28.31 ssim 0.8123 psnr_y 29.80 ssim_y 0.8391 lpips 0.1532 diversity 8.21 lr_psnr inf'


def load(path):
    return torch.from_numpy(cv2.imread(str(path))[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255


def random_images(count, height, width, seed=0):
    return list(torch.rand(count, 1, 3, height, width, generator=torch.Generator().manual_seed(seed)))


def draw(rows, captions=None, gt=True, scale=4, size=(32, 48), **arguments):
    """The sheet of random LR and HR images and of these rows."""
    lq = random_images(1, *(length // scale for length in size), seed=1)[0]
    gt = random_images(1, *size, seed=2)[0] if gt is True else gt
    return draw_sheet(lq, rows, scale, gt, captions, **arguments)


def to_bgr(image, factor=1):
    picture = image[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]
    return picture.repeat(factor, 0).repeat(factor, 1)


def titles(rows):
    return [[tile.title for tile in row] for row in rows]


def find(sheet, picture):
    """Left upper corner (x, y) of the one place where the picture lies in the sheet."""
    distance = cv2.matchTemplate(sheet, np.ascontiguousarray(picture), cv2.TM_SQDIFF)
    x, y = cv2.minMaxLoc(distance)[2]
    np.testing.assert_array_equal(sheet[y:y + picture.shape[0], x:x + picture.shape[1]], picture)
    return x, y


def test_layout_of_real_images():
    """Every tile lies where it belongs, unchanged, in its place in the grid."""
    lq, gt = load(DATA / 'val_lq_x4' / 'cat.png'), load(DATA / 'val_gt' / 'cat.png')
    noise = torch.randn(4, *gt.shape, generator=torch.Generator().manual_seed(0))
    samples = [(gt + 0.05 * n).clamp(0, 1) for n in noise]
    bicubic = bicubic_resize(lq, 4).clamp(0, 1)
    rows = {'bicubic': [bicubic], 't0': samples[:1], 't0.9': samples[1:]}
    sheet = draw_sheet(lq, rows, 4, gt, {'': 'nll 4.1', 't0': METRICS, 't0.9': METRICS})
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3
    nearest = lq.repeat_interleave(4, 2).repeat_interleave(4, 3)
    places = [[find(sheet, to_bgr(image)) for image in row]
              for row in ([nearest, bicubic, samples[0], gt], samples[1:])]
    for row in places:
        assert {y for _, y in row} == {row[0][1]}  # aligned
        assert [x for x, _ in row] == [MARGIN + i * (256 + MARGIN) for i in range(len(row))]
    assert places[0][0][1] + 192 < places[1][0][1]


def test_titles(rows_of_tiles):
    draw({'bicubic': random_images(1, 32, 48), 't0': random_images(1, 32, 48), 't0.9': random_images(6, 32, 48),
          't1': random_images(1, 32, 48)})
    assert titles(rows_of_tiles) == [
        ['LR 12x8', 'bicubic', 'temperature 0', 'ground truth'],
        [*(f'temperature 0.9, sample {i}' for i in range(1, 5)), 'std over 6 samples (grey levels)'],
        ['temperature 1, sample 1']]


def test_captions(rows_of_tiles):
    draw({'bicubic': random_images(1, 32, 48), 't0': random_images(1, 32, 48), 't1': random_images(2, 32, 48)},
         {'': 'nll 4.1', 'bicubic': 'psnr 25', 't0': 'psnr 28', 't1': 'psnr 27', 'gt': 'of gt', 't7': 'not drawn'})
    assert [[tile.caption for tile in row] for row in rows_of_tiles][0] == ['nll 4.1', 'psnr 25', 'psnr 28', 'of gt']
    assert [tile.caption for tile in rows_of_tiles[1][:2]] == ['mean over 2 samples:\npsnr 27', '']
    assert rows_of_tiles[1][2].caption.startswith('mean ')


def std_picture(samples, height=32, width=48):
    """The map without its bar, at the size of the samples."""
    factor = -(-256 // width)
    return value_map(std_over([s[0] for s in samples]))[:height * factor:factor, :width * factor:factor]


def colour(value):
    return cv2.applyColorMap(np.full((1, 1), value, np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0]


def test_std_of_equal_samples_is_uniform():
    assert (std_picture(random_images(1, 32, 48) * 3) == colour(0)).all()


def test_std_is_largest_where_samples_differ(monkeypatch):
    texts = []
    monkeypatch.setattr(sheet_drawing, 'put_text', lambda canvas, text, x, y: texts.append(text))
    samples = [torch.full((1, 3, 32, 48), 0.5) for _ in range(2)]
    samples[1][:, :, 5, 7] += 0.2
    samples[1][:, 0, 9, 3] += 0.3  # one channel of three
    picture = std_picture(samples)
    std = np.zeros((32, 48))
    std[5, 7], std[9, 3] = 0.2 * 255 / 2 ** 0.5, 0.1 * 255 / 2 ** 0.5
    assert (picture[5, 7] == colour(255)).all()
    assert np.abs(picture[9, 3].astype(int) - colour(128)).max() <= 2
    assert (picture[std == 0] == colour(0)).all()
    assert texts == [f'{std.max():.3g}', '0'] == ['36.1', '0']  # grey levels


def test_std_agrees_with_torch():
    samples = random_images(5, 32, 48)
    std = torch.stack(samples).std(0, unbiased=True)[0].mean(0)
    levels = (std / std.max() * 255).round().byte().numpy()
    assert np.abs(std_picture(samples).astype(int) - cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)).max() <= 4


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_std_that_is_not_finite_is_drawn_as_largest(bad):
    samples = random_images(2, 32, 48)
    samples[0][:, :, 3, 4] = bad
    assert (std_picture(samples)[3, 4] == colour(255)).all()
    draw({'t1': [image * bad for image in samples]}, errors=True)


def test_errors_and_all_maps_with_one_scale(rows_of_tiles):
    gt = random_images(1, 32, 48, seed=9)[0]
    rows = {'bicubic': random_images(1, 32, 48), 't0': [gt + 0.01], 't1': random_images(3, 32, 48, seed=2),
            't0.5': [gt + 0.1 * s for s in random_images(3, 32, 48, seed=1)]}
    draw(rows, gt=gt, errors=True)
    assert titles(rows_of_tiles) == [
        ['LR 12x8', 'bicubic', 'temperature 0', 'ground truth', 'error of bicubic (grey levels)',
         'error of temperature 0 (grey levels)'],
        *([*(f'temperature {t}, sample {i}' for i in (1, 2, 3)), 'std over 3 samples (grey levels)',
           'rms error over 3 samples (grey levels)'] for t in ('1', '0.5'))]
    plain = {label: [image[0].numpy().astype(np.float64) for image in images] for label, images in rows.items()}
    errors = {label: 255 * np.sqrt(np.mean([(image - gt[0].numpy())**2 for image in images], axis=(0, 1)))
              for label, images in plain.items()}
    stds = {label: 255 * np.std(plain[label], axis=0, ddof=1).mean(0) for label in ('t1', 't0.5')}
    maps = [errors['bicubic'], errors['t0'], stds['t1'], errors['t1'], stds['t0.5'], errors['t0.5']]
    top = np.quantile(np.concatenate([values.ravel() for values in maps]), TOP_QUANTILE)
    drawn = [*rows_of_tiles[0][4:], *rows_of_tiles[1][3:], *rows_of_tiles[2][3:]]
    for tile, values in zip(drawn, maps, strict=True):
        wanted = value_map(values, top)
        assert tile.image.shape == wanted.shape
        assert (np.abs(tile.image.astype(int) - wanted) <= 3).all()  # rounding of float32 and float64
        assert tile.caption == f'mean {values.mean():.2f}'


@pytest.mark.parametrize('errors', [False, True])
def test_no_ground_truth(rows_of_tiles, errors):
    draw({'t0': random_images(1, 32, 48)}, gt=None, errors=errors)
    assert titles(rows_of_tiles) == [['LR 12x8', 'temperature 0']]


def test_equal_samples_errors_of_zero_and_broken_samples():
    same = random_images(1, 32, 48) * 2
    for rows in ({'bicubic': same[:1], 't1': same}, {'bicubic': same[:1], 't1': []}):
        sheet = draw(rows, gt=same[0], errors=True)
        assert sheet.dtype == np.uint8 and sheet.shape[2] == 3


def test_sizes_are_cropped_to_the_smallest(rows_of_tiles):
    sample = random_images(1, 32, 47)[0]
    draw({'t0': [sample]}, gt=random_images(1, 31, 45)[0])
    assert {tile.image.shape for row in rows_of_tiles for tile in row} == {(31 * 6, 45 * 6, 3)}
    np.testing.assert_array_equal(rows_of_tiles[0][1].image, to_bgr(sample[:, :, :31, :45], 6))


@pytest.mark.parametrize(('height', 'width', 'drawn'), [
    (8, 8, (256, 256)), (20, 4, (1020, 204)), (4, 100, (12, 300)), (2000, 40, (1024, 20)), (300, 1000, (192, 640)),
    (332, 640, (332, 640)), (4, 2000, (1, 640))])
def test_size_of_pictures(rows_of_tiles, height, width, drawn):
    sheet = draw({'t1': random_images(2, height, width)}, {'': METRICS, 't1': METRICS}, size=(height, width))
    pictures = [tile.image.shape[:2] for row in rows_of_tiles for tile in row]
    assert set(pictures[:-1]) == {drawn} and pictures[-1][0] == drawn[0] and pictures[-1][1] > drawn[1]
    margins = sheet[:MARGIN], sheet[-MARGIN:], sheet[:, :MARGIN - 2], sheet[:, -MARGIN:]
    assert all((margin == 255).all() for margin in margins)


def test_gray_images_and_other_scales():
    grey = torch.rand(1, 1, 40, 56)
    assert draw_sheet(torch.rand(1, 1, 5, 7), {'t0.5': [grey] * 2}, 8, grey, errors=True).dtype == np.uint8
    assert draw({}, scale=2).dtype == np.uint8


@pytest.mark.parametrize('text', [METRICS, 'a_name_of_a_metric_that_is_longer_than_a_whole_line 3.5 ' * 3, 'x' * 300])
def test_long_captions_are_wrapped(text):
    lines = sheet_drawing._wrap(text, 256)
    assert len(lines) > 1 and all(sheet_drawing.text_width(line) <= 256 for line in lines)
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '')
    short = draw({'t0': random_images(1, 32, 48)}, {'t0': 'psnr 2'})
    long = draw({'t0': random_images(1, 32, 48)}, {'t0': text})
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0]


def test_wrapping_keeps_names_and_numbers_together():
    assert all(len(line.split()) % 2 == 0 for line in sheet_drawing._wrap(METRICS, 256))
    assert sheet_drawing._wrap('psnr 1.5 ssim nan of 3 images', 999) == ['psnr 1.5  ssim nan  of 3 images']
    assert sheet_drawing._wrap('temperature 0.9, sample 2', 999) == ['temperature 0.9, sample 2']
    assert sheet_drawing._wrap('', 256) == [] and sheet_drawing._wrap('abc', 1) == ['a', 'b', 'c']


def test_inputs_stay_as_they_are():
    lq, gt, *samples = images = [*random_images(1, 8, 12), *random_images(4, 32, 48)]
    before = [image.clone() for image in images]
    rows = {'bicubic': samples[:1], 't1': samples[1:]}
    draw_sheet(lq, rows, 4, gt, errors=True)
    assert list(rows) == ['bicubic', 't1']
    assert all(map(torch.equal, before, images))


def test_large_images_are_shrunk():
    images = random_images(4, 1356, 2040)
    sheet = draw({'bicubic': images[:1], 't0': images[:1], 't0.9': images[1:]}, {'t0.9': METRICS}, size=(1356, 2040))
    assert sheet.shape[1] < 4 * 640 + 5 * MARGIN + 100
