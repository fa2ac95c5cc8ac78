"""LR images that are made of HR images: by function, in training, in validation."""
import re

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.registry import DATASET_REGISTRY
from helpers import (
    DATA,
    NLL_OPT,
    REMOVED,
    SMALL_NET,
    demo_options,
    loader,
    perturb,
    random_image,
    train,
    training_model,
)

from hcflow_arch import InputError
from hcflow_arch.weights.safe_load import load_file
from hcflow_model import HROnlyDataset
from hcflow_model.checkpoints.files import seeded
from hcflow_model.data.degrade import DEGRADATION_REGISTRY, degradation, degrade
from hcflow_model.images.bicubic import bicubic_guide

OFF = {'type': 'blur_noise_jpeg', 'blur_prob': 0, 'noise_prob': 0, 'jpeg_prob': 0, 'resize_prob': [0, 0, 1]}


@pytest.fixture(scope='module')
def photo():
    image = cv2.imread(str(DATA / 'val_gt' / 'tower.png'))[..., ::-1].copy()
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def made(gt, seed=0, **changes):
    with seeded(seed):
        return degrade(gt, 4, {**OFF, **changes})


def roughness(image):
    return float((image[..., 1:] - image[..., :-1]).abs().mean())


def test_bicubic_is_the_guide_of_rescaling():
    gt = random_image(2, 3, 17, 22)
    padded = torch.nn.functional.pad(gt, (0, 2, 0, 3), mode='reflect')
    assert torch.equal(degrade(gt, 4, {'type': 'bicubic'}), bicubic_guide(padded, 4))


def test_each_part_does_its_own(photo):
    means = [made(photo, seed) for seed in range(12)]  # by area, bilinear or bicubic
    plain = means[0]
    assert plain.shape == (1, 3, 40, 40) and torch.equal(plain, (plain * 255).round() / 255)
    assert roughness(made(photo, blur_prob=1, blur_sigma=[3, 3], kernel_list=['iso'], kernel_prob=[1], sinc_prob=0)
                     ) < 0.6 * min(map(roughness, means))
    flat = torch.full((1, 3, 160, 160), 0.5)
    noise = made(flat, noise_prob=1, gaussian_noise_prob=1, noise_range=[5, 5], gray_noise_prob=0)
    gray = made(flat, noise_prob=1, gaussian_noise_prob=1, noise_range=[5, 5], gray_noise_prob=1)
    assert 255 * noise.std() == pytest.approx(5, rel=0.1) and torch.equal(gray[:, 0], gray[:, 2])
    assert not torch.equal(noise[:, 0], noise[:, 2])
    shot = [float(made(torch.full_like(flat, level), noise_prob=1, gaussian_noise_prob=0, poisson_scale_range=[1, 1])
                  .std()) for level in (0.1, 0.6)]
    assert shot[1] > 1.5 * shot[0]  # of Poisson noise, it grows with the brightness
    errors = [float((made(photo, jpeg_prob=1, jpeg_range=[quality] * 2) - plain).pow(2).mean()) for quality in (20, 90)]
    assert errors[0] > 2 * errors[1] > 0


