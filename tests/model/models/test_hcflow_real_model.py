"""HCFlowModel on the images of BasicSR's RealESRGANModel."""
import numpy as np
import pytest
import torch
from basicsr.data.degradations import circular_lowpass_kernel
from basicsr.utils import USMSharp
from helpers import (
    NET_D,
    NLL_OPT,
    ROOT,
    SMALL,
    change_options,
    cpu_options,
    gan_opts,
    loader,
    perturb,
    random_image,
)

from hcflow_arch import InputError
from hcflow_model import HCFlowRealModel
from hcflow_model.images.bicubic import bicubic_guide
from hcflow_model.options.read import read_option_file
from hcflow_model.options.schema import SECOND_ORDER

RECIPE = read_option_file(str(ROOT / 'options' / 'train_HCFlow_real_x4.yml'))


def make_model(tmp_path, losses=NLL_OPT, **general):
    opt = {**cpu_options(tmp_path, SMALL, {**losses}), **{key: RECIPE[key] for key in SECOND_ORDER}, 'gt_size': 32,
           'queue_size': 4, **general}
    if 'gan_opt' in losses:
        opt['network_d'] = dict(NET_D)
    torch.manual_seed(1)
    return HCFlowRealModel(opt)


def batch(level, size=96):
    """Two HR images around a brightness, large enough for the kernels at any size, and kernels of RealESRGANDataset."""
    kernel = torch.from_numpy(np.stack([circular_lowpass_kernel(2, 9, 21)] * 2)).float()
    gt = level + 0.1 * random_image(2, 3, size, size, seed=int(100 * level))
    return {'gt': gt, 'kernel1': kernel, 'kernel2': kernel, 'sinc_kernel': kernel, 'gt_path': ['a', 'b']}


def levels(images):
    return images.mean(dim=(1, 2, 3)).sub(0.05).mul(10).round().div(10).tolist()


def test_pairs_are_degraded_and_come_from_a_pool_of_batches(tmp_path):
    model = make_model(tmp_path, gt_usm=False)
    seen = []
    for level in (0.1, 0.3, 0.5, 0.7, 0.9):
        model.feed_data(batch(level))
        assert model.gt.shape == (2, 3, 32, 32) and model.lq.shape == (2, 3, 8, 8)
        assert torch.allclose(model.lq * 255, (model.lq * 255).round(), atol=1e-4)
        assert levels(model.gt) == pytest.approx(levels(model.lq), abs=0.11)  # still pairs
        seen.append(levels(model.gt))
    assert seen[:2] == [pytest.approx([0.1] * 2), pytest.approx([0.3] * 2)]  # the pool fills
    assert max(seen[2]) < 0.4 and max(seen[3]) < 0.6 and max(seen[4]) < 0.8  # never the batch that was just fed


@pytest.mark.parametrize('sharp', [True, False])
def test_the_target_is_sharpened(sharp, tmp_path):
    model = make_model(tmp_path, gt_usm=sharp)
    model.feed_data(batch(0.4))
    assert torch.equal(model.gt, model.gt_usm) == sharp
    plain = model.queue_gt[:2]
    assert torch.equal(model.gt, USMSharp()(plain) if sharp else plain)


def test_all_losses_are_trained_and_validation_takes_its_own_lr_images(tmp_path, far_pixels_pass):
    model = make_model(tmp_path, {**NLL_OPT, **gan_opts()})
    for current_iter in (1, 2):
        model.feed_data(batch(0.4))
        model.optimize_parameters(current_iter)
    log = model.get_current_log()
    assert {'l_g_nll', 'l_g_gan', 'l_d_real'} <= log.keys() and all(np.isfinite(value) for value in log.values())
    perturb(model.net_g, 0.02)
    model.opt['val'].update(temperatures=[0], degradation={'type': 'bicubic'})
    gt = random_image(3, 16, 16)
    model.validation(loader([{'gt': gt}]), 1, None, save_img=False)
    assert torch.equal(model.lq, bicubic_guide(gt[None], 4)) and torch.equal(model.gt[0], gt)


def test_without_two_passes_pairs_are_those_of_the_dataset(tmp_path):
    model = make_model(tmp_path, high_order_degradation=False)
    gt, lq = random_image(2, 3, 16, 16), random_image(2, 3, 4, 4)
    model.feed_data({'gt': gt, 'lq': lq})
    assert torch.equal(model.gt, gt) and torch.equal(model.lq, lq)


def test_a_dataset_without_kernels(tmp_path):
    with pytest.raises(InputError, match='gives no kernel1, kernel2, sinc_kernel; take type RealESRGANDataset'):
        make_model(tmp_path).feed_data({'gt': random_image(2, 3, 16, 16)})


def test_empty_options_are_as_left_out():
    opt = read_option_file(str(ROOT / 'options' / 'train_HCFlow_real_x4.yml'))
    opt.update(is_train=True, gt_usm=None, queue_size=None, high_order_degradation=None)
    opt['datasets']['train']['batch_size_per_gpu'] = 12
    HCFlowRealModel.check_options(opt)
    assert not {'gt_usm', 'queue_size', 'high_order_degradation'} & opt.keys()


@pytest.mark.parametrize(('changes', 'message'), [
    ({'queue_size': 100}, "'queue_size' is 100; it must be a multiple of .*batch_size_per_gpu, which is 16"),
    ({'datasets.train.gt_size': 162}, "'datasets.train.gt_size' is 162; HR patches must be a multiple of the scale, 4"),
    ({'datasets.train.gt_size': 24}, "'datasets.train.gt_size' is 24; .* from 26 to 400"),
    ({'gt_size': 128}, "'gt_size' is 128, datasets.train.gt_size is 160; leave out the first"),
    ({'resize_prob': [1, 1]}, "'resize_prob' is .1, 1.; it must be 3 numbers"),
    ({'noise_range2': [1]}, "'noise_range2' is .1.; it must be 2 numbers"),
    ({'jpeg_range': None}, "The option file has no 'jpeg_range'"),
    ({'l1_gt_usm': True}, "'l1_gt_usm' is of RealESRGANModel.*gt_usm: true or false")])
def test_options_that_cannot_be(changes, message):
    opt = change_options(read_option_file(str(ROOT / 'options' / 'train_HCFlow_real_x4.yml')), changes)
    opt['is_train'] = True
    with pytest.raises(InputError, match=message):
        HCFlowRealModel.check_options(opt)
