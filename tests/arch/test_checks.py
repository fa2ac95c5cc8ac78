import numpy as np
import pytest
import torch
from helpers import random_image

from hcflow_arch.checks import check_image, check_latents, fit_to_scale
from hcflow_arch.errors import InputError


@pytest.mark.parametrize(('image', 'message'), [
    (np.zeros((1, 3, 4, 4), np.float32), 'gt is a ndarray'),
    (torch.zeros(3, 4, 4), r'gt has shape \(3, 4, 4\)'),
    (torch.zeros(1, 1, 4, 4), r'shape \(1, 1, 4, 4\).*RGB'),
    (torch.zeros(1, 3, 0, 4), r'shape \(1, 3, 0, 4\)'),
    (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r'torch\.uint8.*gt\.float\(\) / 255'),
    (torch.zeros(3, 3, 4, 4), 'gt holds 3 images, its partner 2'),
])
def test_bad_images(image, message):
    with pytest.raises(InputError, match=message):
        check_image('gt', image, num_images=2 if len(image) == 3 else None)


def test_range():
    bright, nan = 255 * random_image(1, 3, 4, 4), random_image(1, 3, 4, 4) * float('nan')
    for image in (bright, nan):
        with pytest.raises(InputError, match='lq has values from .*Divide'):
            check_image('lq', image, check_range=True)
    check_image('lq', 3 * random_image(1, 3, 4, 4) - 1, check_range=True)  # an LR image before clamping
    check_image('lq', bright)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='only a GPU can be made to wait')
def test_range_is_not_looked_at_in_training_on_a_gpu():
    bright = (255 * random_image(1, 3, 4, 4)).cuda()
    check_image('lq', bright, check_range=True)
    with torch.no_grad(), pytest.raises(InputError, match='lq has values'):
        check_image('lq', bright, check_range=True)


def test_latents():
    latents = [torch.zeros(1, 6, 4, 4), torch.zeros(1, 21, 2, 2)]
    shapes = [(1, 6, 4, 4), (1, 21, 2, 2)]
    check_latents(latents, shapes)
    for wrong in (latents[::-1], latents[:1], [latents[0], latents[1][..., 1:]]):
        with pytest.raises(InputError, match=r'needs \[\(1, 6, 4, 4\), \(1, 21, 2, 2\)\], finest level first'):
            check_latents(wrong, shapes)


def test_fitting_image_is_returned_itself():
    gt = random_image(1, 3, 8, 12)
    assert fit_to_scale(gt, 4) is gt and fit_to_scale(gt, 4, random_image(1, 3, 2, 3)) is gt


def test_other_sizes_are_reflected_out():
    row = torch.arange(5.).expand(1, 1, 4, 5)
    assert fit_to_scale(row, 4)[0, 0].tolist() == [[0, 1, 2, 3, 4, 3, 2, 1]] * 4
    assert fit_to_scale(row.transpose(2, 3), 4)[0, 0, :, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize(('size', 'lq_size'), [((9, 14), (2, 3)), ((9, 14), (3, 4)), ((11, 14), (2, 4)),
                                               ((4, 7), (1, 1)), ((4, 7), (1, 2))])
def test_lq_decides(size, lq_size):
    gt = random_image(2, 3, *size)
    fitted = fit_to_scale(gt, 4, random_image(2, 3, *lq_size))
    assert fitted.shape[2:] == (4 * lq_size[0], 4 * lq_size[1])
    height, width = (min(sizes) for sizes in zip(size, fitted.shape[2:], strict=True))
    assert torch.equal(fitted[..., :height, :width], gt[..., :height, :width])


@pytest.mark.parametrize(('size', 'lq_size', 'message'), [
    ((3, 8), None, 'gt is 3x8, smaller than the scale'),
    ((8, 12), (2, 2), 'gt is 8x12 and lq 2x2.*HR image of 8x8'),
    ((8, 12), (3, 3), 'HR image of 12x12'),
    ((8, 12), (8, 12), 'HR image of 32x48'),
])
def test_sizes_that_do_not_belong_together(size, lq_size, message):
    with pytest.raises(InputError, match=message):
        fit_to_scale(random_image(1, 3, *size), 4, None if lq_size is None else random_image(1, 3, *lq_size))