def test_jpeg_is_that_of_opencv(photo):
    sent = made(photo)
    got = made(photo, jpeg_prob=1, jpeg_range=[40, 40])
    array = (sent[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    wanted = cv2.imdecode(cv2.imencode('.jpg', array, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1)
    got = (got[0].permute(1, 2, 0).numpy()[..., ::-1] * 255).round()
    assert cv2.PSNR(got.astype(np.uint8), wanted) > 40 > cv2.PSNR(array, wanted)


def test_images_of_a_batch_get_settings_of_their_own_and_small_ones_pass(photo):
    batch = photo[:, :, :48, :48].repeat(4, 1, 1, 1)
    lq = degrade(batch, 4, {'type': 'blur_noise_jpeg'})
    assert lq.shape == (4, 3, 12, 12) and len({image.numpy().tobytes() for image in lq}) == 4
    assert degrade(photo[:, :, :5, :9], 4, {'type': 'blur_noise_jpeg'}).shape == (1, 3, 2, 3)


def test_seeded_repeats_and_leaves_the_generators_alone(photo):
    torch.manual_seed(0)
    np.random.seed(0)
    lq = []
    for _ in range(2):
        with seeded(3):
            lq.append(degrade(photo, 4, {'type': 'blur_noise_jpeg'}))
    after = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert torch.equal(*lq) and after == (torch.rand(1), np.random.rand())


@pytest.mark.parametrize(('changes', 'message'), [
    ({'noise_range': [5, 1]}, 'noise_range is .5, 1.; it must be two numbers, the smaller one first'),
    ({'noise_range': 5}, 'noise_range is 5'), ({'jpeg_range': [30, 101]}, 'jpeg_range.*from 1 to 100'),
    ({'blur_prob': 2}, 'blur_prob is 2; it must be from 0 to 1'), ({'kernel_size': [6, 8]}, 'odd whole numbers'),
    ({'kernel_list': ['round'], 'kernel_prob': [1]}, 'kernel_list.*iso, aniso'), ({'kernel_prob': [1]}, '6 weights'),
    ({'resize_prob': [0, 0, 0]}, 'resize_prob')])
def test_settings_that_cannot_be(changes, message, photo):
    with pytest.raises(InputError, match=message):
        made(photo, **changes)


@pytest.fixture
def registered():
    """Registers a degradation for the time of a test."""
    names = []

    def register(function):
        names.append(function.__name__)
        return degradation(function)
    yield register
    for name in names:
        DEGRADATION_REGISTRY._obj_map.pop(name)


def test_a_degradation_of_the_wrong_size_is_a_bug(registered):
    @registered
    def half(gt, scale):
        return gt[:, :, ::2, ::2]
    with pytest.raises(TypeError, match=r'half returns \(1, 3, 8, 8\).*it must be a tensor \(1, 3, 4, 4\)'):
        degrade(random_image(1, 3, 16, 16), 4, {'type': 'half'})


# ---- in the model ----

def test_training_makes_missing_lr_images_on_the_way(tmp_path, registered):
    seen = []

    @registered
    def darker(gt, scale, by=1.):
        seen.append(by)
        return bicubic_guide(gt, scale) * by
    model = training_model(tmp_path, NLL_OPT, degradation={'type': 'darker', 'by': 0.5})
    gt = random_image(2, 3, 16, 16)
    model.feed_data({'gt': gt})
    assert torch.equal(model.lq, bicubic_guide(gt, 4) * 0.5) and seen == [0.5]
    model.optimize_parameters(1)
    assert np.isfinite(model.get_current_log()['l_g_nll'])
    model.feed_data({'gt': gt, 'lq': model.lq * 2})  # a dataset's own come first
    assert len(seen) == 1
    train(model, 2, first=2)


def test_validation_makes_the_same_lr_images_each_time_whatever_their_order(tmp_path):
    model = training_model(tmp_path, NLL_OPT, degradation={'type': 'blur_noise_jpeg'})
    perturb(model.net_g, 0.02)
    images = [{'gt': random_image(3, 16, 16)}, {'gt': random_image(3, 16, 16)}]
    seen, prepare_case = [], model.prepare_case
    model.prepare_case = lambda sampler: (seen.append(model.lq.clone()), prepare_case(sampler))[1]
    model.opt['val'].update(temperatures=[0], metrics={})
    state = torch.get_rng_state()
    for _ in range(2):
        model.validation(loader(images), 1, None, save_img=True)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])  # equal images, other names: other settings
    saved = cv2.imread(str(tmp_path / 'visualization' / 'image1' / 'image1_lq_1.png'))[..., ::-1]
    assert np.array_equal(saved, (seen[1][0] * 255).round().byte().permute(1, 2, 0).numpy())
    model.opt['val'].update(seed=1, degradation={'type': 'bicubic'})
    model.validation(loader(images), 2, None, save_img=False)
    assert torch.equal(seen[4], bicubic_guide(images[0]['gt'][None], 4))
    model.feed_data({'gt': images[0]['gt'][None]})  # back in training
    assert not torch.equal(model.lq, seen[4]) and model.validated is None


def test_a_dataset_may_degrade_by_itself(tmp_path, monkeypatch):
    class Dark(HROnlyDataset):
        @staticmethod
        def degrade(batch, opt):
            return bicubic_guide(batch['gt'], opt['scale']) * batch['factor'].view(-1, 1, 1, 1)
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'Dark', Dark)
    model = training_model(tmp_path, NLL_OPT)
    gt = random_image(2, 3, 16, 16)
    with pytest.raises(InputError, match='needs LR images.*train.degradation, such as {type: bicubic}'):
        model.feed_data({'gt': gt})
    model.opt['datasets']['train'] = {'type': 'Dark', 'scale': 4, 'name': 'dark'}
    model.feed_data({'gt': gt, 'factor': torch.tensor([0.5, 0.25])})
    assert torch.equal(model.lq[1], bicubic_guide(gt, 4)[1] * 0.25)
    with pytest.raises(InputError, match='dataset dark has values that are NaN'):
        model.feed_data({'gt': gt * float('nan')})


