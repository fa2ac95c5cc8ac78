import pytest
import torch
from basicsr.utils.matlab_functions import imresize

from hcflow_model.images.bicubic import bicubic_resize


@pytest.mark.parametrize('scale', [2, 4, 8])
@pytest.mark.parametrize('down', [True, False])
def test_equals_basicsr_imresize(scale, down, device):
    images = torch.rand(2, 3, 32, 48)
    wanted = torch.stack([imresize(image, 1 / scale if down else scale) for image in images])
    got = bicubic_resize(images.to(device), scale, down).cpu()
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 2e-6


def test_takes_images_smaller_than_the_kernel():
    assert bicubic_resize(torch.full((1, 3, 4, 4), 0.5), 4, down=True).sub(0.5).abs().max() < 1e-6
    assert bicubic_resize(torch.full((1, 3, 1, 2), 0.5), 4).shape == (1, 3, 4, 8)
