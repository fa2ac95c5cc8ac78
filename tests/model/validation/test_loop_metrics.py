"""Validation of small models: what is measured, and metrics from outside."""
import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import METRIC_REGISTRY
from helpers import perturb
from test_loop import PSNR, make_model, pair, rows_of, saved, validate

from hcflow_arch import InputError
from hcflow_model import calculate_diversity, calculate_nll
from hcflow_model import metric as registered
from hcflow_model.inference.draw import Sampler, samples_of

pytestmark = pytest.mark.usefixtures('far_pixels_pass')
SSIM = {'type': 'calculate_ssim', 'crop_border': 0, 'test_y_channel': True}


def test_metrics_are_basicsrs_on_the_saved_pictures(tmp_path):
    model = make_model(tmp_path, temperatures=[0, 0.9], num_samples=2, bicubic=True,
                       metrics={'psnr': PSNR, 'ssim': SSIM})
    validate(model, save_img=True)
    rows, case = rows_of(model), pair()
    gt, lq = tensor2img(case['gt']), tensor2img(case['lq'])
    folder = tmp_path / 'visualization' / 'image0'
    for label, count in (('t0', 1), ('t0.9', 2)):
        images = [cv2.imread(str(folder / f'image0_{label}_{i + 1}_5.png')) for i in range(count)]
        for name, metric, kwargs in (('psnr', calculate_psnr, {'crop_border': 2}),
                                     ('ssim', calculate_ssim, {'crop_border': 0, 'test_y_channel': True})):
            wanted = [metric(image, gt, **kwargs) for image in images]
            row = rows['image0', label, name]
            assert row['mean'] == pytest.approx(np.mean(wanted))
            assert row['std'] == pytest.approx(np.std(wanted, ddof=1) if count > 1 else 0)
            assert model.metric_results[f'{name}_{label}'] == pytest.approx(np.mean(wanted))
    bicubic = (imresize(lq / 255., 4).clip(0, 1) * 255).round().astype(np.uint8)
    assert rows['image0', 'bicubic', 'psnr']['mean'] == pytest.approx(calculate_psnr(bicubic, gt, 2), abs=0.02)
    assert not any('bicubic' in name for name in model.metric_results)
    nll = calculate_nll(gt, lq, model.net_g, seed=0)
    assert rows['image0', '', 'nll']['mean'] == pytest.approx(nll, rel=1e-5)


def test_float_metrics_get_what_was_not_rounded(tmp_path, monkeypatch):
    model = make_model(tmp_path, temperatures=[0, 0.9], num_samples=3, metrics={
        'diversity': {'type': 'calculate_diversity'}, 'lr_psnr': {'type': 'calculate_lr_psnr'}})
    validate(model)
    drawn = Sampler(model.net_g.eval()).draw_image(pair()['lq'][None], samples_of([0.9], 3), 0)
    samples = [sample[0] for sample, _ in drawn.values()]
    wanted = calculate_diversity([sample.permute(1, 2, 0).numpy().astype(np.float64) * 255 for sample in samples])
    assert model.metric_results['diversity_t0.9'] == pytest.approx(wanted, rel=1e-5)
    assert 'diversity_t0' not in model.metric_results
    assert set(model.metric_results) == {'nll', 'diversity_t0.9', 'lr_psnr_t0', 'lr_psnr_t0.9'}


def test_diversity_of_one_sample_is_left_out(tmp_path, log):
    model = make_model(tmp_path, temperatures=[0.9], metrics={'diversity': {'type': 'calculate_diversity'}})
    validate(model, [pair(), pair(1)])
    assert list(model.metric_results) == ['nll']
    warnings = [text for level, text in log if level == 'WARNING']
    assert warnings == ['Metric diversity needs two or more samples, which is not there; it is left out.']


def test_images_without_ground_truth(tmp_path, log):
    metrics = {'psnr': PSNR, 'ssim': SSIM, 'lr_psnr': {'type': 'calculate_lr_psnr'}}
    model = make_model(tmp_path, is_train=False, temperatures=[0, 0.9], metrics=metrics)
    validate(model, [{'lq': pair(i)['lq']} for i in range(3)], save_img=True)
    assert {row['metric'] for row in model.report.rows} == {'lr_psnr'}
    warnings = [text for level, text in log if level == 'WARNING' and 'needs ground truth' in text]
    assert len(warnings) == 2  # of psnr and ssim, once
    assert len(saved(tmp_path)) == 6


