"""Samples that are chosen: scores are those of the reports, the best come first, and the mean is their mean."""
import numpy as np
import pytest
from helpers import DATA, perturb, small_net

from hcflow_arch import InputError
from hcflow_model import HCFlowUpscaler
from hcflow_model.images.files import read_image
from hcflow_model.inference.choice import best, mean_image
from hcflow_model.metrics.hcflow_metric import calculate_lr_psnr, calculate_nll

LR = read_image(DATA / 'val_lq_x4' / 'cat.png')[8:16, 10:22]
NAN = float('nan')


def upscaler(**kwargs):
    return HCFlowUpscaler(perturb(small_net(), 0.02), device='cpu', **kwargs)


def test_scores_are_those_of_reports():
    up = upscaler()
    samples = up.samples(LR, 3)
    wanted = {'nll': [calculate_nll(sample, LR, up.net) for sample in samples],
              'lr_psnr': [calculate_lr_psnr(sample, LR, 4) for sample in samples]}
    for by, values in wanted.items():
        assert np.allclose(up.scores(LR, samples, by), values, rtol=1e-4) and len(set(values)) == 3
    assert up.scores(LR, samples[:1], 'nll') == [-up.log_likelihood(samples[0], LR)]
    clear = [np.dstack([sample, np.full_like(sample[..., 0], 255)]) for sample in samples]
    lr = np.dstack([LR, np.full_like(LR[..., 0], 255)])
    assert up.scores(lr, clear, 'lr_psnr') == up.scores(LR, samples, 'lr_psnr')


@pytest.mark.parametrize(('by', 'sign'), [('nll', 1), ('lr_psnr', -1)])
def test_the_best_are_kept(by, sign):
    up = upscaler()
    samples = up.samples(LR, 5, seed=2)
    order = np.argsort(sign * np.array(up.scores(LR, samples, by)))
    kept = up.samples(LR, 5, seed=2, keep=2, by=by)
    assert len(kept) == 2 and all(np.array_equal(image, samples[place])
                                  for image, place in zip(kept, order, strict=False))


def test_order_of_scores():
    assert best([3., NAN, 1., 2., 1.], 'nll') == [2, 4, 3, 0, 1]
    assert best([3., NAN, 1., float('inf'), 1.], 'lr_psnr') == [3, 0, 2, 4, 1]


def test_nll_of_tiles_is_near_that_of_the_whole():
    lr = read_image(DATA / 'val_lq_x4' / 'cat.png')[:12, :36]
    up = upscaler(tile=18, overlap=4)
    samples = up.samples(lr, 3, 0.4)
    whole, tiled = upscaler().scores(lr, samples), up.scores(lr, samples)
    assert np.allclose(tiled, whole, rtol=0.1) and tiled != whole


def test_mean():
    samples = list(np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8))
    assert np.array_equal(mean_image(samples), np.mean(samples, 0).round()) and mean_image(samples).dtype == np.uint8
    floats = [sample.astype(np.float32) / 255 for sample in samples]
    assert np.allclose(mean_image(floats), np.mean(floats, 0)) and mean_image(floats).dtype == np.float32
    assert np.array_equal(mean_image(floats[:1] * 3), floats[0])


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'keep': 3}, 'keep is 3; it must be a whole number of samples from 1 to 2'), ({'keep': 0}, 'keep is 0'),
    ({'keep': True}, 'keep is True'), ({'keep': 1, 'by': 'psnr'}, "by is 'psnr'; .*'nll', 'lr_psnr'")])
def test_wrong_values(arguments, message):
    with pytest.raises(InputError, match=message):
        upscaler().samples(LR, 2, **arguments)
