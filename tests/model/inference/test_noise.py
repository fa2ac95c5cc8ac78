"""Noise fields: windows agree with the whole, and what they hold is independent standard normal noise."""
import numpy as np
import pytest
import torch
from helpers import small_net

from hcflow_model.inference.noise import BLOCK, NoiseField


@pytest.mark.parametrize('rows,columns', [
    (range(1), range(1)), (range(70), range(200)), (range(63, 65), range(10, 150)), (range(64, 128), range(128, 192)),
    (range(5, 130), range(191, 193))])
def test_windows_are_slices_of_the_whole(rows, columns):
    field = NoiseField(3, 1)
    whole = field.window(1, 4, range(130), range(200))
    window = field.window(1, 4, rows, columns)
    assert window.dtype == np.float32
    assert np.array_equal(window, whole[:, rows.start:rows.stop, columns.start:columns.stop])


def test_is_standard_normal_and_white():
    noise = NoiseField(0).window(0, 3, range(256), range(256)).astype(np.float64)
    count = noise.size
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs((noise**power).mean() - moment) < 5 * np.sqrt(120 / count)
    for shift in ((0, 1, 0), (0, 0, 1), (1, 0, 0), (0, BLOCK, 0), (0, 0, BLOCK)):
        assert abs((noise * np.roll(noise, shift, (0, 1, 2))).mean()) < 5 / np.sqrt(count)


def test_everything_that_names_a_position_changes_it():
    fields = [NoiseField(0).window(0, 2, range(8), range(8)), NoiseField(1).window(0, 2, range(8), range(8)),
              NoiseField(0, 1).window(0, 2, range(8), range(8)), NoiseField(0).window(1, 2, range(8), range(8)),
              NoiseField(0).window(0, 2, range(64, 72), range(8)), NoiseField(0).window(0, 2, range(8), range(64, 72)),
              NoiseField(2**63 - 1, 2**40).window(0, 2, range(8), range(8))]
    for i, a in enumerate(fields):
        for b in fields[:i]:
            assert not (a == b).any()


def test_same_on_every_machine():
    assert np.allclose(NoiseField(7).window(0, 1, range(1), range(3)), [[[-0.293339, 1.7038306, 1.5391918]]])


@pytest.mark.parametrize('scale', [2, 4, 8])
def test_latents_of_a_window(scale):
    net, field = small_net(scale), NoiseField(5)
    whole = field.latents(net, range(30), range(40), 0.5)
    lq = torch.zeros(1, 3, 30, 40)
    assert [latent.shape for latent in whole] == net.latent_shapes(lq)
    window = field.latents(net, range(11, 20), range(3, 40), 0.5)
    for level, (part, all_of_it) in enumerate(zip(window, whole, strict=True)):
        factor = scale // 2**(level + 1)
        assert torch.equal(part, all_of_it[:, :, 11 * factor:20 * factor, 3 * factor:40 * factor])
    assert abs(whole[0].std() - 0.5) < 0.05
    assert all(torch.equal(latent, torch.zeros_like(latent)) for latent in field.latents(net, range(3), range(4), 0))