def test_no_metrics_at_all(tmp_path):
    model = make_model(tmp_path)
    validate(model)
    assert list(model.metric_results) == ['nll']
    model = make_model(tmp_path, is_train=False)
    validate(model, [{'lq': pair()['lq']}])
    assert model.report.rows == []


@pytest.mark.parametrize('gt_size', [(18, 23), (13, 17)])
def test_sizes_that_are_no_multiple_of_the_scale(gt_size, tmp_path):
    model = make_model(tmp_path, temperatures=[0], metrics={'psnr': PSNR}, bicubic=True)
    validate(model, [pair(gt_size=gt_size)])
    assert np.isfinite(model.metric_results['psnr_t0']) and np.isfinite(model.metric_results['nll'])


def test_a_ground_truth_smaller_than_the_lr_image_says_is_not_padded(tmp_path):
    """LR images whose size was rounded up: what is made is cropped to the ground truth."""
    model = make_model(tmp_path, temperatures=[0.5], metrics={'psnr': {**PSNR, 'crop_border': 0}}, bicubic=True)
    case = pair(gt_size=(13, 18))
    validate(model, [case], save_img=True)
    image = cv2.imread(str(tmp_path / 'visualization' / 'image0' / 'image0_t0.5_1_5.png'))
    gt = tensor2img(case['gt'])
    assert image.shape == gt.shape
    assert model.metric_results['psnr_t0.5'] == pytest.approx(calculate_psnr(image, gt, 0))
    sample, = Sampler(model.net_g.eval()).draw_image(case['lq'][None], samples_of([0.5], 1), 0).values()
    assert np.array_equal(image, (sample[0][0, :, :13, :18] * 255).round().permute(1, 2, 0).numpy()[..., ::-1])


def test_lpips_of_images_that_are_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr('hcflow_model.losses.build.check_lpips_available', lambda *args: None)
    model = make_model(tmp_path, metrics={'lpips': {'type': 'calculate_lpips'}})
    with pytest.raises(InputError, match='image image0: val.metrics.lpips .* needs images of at least 31x31'):
        validate(model)


@pytest.mark.parametrize(('arguments', 'block', 'better'), [
    ({}, {}, 'higher'), ({'lower_is_better': True}, {}, 'lower'), ({}, {'better': 'lower'}, 'lower'),
    ({'lower_is_better': True}, {'better': 'higher'}, 'higher'), ({}, {'better': None}, 'higher')])
@pytest.mark.parametrize('how', ['decorator', 'attributes'])
def test_best_values_of_a_metric_from_outside(how, arguments, block, better, tmp_path, monkeypatch):
    monkeypatch.setattr(METRIC_REGISTRY, '_obj_map', dict(METRIC_REGISTRY._obj_map))

    def own_mean(img):  # takes neither `better` nor **kwargs
        seen.append(img)
        return img.mean()

    if how == 'decorator':
        assert (registered(**arguments)(own_mean) if arguments else registered(own_mean)) is own_mean
    else:
        METRIC_REGISTRY.register()(own_mean)
        vars(own_mean).update(arguments)
    model, seen = make_model(tmp_path, temperatures=[0], metrics={'mean': {'type': 'own_mean', **block}}), []
    values = []
    for current_iter in (1, 2, 3):
        perturb(model.net_g, 0.05, seed=current_iter)
        validate(model, current_iter=current_iter)
        values.append(model.metric_results['mean_t0'])
    best = model.best_metric_results['set']['mean_t0']
    assert (best['better'], best['val']) == (better, (max if better == 'higher' else min)(values))
    assert all(img.dtype == np.uint8 for img in seen) and len(set(values)) == 3


def test_a_metric_that_takes_floats(tmp_path, monkeypatch):
    monkeypatch.setattr(METRIC_REGISTRY, '_obj_map', dict(METRIC_REGISTRY._obj_map))

    @registered(takes_float=True)
    def fraction(img, scale):
        assert img.dtype == np.float64 and scale == 4
        return (img % 1).mean()

    model = make_model(tmp_path, temperatures=[0], metrics={'fraction': {'type': 'fraction'}})
    validate(model)
    assert 0 < model.metric_results['fraction_t0'] < 1
