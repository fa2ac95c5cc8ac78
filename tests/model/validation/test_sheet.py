import hcflow_arch  # noqa: F401  isort: skip  (makes `import basicsr` work)
import cv2
import numpy as np
import pytest
import torch
from helpers import DATA

from hcflow_model.images import drawing as sheet_drawing
from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.drawing import MARGIN, value_map
from hcflow_model.validation.loop import Case
from hcflow_model.validation.sheet import draw_sheet, std_over

METRICS = 'psnr 28.31 ssim 0.8123 psnr_y 29.80 ssim_y 0.8391 lpips 0.1532 diversity 8.21 lr_psnr inf'


def load(path):
    return torch.from_numpy(cv2.imread(str(path))[:, :, ::-1].copy()).permute(2, 0, 1)[None] / 255


def random_images(count, height, width, seed=0):
    return list(torch.rand(count, 1, 3, height, width, generator=torch.Generator().manual_seed(seed)))


def make_case(height=32, width=48, scale=4, gt=True, **more):
    lq = random_images(1, height // scale, width // scale, seed=1)[0]
    gt = random_images(1, height, width, seed=2)[0] if gt else None
    return Case(lq, gt, lq, **more)


def to_bgr(image, factor=1):
    picture = image[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()[:, :, ::-1]
    return picture.repeat(factor, 0).repeat(factor, 1)


@pytest.fixture
def rows_of_tiles(monkeypatch):
    """The tiles of each row that draw_sheet is about to draw."""
    drawn = []
    draw_row = sheet_drawing._draw_row
    monkeypatch.setattr(sheet_drawing, '_draw_row', lambda tiles: drawn.append(tiles) or draw_row(tiles))
    return drawn


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
    case = Case(lq, gt, lq, images={'lq': lq})
    sheet = draw_sheet(case, rows, {'': 'nll 4.1', 't0': METRICS, 't0.9': METRICS}, 4)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3
    nearest = lq.repeat_interleave(4, 2).repeat_interleave(4, 3)
    places = [[find(sheet, to_bgr(image)) for image in row]
              for row in ([nearest, bicubic, gt], samples[:1], samples[1:])]
    for row in places:
        assert {y for _, y in row} == {row[0][1]}  # aligned
        assert [x for x, _ in row] == [MARGIN + i * (256 + MARGIN) for i in range(len(row))]
    assert places[0][0][1] + 192 < places[1][0][1] and places[1][0][1] + 192 < places[2][0][1]
    without = draw_sheet(case, {key: row for key, row in rows.items() if key != 'bicubic'}, {}, 4)
    find(without, to_bgr(bicubic))  # computed where it is not given


def test_titles(rows_of_tiles):
    draw_sheet(make_case(), {'bicubic': random_images(1, 32, 48), 't0': random_images(1, 32, 48),
                             't0.9': random_images(6, 32, 48)}, {}, 4)
    assert titles(rows_of_tiles) == [
        ['LR 12x8', 'bicubic', 'ground truth'], ['temperature 0'],
        [*(f'temperature 0.9, sample {i}' for i in range(1, 5)), 'std over 6 samples (grey levels)']]


def test_captions(rows_of_tiles):
    draw_sheet(make_case(), {'bicubic': random_images(1, 32, 48), 't0': random_images(1, 32, 48),
                             't1': random_images(2, 32, 48)},
               {'': 'nll 4.1', 'bicubic': 'psnr 25', 't0': 'psnr 28', 't1': 'psnr 27', 't7': 'not drawn'}, 4)
    assert [[tile.caption for tile in row] for row in rows_of_tiles] == [
        ['nll 4.1', 'psnr 25', ''], ['psnr 28'], ['mean over 2 samples:\npsnr 27', '', '']]


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
    draw_sheet(make_case(), {'t1': [image * bad for image in samples]}, {}, 4)


def test_difference(rows_of_tiles):
    case = make_case(difference=True)
    bicubic, *restored = [case.gt + shift for shift in (-0.05, 0.02, 0.2, -0.01, 0.03)]
    rows = {'bicubic': [bicubic], 't1': restored[:1], 't0': restored[1:2], 't2': restored[2:]}
    sheet = draw_sheet(case, rows, {}, 4)
    assert titles(rows_of_tiles) == [
        ['LR 12x8', 'bicubic', 'ground truth', 'difference x8 of bicubic'],
        ['temperature 1', 'difference x8'], ['temperature 0', 'difference x8'],
        ['temperature 2, sample 1', 'temperature 2, sample 2', 'difference x8 of sample 1',
         'std over 2 samples (grey levels)']]
    first, row_1, row_0, row_2 = rows_of_tiles
    for tile, grey in ((first[3], 0.4), (row_1[1], 0.16), (row_0[1], 1), (row_2[2], 0.08)):
        assert (tile.image == round(grey * 255)).all()
        find(sheet, tile.image)


def test_no_difference_where_not_asked_for(rows_of_tiles):
    draw_sheet(make_case(), {'t0': random_images(1, 32, 48)}, {}, 4)
    assert titles(rows_of_tiles) == [['LR 12x8', 'bicubic', 'ground truth'], ['temperature 0']]


@pytest.mark.parametrize('difference', [False, True])
def test_no_ground_truth(rows_of_tiles, difference):
    draw_sheet(make_case(gt=False, difference=difference), {'t0': random_images(1, 32, 48)}, {}, 4)
    assert titles(rows_of_tiles) == [['LR 12x8', 'bicubic'], ['temperature 0']]


def test_sizes_are_cropped_to_the_smallest(rows_of_tiles):
    case = make_case()
    case = case._replace(gt=case.gt[:, :, :31, :45])
    sample = random_images(1, 32, 47)[0]
    draw_sheet(case, {'t0': [sample]}, {}, 4)
    assert {tile.image.shape for row in rows_of_tiles for tile in row} == {(31 * 6, 45 * 6, 3)}
    np.testing.assert_array_equal(rows_of_tiles[1][0].image, to_bgr(sample[:, :, :31, :45], 6))


@pytest.mark.parametrize(('height', 'width', 'drawn'), [
    (8, 8, (256, 256)), (20, 4, (1020, 204)), (4, 100, (12, 300)), (2000, 40, (1024, 20)), (300, 1000, (192, 640)),
    (332, 640, (332, 640)), (4, 2000, (1, 640))])
def test_size_of_pictures(rows_of_tiles, height, width, drawn):
    case = make_case(height, width, difference=True)
    sheet = draw_sheet(case, {'t1': random_images(2, height, width)}, {'': METRICS, 't1': METRICS}, 4)
    pictures = [tile.image.shape[:2] for row in rows_of_tiles for tile in row]
    assert set(pictures[:-1]) == {drawn} and pictures[-1][0] == drawn[0] and pictures[-1][1] > drawn[1]
    margins = sheet[:MARGIN], sheet[-MARGIN:], sheet[:, :MARGIN - 2], sheet[:, -MARGIN:]
    assert all((margin == 255).all() for margin in margins)


def test_gray_images_and_other_scales():
    case = Case(torch.rand(1, 1, 5, 7), torch.rand(1, 1, 40, 56), torch.rand(1, 1, 5, 7))
    assert draw_sheet(case, {'t0.5': [torch.rand(1, 1, 40, 56)] * 2}, {}, 8).dtype == np.uint8
    assert draw_sheet(make_case(scale=2), {}, {}, 2).dtype == np.uint8


@pytest.mark.parametrize('text', [METRICS, 'a_name_of_a_metric_that_is_longer_than_a_whole_line 3.5 ' * 3, 'x' * 300])
def test_long_captions_are_wrapped(text):
    lines = sheet_drawing._wrap(text, 256)
    assert len(lines) > 1 and all(sheet_drawing.text_width(line) <= 256 for line in lines)
    assert ''.join(lines).replace(' ', '') == text.replace(' ', '')
    short = draw_sheet(make_case(), {'t0': random_images(1, 32, 48)}, {'t0': 'psnr 2'}, 4)
    long = draw_sheet(make_case(), {'t0': random_images(1, 32, 48)}, {'t0': text}, 4)
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0]


def test_wrapping_keeps_names_and_numbers_together():
    assert all(len(line.split()) % 2 == 0 for line in sheet_drawing._wrap(METRICS, 256))
    assert sheet_drawing._wrap('psnr 1.5 ssim nan of 3 images', 999) == ['psnr 1.5  ssim nan  of 3 images']
    assert sheet_drawing._wrap('temperature 0.9, sample 2', 999) == ['temperature 0.9, sample 2']
    assert sheet_drawing._wrap('', 256) == [] and sheet_drawing._wrap('abc', 1) == ['a', 'b', 'c']


def test_inputs_stay_as_they_are():
    case = make_case(difference=True)
    samples = random_images(3, 32, 48)
    before = [image.clone() for image in (case.lq, case.gt, *samples)]
    rows = {'bicubic': samples[:1], 't1': samples[1:]}
    draw_sheet(case, rows, {}, 4)
    assert list(rows) == ['bicubic', 't1']
    assert all(map(torch.equal, before, (case.lq, case.gt, *samples)))


def test_large_images_are_shrunk():
    case = make_case(1356, 2040)
    images = random_images(4, 1356, 2040)
    sheet = draw_sheet(case, {'bicubic': images[:1], 't0': images[:1], 't0.9': images[1:]}, {'t0.9': METRICS}, 4)
    assert sheet.shape[1] < 4 * 640 + 5 * MARGIN + 100
