import hcflow_arch  # noqa: F401  isort: skip  (makes `import basicsr` work)
import cv2
import numpy as np
import pytest
import torch
from helpers import random_image

from hcflow_model.exploration.latents import latent_statistics
from hcflow_model.exploration.sheets import draw_edit, draw_histogram, draw_strip, frame_size, latent_row
from hcflow_model.images import drawing as sheet_drawing
from hcflow_model.images.drawing import value_map
from hcflow_model.validation.sheet import draw_sheet


def images(count, seed=0, height=32, width=48):
    return [random_image(1, 3, height, width, seed=100 * seed + i) for i in range(count)]


def titles(rows):
    return [[tile.title for tile in row] for row in rows]


def test_latents(rows_of_tiles):
    latents = [torch.randn(1, 6, 16, 24), torch.randn(1, 21, 8, 12)]
    rows = [latent_row(latents, latent_statistics(latents))]
    draw_sheet(random_image(1, 3, 8, 12), {'t0': images(1)}, 4, more=rows)
    assert titles(rows_of_tiles)[1] == ['latents of the ground truth, level 1 (24x16), and N(0,1)',
                                        'latents of the ground truth, level 2 (12x8), and N(0,1)']
    assert rows_of_tiles[1][0].caption.startswith(f'mean {latents[0].mean():.3f}  std {latents[0].std():.3f}')


def test_value_map_above_its_top(monkeypatch):
    texts = []
    monkeypatch.setattr(sheet_drawing, 'put_text', lambda canvas, text, x, y: texts.append(text))
    values = np.zeros((40, 300))
    values[5, 7], values[6, 7], values[7, 7] = 50, 10, 5
    drawn = value_map(values, 10)
    colours = cv2.applyColorMap(np.array([[0, 128, 255]], np.uint8), cv2.COLORMAP_VIRIDIS)[0]
    assert (drawn[5, 7] == colours[2]).all() and (drawn[6, 7] == colours[2]).all()
    assert np.abs(drawn[7, 7].astype(int) - colours[1]).max() <= 2 and (drawn[0, 0] == colours[0]).all()
    value_map(values, 60)
    assert texts == ['10+', '0', '60', '0']


def test_histogram_is_a_density():
    values = np.random.default_rng(0).standard_normal(200_000)
    drawn = draw_histogram(values)
    bars = (drawn[:170] == (220, 190, 150)).all(axis=2).sum(axis=0)  # height of the bar in each column
    z = np.linspace(-4, 4, drawn.shape[1])
    wanted = np.exp(-z**2 / 2) / np.sqrt(2 * np.pi) / (1.05 / np.sqrt(2 * np.pi)) * 169
    inside = np.abs(z) < 2.5
    assert np.abs(bars - wanted)[inside].max() < 14  # steps of bars, and the curve drawn over them
    assert np.abs(bars - wanted)[inside].mean() < 5
    beyond = draw_histogram(np.array([-9., 9., 9., 9.]))
    columns = (beyond[:170] == (220, 190, 150)).all(axis=2).sum(axis=0)
    assert columns[-2] > 2.5 * columns[1] > 0 and not columns[20:-20].any()


def test_strip(rows_of_tiles):
    frames = images(7)
    draw_strip(frames)
    assert [len(row) for row in rows_of_tiles] == [4, 3]
    assert titles(rows_of_tiles)[0][0] == 'step 0 of 6 = sample 1' and titles(rows_of_tiles)[1] == [
        'step 4 of 6', 'step 5 of 6', 'step 6 of 6 = sample 2']


def test_edit(rows_of_tiles):
    edited, result = images(2)
    contents = {'input': random_image(1, 3, 8, 12), 'own': random_image(1, 3, 8, 12, seed=1)}
    results = {name: {'kept': (result, 'nll 3'), 't0.8': (result, 'nll 2')} for name in contents}
    draw_edit(edited, contents, results, gt=result)
    assert titles(rows_of_tiles)[0] == [
        'ground truth', 'edited', 'LR of the input', 'LR of the edited image']
    assert titles(rows_of_tiles)[1:] == [[f'{name}, latents kept', f'{name}, latents normalized to 0.8'] for name in (
        'LR of the input', 'LR of the edited image')]
    assert [tile.caption for tile in rows_of_tiles[2]] == ['nll 3', 'nll 2']
    draw_edit(edited, contents, results)
    assert titles(rows_of_tiles)[3][0] == 'edited'


@pytest.mark.parametrize(('size', 'wanted'), [((192, 256), (192, 256)), ((24, 32), (192, 256)), ((10, 10), (260, 260)),
                                              ((2000, 1500), (2000, 1500)), ((1000, 8), (1000, 8))])
def test_frame_size(size, wanted):
    assert frame_size(*size) == wanted
