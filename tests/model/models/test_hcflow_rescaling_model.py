"""HCFlowRescalingModel: what differs from super-resolution."""
import copy

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from helpers import (
    DATA,
    L1,
    NET_D,
    NLL_OPT,
    RESCALING_OPTS,
    SMALL,
    cpu_options,
    gan_opts,
    loader,
    perturb,
    random_image,
    training_batch,
)

from hcflow_arch import InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_model import HCFlowModel, HCFlowRescalingModel
from hcflow_model.images.bicubic import bicubic_guide, bicubic_resize, round8
from hcflow_model.images.jpeg import JPEG
from hcflow_model.inference.draw import Sampler
from hcflow_model.validation.report import Report

pytestmark = pytest.mark.usefixtures('far_pixels_pass')
METRICS = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}


def make_model(tmp_path, losses=RESCALING_OPTS, model=HCFlowRescalingModel, task='rescaling', scale=4, **train):
    opt = cpu_options(tmp_path, {**SMALL, 'task': task}, copy.deepcopy(losses), scale=scale, **train)
    opt['network_d'] = dict(NET_D)
    (tmp_path / 'models').mkdir(exist_ok=True)
    return model(opt)


def losses_of(log):
    """Names of the losses in a log."""
    return [name for name in log if name != 'condition_1x1']


def read(path):
    return torch.from_numpy(cv2.imread(str(path))[..., ::-1].astype(np.float32).transpose(2, 0, 1) / 255)


# ---- functions ----