# ---- through the command ----

HR_ONLY = {**SMALL_NET, 'datasets.train.type': 'HROnlyDataset', 'datasets.train.dataroot_lq': REMOVED,
           'datasets.train.num_worker_per_gpu': 0, 'datasets.train.gt_size': 16,
           'datasets.train.batch_size_per_gpu': 2, 'datasets.val.type': 'HROnlyDataset',
           'datasets.val.dataroot_lq': REMOVED, 'name': 'hr_only', 'train.pixel_opt': REMOVED, 'train.total_iter': 4,
           'train.warmup_iter': -1, 'train.degradation': {'type': 'blur_noise_jpeg'}, 'val.val_freq': 100,
           'val.temperatures': [0], 'val.metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}},
           'logger.print_freq': 1, 'logger.save_checkpoint_freq': 2, 'logger.use_tb_logger': False}


def run(command, changes, *arguments, name='opt.yml'):
    with open(name, 'w') as file:
        yaml.safe_dump(demo_options({**HR_ONLY, **changes}), file, sort_keys=False)
    return command(arguments[0] if arguments else 'train', '-opt', name, *arguments[1:])


@pytest.mark.slow
def test_hr_images_alone_train_and_a_resumed_run_repeats_it(command, tmp_path, far_pixels_pass):
    code, output, errors = run(command, {})
    assert code == 0, output + errors
    assert list(tmp_path.rglob('*_sheet_*.png'))
    wanted = load_file('experiments/hr_only/models/net_g_4.pth')['params']
    for path in [*tmp_path.rglob('net_g_4.pth'), *tmp_path.rglob('4.state')]:
        path.unlink()
    code, output, errors = run(command, {}, 'train', '--auto_resume')
    assert code == 0 and 'Resuming training' in output + errors
    got = load_file('experiments/hr_only/models/net_g_4.pth')['params']
    assert all(torch.equal(got[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(('changes', 'message'), [
    ({'train.degradation': {'type': 'bicubi'}}, "'train.degradation.type' is 'bicubi'.*did you mean 'bicubic'"),
    ({'train.degradation': {'type': 'blur_noise_jpeg', 'jpeg': [1, 2]}}, "Unknown option 'train.degradation.jpeg'"),
    ({'train.degradation': {'type': 'bicubic', 'scale': 4}}, "'train.degradation.scale' is set by the model"),
    ({'train.degradation': {'type': 'blur_noise_jpeg', 'noise_range': [9, 1]}}, "'train.degradation': noise_range is"),
    ({'val.degradation': {'type': 'blur_noise_jpeg', 'noise_prob': 'x'}}, "'val.degradation.noise_prob' is 'x'"),
    ({'datasets.train.type': 'PairedImageDataset', 'datasets.train.dataroot_lq': str(DATA / 'train_lq_x4.lmdb')},
     "'train.degradation' would be ignored")])
def test_mistakes_are_one_line(changes, message, command):
    code, _, errors = run(command, changes)
    assert code == 1 and re.search(message, errors), errors
