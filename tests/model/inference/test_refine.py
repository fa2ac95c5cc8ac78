"""Refined small images: what is restored of them is never worse, and they stay what they are."""
import numpy as np
import pytest
import torch
from helpers import DATA, perturb, small_net, weights_of

from hcflow_arch import InputError
from hcflow_model import HCFlowRescaler
from hcflow_model.images.arrays import to_tensor
from hcflow_model.images.files import read_image, through_file
from hcflow_model.inference.draw import Sampler

IMAGE = read_image(DATA / 'val_gt' / 'cat.png')[40:75, 60:89]  # sizes that are no multiple of the scale


def rescaler_of(**kwargs):
    return HCFlowRescaler(perturb(small_net(4, 'rescaling'), 0.02), device='cpu', **kwargs)


def error(rescaler, image, small):
    restored = rescaler.restore(small, image.shape[:2], 0)
    return np.square(restored.astype(float) - image).mean()


@pytest.mark.parametrize('kwargs', [{}, {'tile': 16, 'overlap': 2}])
def test_more_steps_are_never_worse(kwargs):
    image = read_image(DATA / 'val_gt' / 'cat.png')[:20, :72]  # two tiles
    rescaler = rescaler_of(**kwargs)
    smalls = [rescaler.downscale(image, refine=steps) for steps in (0, 1, 2, 5)]
    errors = [error(rescaler, image, small) for small in smalls]
    assert np.array_equal(smalls[0], rescaler.downscale(image))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.98 * errors[0]
    assert smalls[-1].dtype == np.uint8 and smalls[-1].shape == smalls[0].shape


@pytest.mark.parametrize(('channels', 'dtype'), [(1, np.uint8), (2, np.float32), (4, np.uint16)])
def test_kinds_of_images(channels, dtype):
    image = np.dstack([IMAGE, IMAGE[..., :1]])[..., :channels].astype(np.float32) / 255
    image = (image * np.iinfo(dtype).max).round().astype(dtype) if np.dtype(dtype).kind == 'u' else image
    rescaler = rescaler_of()
    own, refined = (rescaler.downscale(image, refine=steps) for steps in (0, 4))
    assert refined.dtype == dtype and refined.shape == own.shape == (9, 8, channels)
    for plane in (slice(0, 1),) if channels == 1 else (slice(0, -1), slice(-1, None)):
        errors = [error(rescaler, image[..., plane], small[..., plane]) for small in (own, refined)]
        assert errors[1] < errors[0]


def test_weight_keeps_it_near_the_own_small_image():
    rescaler = rescaler_of()
    own, free, held = (rescaler.downscale(IMAGE, steps, weight) for steps, weight in ((0, 0), (8, 0), (8, 20)))
    distances = [np.square(small.astype(float) - own).mean() for small in (free, held)]
    assert distances[1] < 0.5 * distances[0]


def test_the_network_stays_as_it_is():
    rescaler = rescaler_of()
    before, trained = weights_of(rescaler.net), [parameter.requires_grad for parameter in rescaler.net.parameters()]
    with torch.inference_mode():
        rescaler.downscale(IMAGE, refine=1)
    assert any(trained) and [parameter.requires_grad for parameter in rescaler.net.parameters()] == trained
    assert all(parameter.grad is None for parameter in rescaler.net.parameters())
    assert all(torch.equal(before[name], value) for name, value in weights_of(rescaler.net).items())


def test_small_images_that_a_file_changes():
    """A JPEG is written of what is kept, and that JPEG restores better."""
    rescaler = rescaler_of()

    def store(pixels):
        return through_file('.jpg', pixels, quality=80)

    errors = [error(rescaler, IMAGE, store(rescaler.downscale(IMAGE, refine=steps, store=store))) for steps in (0, 5)]
    assert errors[1] < errors[0]


def test_validation_refines_as_the_class_does():
    rescaler = rescaler_of()
    with torch.no_grad():
        small = Sampler(rescaler.net).downscale(to_tensor(IMAGE), 3)[0]
    got = (small * 255).round().flip(0).permute(1, 2, 0).numpy()
    assert np.array_equal(got, rescaler.downscale(IMAGE, refine=3))


@pytest.mark.parametrize(('arguments', 'message'), [
    ((-1,), 'refine is -1; it must be a whole number of steps from 0'), ((1.5,), 'refine is 1.5'),
    ((True,), 'refine is True'), ((1, -0.1), 'refine_weight is -0.1; it must be a number from 0'),
    ((1, float('nan')), 'refine_weight is nan')])
def test_wrong_values(arguments, message):
    with pytest.raises(InputError, match=message):
        rescaler_of().downscale(IMAGE, *arguments)