def test_round8_rounds_and_passes_gradients():
    image = torch.tensor([0., 0.1, 0.5, 1.], requires_grad=True)
    rounded = round8(image)
    assert rounded.tolist() == pytest.approx([0, 26 / 255, 128 / 255, 1])
    weights = torch.tensor([1., 2., 3., 4.])
    (rounded * weights).sum().backward()
    assert torch.equal(image.grad, weights)


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_bicubic_guide_is_basicsrs_imresize_in_8_bits(scale):
    gt = random_image(2, 3, 32, 48)
    guide = bicubic_guide(gt, scale)
    assert guide.shape == (2, 3, 32 // scale, 48 // scale)
    for image, got in zip(gt, guide, strict=True):
        resized = imresize(image.numpy().transpose(1, 2, 0), 1 / scale).transpose(2, 0, 1)
        assert np.abs(got.numpy() - resized.clip(0, 1)).max() < 0.5001 / 255
    assert torch.allclose(guide * 255, (guide * 255).round(), atol=1e-4)


# ---- training ----

def test_losses_in_one_step(tmp_path):
    model = make_model(tmp_path, {**RESCALING_OPTS, **gan_opts()})
    steps = []
    step = model.optimizer_g.step
    model.optimizer_g.step = lambda *args: (steps.append(1), step(*args))
    model.feed_data(training_batch())
    model.optimize_parameters(1)
    log = model.get_current_log()
    assert losses_of(log) == ['l_g_lq', 'l_g_latent', 'l_g_pix', 'l_g_gan', 'l_d_real', 'l_d_fake', 'out_d_real',
                              'out_d_fake']
    assert len(steps) == 1 and all(np.isfinite(value) for value in log.values())


@pytest.mark.parametrize(('removed', 'left'), [
    ('lq_opt', ['l_g_latent', 'l_g_pix']), ('latent_opt', ['l_g_lq', 'l_g_pix']),
    ('pixel_opt', ['l_g_lq', 'l_g_latent'])])
def test_removed_blocks_remove_losses(removed, left, tmp_path):
    model = make_model(tmp_path, {name: block for name, block in RESCALING_OPTS.items() if name != removed})
    model.feed_data(training_batch())
    model.optimize_parameters(1)
    assert losses_of(model.get_current_log()) == left
    runs = []
    model.net_g.levels[-1].feature_net.register_forward_hook(lambda *args: runs.append(1))
    model.optimize_parameters(2)  # the first one starts the whole network
    assert len(runs) == ('l_g_latent' in left) + ('l_g_pix' in left)


@pytest.mark.parametrize('losses', [{}, {'compression': {'type': 'jpeg', 'quality': [40, 40], 'prob': 1}}], ids=str)
def test_what_is_upscaled_with_gradients_through_the_rounding(losses, tmp_path, monkeypatch):
    model = make_model(tmp_path, {'pixel_opt': L1, **losses})
    perturb(model.net_g, 0.05)
    batch = training_batch(32)
    model.feed_data(batch)
    with torch.no_grad():
        wanted = round8(model.net_g.encode(batch['gt']).lq)
        if losses:
            wanted = JPEG()(wanted, torch.full((len(wanted),), 40))
    decode, seen = model.net_g.decode, []
    monkeypatch.setattr(model.net_g, 'decode', lambda lq, latents, temperature, generator: (
        seen.append((lq, temperature)), decode(lq, latents, temperature, generator))[1])
    model.optimize_parameters(1)
    (lq, temperature), = seen
    assert temperature == 1 and torch.equal(lq, wanted)
    assert torch.allclose(lq * 255, (lq * 255).round(), atol=1e-4)
    assert model.net_g.levels[0].main[1].coupling.subnet.conv1.weight.grad.any()  # the encoder learns from pixel_opt


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_data_without_lq_gets_the_bicubic_guide(scale, tmp_path):
    model = make_model(tmp_path, scale=scale)
    gt = training_batch(32)['gt']
    model.feed_data({'gt': gt})
    assert torch.equal(model.lq, bicubic_guide(gt, scale))
    model.optimize_parameters(1)
    given = model.get_current_log()['l_g_lq']
    assert np.isfinite(given) and given > 0


def test_data_without_gt(tmp_path):
    with pytest.raises(InputError, match='needs HR images'):
        make_model(tmp_path).feed_data({'lq': random_image(1, 3, 4, 4)})


def test_discriminator_alone_sees_restored_images(tmp_path):
    model = make_model(tmp_path, {**RESCALING_OPTS, **gan_opts(), 'compression': {'type': 'jpeg'}}, net_d_init_iters=1)
    model.feed_data(training_batch())
    model.optimize_parameters(1)
    assert losses_of(model.get_current_log()) == ['l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake']


# ---- validation ----

@pytest.mark.parametrize('size', [(16, 20), (17, 22), (9, 9)])
def test_restored_images_have_the_size_of_the_originals(size, tmp_path):
    model = make_model(tmp_path)
    perturb(model.net_g, 0.02)
    model.opt['val'].update(metrics=METRICS, temperatures=[0, 1], num_samples=2, seed=0)
    gt = random_image(3, *size)
    model.validation(loader([{'gt': gt}]), 7, None, save_img=True)
    folder = tmp_path / 'visualization' / 'image0'
    assert sorted(path.name for path in folder.iterdir()) == [
        'image0_lq_7.png', 'image0_t0_1_7.png', 'image0_t1_1_7.png', 'image0_t1_2_7.png']
    assert cv2.imread(str(folder / 'image0_t1_2_7.png')).shape[:2] == size
    lq = read(folder / 'image0_lq_7.png')
    assert lq.shape[1:] == tuple(-(-side // 4) for side in size)
    with torch.no_grad():  # what is measured is what a user gets from the file
        restored = model.net_g.eval().decode(lq[None], temperature=0)[:, :, :size[0], :size[1]]
    got = read(folder / 'image0_t0_1_7.png')
    assert (restored[0] - got).abs().max() < 0.51 / 255
    results = model.metric_results
    assert set(results) == {'lq_psnr_y', 'psnr_t0', 'psnr_t1'}  # SSIM's window does not fit an LR image this small
    mse = ((got - gt.mul(255).round() / 255)**2).mean().item()
    assert results['psnr_t0'] == pytest.approx(-10 * np.log10(mse), abs=1e-3)


def test_lr_psnr_of_sizes_that_are_no_multiple_of_the_scale(tmp_path):
    model = make_model(tmp_path)
    model.opt['val'].update(metrics={'lr_psnr': {'type': 'calculate_lr_psnr'}}, temperatures=[0])
    model.validation(loader([{'gt': random_image(3, 17, 22)}]), 7, None, save_img=False)
    assert model.metric_results['lr_psnr_t0'] > 0


def test_lq_is_compared_with_bicubic(tmp_path):
    model = make_model(tmp_path)
    perturb(model.net_g, 0.02)
    gt = read(DATA / 'val_gt' / 'tower.png')
    model.validation(loader([{'gt': gt}]), 1, None, save_img=True)
    from basicsr.metrics import calculate_psnr, calculate_ssim
    images = [cv2.imread(str(path)) for path in (tmp_path / 'visualization' / 'image0' / 'image0_lq_1.png',
                                                 DATA / 'val_lq_x4' / 'tower.png')]
    for name, metric in (('lq_psnr_y', calculate_psnr), ('lq_ssim_y', calculate_ssim)):
        wanted = metric(*images, crop_border=0, test_y_channel=True)
        assert model.metric_results[name] == pytest.approx(wanted, rel=1e-3)


def test_refined_small_images(tmp_path):
    model = make_model(tmp_path)
    perturb(model.net_g, 0.02)
    model.feed_data({'gt': random_image(1, 3, 16, 20)})
    sampler = Sampler(model.net_g.eval())
    with torch.no_grad():
        own, refined = (model.prepare_case(sampler).lq for model.opt['val']['refine'] in (0, 2))
    assert torch.equal(refined, sampler.downscale(model.gt, 2)) and not torch.equal(refined, own)


def test_small_images_are_stored_by_a_real_encoder(tmp_path):
    model = make_model(tmp_path)
    perturb(model.net_g, 0.02)
    model.opt['val'].update(metrics=METRICS, temperatures=[0, 1], seed=0)
    gt = read(DATA / 'val_gt' / 'cat.png')[:, :61, :90]
    model.validation(loader([{'gt': gt}]), 1, None, save_img=False)
    plain = {(row['temperature'], row['metric']): row['mean'] for row in model.report.rows}
    model.opt['val'].update(compression=[90, None, 30])
    model.report = Report(model.opt, final=True)
    model.validation(loader([{'gt': gt}]), 1, None, save_img=True)
    found = {(row['temperature'], row['metric']): row['mean'] for row in model.report.rows}
    labels = [f'{kind}{suffix}' for suffix in ('_jpeg90', '', '_jpeg30') for kind in ('bicubic', 't0', 't1')]
    assert list(dict.fromkeys(label for label, _ in found if label)) == labels
    assert {key: found[key] for key in plain} == plain

    folder = tmp_path / 'visualization' / 'image0'
    for what in ('lq', 't0_1_', 't0_jpeg90_1_', 't1_jpeg30_1_'):
        assert list(folder.glob(f'image0_{what}*.png'))
    fitted = fit_to_scale(gt[None], 4)
    small = {'t0': model.net_g.eval().encode(fitted).lq.detach().clamp(0, 1), 'bicubic': bicubic_guide(fitted, 4)}
    for kind, lq in small.items():
        pixels = lq[0].mul(255).round().byte().flip(0).permute(1, 2, 0).numpy()
        for quality in (30, 90):
            file = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            assert found[f'{kind}_jpeg{quality}', 'bits_per_pixel'] == 8 * file.size / (16 * 23)
            decoded = torch.from_numpy(cv2.imdecode(file, 1)[..., ::-1] / 255).float().permute(2, 0, 1)[None]
            restored = bicubic_resize(decoded, 4) if kind == 'bicubic' else model.net_g.decode(decoded, temperature=0)
            mse = (restored[..., :61, :90].detach().clamp(0, 1).mul(255).round() / 255 - gt).square().mean().item()
            assert found[f'{kind}_jpeg{quality}', 'psnr'] == pytest.approx(-10 * np.log10(mse), abs=1e-3)
        assert found[kind, 'bits_per_pixel'] == 8 * cv2.imencode('.png', pixels)[1].size / (16 * 23)
    assert any(line.split()[:2] == ['set', '0_jpeg90'] for line in model.report.table().splitlines())
    assert model.best_metric_results['set']['bits_per_pixel_t0_jpeg30']['better'] == 'lower'


def test_default_temperatures(tmp_path):
    model = make_model(tmp_path)
    model.opt['val']['metrics'] = METRICS
    model.validation(loader([{'gt': random_image(3, 16, 16)}]), 1, None, save_img=False)
    assert [name for name in model.metric_results if name.startswith('psnr')] == ['psnr_t1', 'psnr_t0']
    assert 'nll' not in model.metric_results


@pytest.mark.parametrize('size', [(3, 16), (1, 1)])
def test_originals_smaller_than_the_scale(size, tmp_path):
    model = make_model(tmp_path)
    images = [{'gt': random_image(3, *size)}, {'gt': random_image(3, 16, 16)}]
    model.validation(loader(images), 1, None, save_img=False)
    problem, = model.report.problems['set']['image0']
    assert f'gt is {size[0]}x{size[1]}, smaller than the scale' in problem
    assert {row['image'] for row in model.report.rows} == {'image1'}


def test_the_guide_is_made_once(tmp_path, monkeypatch):
    made = []

    def counted(gt, scale):
        made.append(gt)
        return bicubic_guide(gt, scale)

    monkeypatch.setattr('hcflow_model.models.hcflow_rescaling_model.bicubic_guide', counted)
    results = []
    for given in ({}, {'lq': random_image(3, 4, 4)}):
        model = make_model(tmp_path)
        torch.manual_seed(0)
        perturb(model.net_g, 0.02)
        model.opt['val'].update(temperatures=[0], bicubic=True, metrics=METRICS)
        model.validation(loader([{'gt': random_image(3, 16, 16), **given}]), 1, None, save_img=False)
        results.append({(row['temperature'], row['metric']): row['mean'] for row in model.report.rows})
    assert len(made) == 2
    assert results[0]['bicubic', 'psnr'] == results[1]['bicubic', 'psnr']  # not of the dataset's own LR image


def test_a_downscaled_image_that_is_not_finite(tmp_path):
    model = make_model(tmp_path)
    perturb(model.net_g, 0.02)
    with torch.no_grad():
        next(p for p in model.net_g.parameters() if p.requires_grad).fill_(float('nan'))
    model.validation(loader([{'gt': random_image(3, 16, 16)}]), 1, None, save_img=True)
    assert model.report.problems['set'] == {'image0': ['its downscaled image has pixels that are not finite.']}
    assert not list(tmp_path.rglob('*.png')) and model.report.rows == []


@pytest.mark.parametrize('size', [(4, 4), (5, 4)])
def test_smallest_originals(size, tmp_path):
    model = make_model(tmp_path)
    model.validation(loader([{'gt': random_image(3, *size)}]), 1, None, save_img=False)
    assert model.metric_results['lq_psnr_y'] > 0  # infinite where both are equal


# ---- what belongs to the other task ----

def test_has_no_likelihood(tmp_path):
    with pytest.raises(InputError, match='train.nll_opt: a rescaling network has no likelihood'):
        make_model(tmp_path, {**RESCALING_OPTS, **NLL_OPT})


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_checkpoints_of_the_other_task(task, tmp_path):
    models = {'sr': (HCFlowModel, NLL_OPT), 'rescaling': (HCFlowRescalingModel, RESCALING_OPTS)}
    other = 'rescaling' if task == 'sr' else 'sr'
    model_type, losses = models[other]
    saved = make_model(tmp_path, losses, model_type, other)
    saved.save_network(saved.net_g, 'net_g', 1)
    model_type, losses = models[task]
    model = make_model(tmp_path, losses, model_type, task)
    with pytest.raises(InputError, match=f"checkpoint for task '{other}', the network is for '{task}'"):
        model.load_network(model.net_g, str(tmp_path / 'models' / 'net_g_1.pth'))


@pytest.mark.parametrize(('model', 'task', 'losses'), [
    (HCFlowModel, 'rescaling', {'pixel_opt': L1}), (HCFlowRescalingModel, 'sr', RESCALING_OPTS)])
def test_network_of_the_other_task(model, task, losses, tmp_path):
    with pytest.raises(InputError, match='task'):
        make_model(tmp_path, losses, model, task)
