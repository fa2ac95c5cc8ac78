import math

import pytest
import torch
from basicsr.utils import tensor2img
from helpers import perturb, random_image, small_net

from hcflow_arch import InputError
from hcflow_model import calculate_nll
from hcflow_model.exploration.latents import (
    WINDOW,
    decode_8bit,
    latent_statistics,
    likelihood,
    normalize_latents,
    take_apart,
    walk,
)
from hcflow_model.images.bicubic import bicubic_guide


@pytest.fixture(scope='module')
def net():
    return perturb(small_net(), 0.03).eval()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_images_that_are_not_finite_are_refused(net):
    lq = random_image(1, 3, 5, 6)
    latents = net.draw_latents(lq, 1.0)
    latents[0][0, 0, 0, 0] = float('inf')
    with pytest.raises(InputError, match='not finite'):
        decode_8bit(net, lq, latents)


def test_walk_keeps_the_gaussian():
    first, second = [normal(1, 2, 300, 300)], [normal(1, 2, 300, 300, seed=1)]
    points = [point for point, in walk(first, second, 7)]
    assert len(points) == 7
    assert points[0] is first[0] and points[-1] is second[0]
    for step, point in enumerate(points):
        angle = step / 6 * math.pi / 2
        assert torch.allclose(point, math.cos(angle) * first[0] + math.sin(angle) * second[0])
        assert abs(point.std() - 1) < 0.01
    moves = [float((a - b).square().mean()) for a, b in zip(points[1:], points[:-1], strict=True)]
    assert max(moves) - min(moves) < 0.01 * max(moves)  # at an even speed


def test_latent_statistics_of_a_gaussian_and_of_others():
    latents = [normal(1, 6, 200, 300), 2 * (normal(1, 4, 100, 150) > 0).double() - 0.5]
    gaussian, two_values = latent_statistics(latents)
    assert gaussian[:4] == (1, 200, 300, 6) and two_values[:4] == (2, 100, 150, 4)
    assert abs(gaussian.mean) < 0.01 and abs(gaussian.std - 1) < 0.01 and abs(gaussian.excess_kurtosis) < 0.03
    assert gaussian.beyond_3 == pytest.approx(math.erfc(3 / math.sqrt(2)), rel=0.1)
    values = latents[1].numpy()
    assert two_values.mean == pytest.approx(values.mean()) and two_values.std == pytest.approx(values.std())
    assert two_values.excess_kurtosis == pytest.approx(-2, abs=0.01) and two_values.beyond_3 == 0


def test_statistics_of_float32_latents_are_summed_in_float64():
    latent = (100 + normal(1, 3, 200, 200)).float()
    statistics, = latent_statistics([latent])
    values = latent.double().numpy()
    assert statistics.mean == pytest.approx(values.mean(), abs=1e-9)
    assert statistics.std == pytest.approx(values.std(), abs=1e-9)


def test_likelihood_is_the_metric_and_the_sum_of_its_terms(net):
    gt, lq = ((random_image(1, 3, *size, seed=1) * 255).round() / 255 for size in ((22, 16), (5, 4)))
    known = likelihood(net, gt, lq, seed=3)
    assert known.nll == pytest.approx(calculate_nll(tensor2img(gt), tensor2img(lq), net, seed=3), rel=1e-6)
    assert list(known.terms) == ['LR image', 'latents', 'log-determinants']
    assert sum(known.terms.values()) == pytest.approx(known.nll, rel=1e-5)
    squares = sum((0.5 * z.double().square() + 0.5 * math.log(2 * math.pi)).sum() for z in known.latents)
    assert known.terms['latents'] == pytest.approx(squares.item() / math.log(2) / (20 * 16), rel=1e-5)


def test_an_image_that_was_not_edited_comes_back(net):
    gt = random_image(1, 3, 24, 32, seed=2)
    own = bicubic_guide(gt, 4)
    parts = take_apart(net, gt, own)
    assert torch.equal(parts.own_lq, own)
    assert torch.equal(parts.low(own), parts.lq_exact)
    with torch.no_grad():
        back = net.decode(parts.low(own), latents=parts.latents)
        assert (back - gt).abs().max() < 1e-5
        other = random_image(1, 3, 6, 8, seed=5)  # for other LR content the LR image moves by the difference
        assert (parts.low(other) - parts.lq_exact - (other - own)).abs().max() < 1e-6
        assert (net.decode(parts.low(other), latents=parts.latents) - gt).abs().max() > 0.05


def test_an_edited_image_of_another_size(net):
    with pytest.raises(InputError, match='gt is 24x28 and lq 6x8'):
        take_apart(net, random_image(1, 3, 24, 28), random_image(1, 3, 6, 8))


def test_normalizing_changes_only_what_is_too_large():
    latents = [0.5 * normal(1, 8, 40, 40), 0.5 * normal(1, 8, 20, 20, seed=1)]
    latents[0][:, :, :10, :10] *= 8
    got = normalize_latents(latents, 0.8)
    far = latents[0].clone()
    assert torch.equal(got[1], latents[1])
    reach = 10 + WINDOW // 2
    changed = (got[0] != far).any(dim=1)[0]
    assert changed[:10, :10].all() and not changed[reach:].any() and not changed[:, reach:].any()
    assert got[0][:, :, :8, :8].std() == pytest.approx(0.8, abs=0.04)  # windows at the border see both sides
    window = far[0, :, 3:8, 4:9]  # around position (5, 6)
    factor = 0.8 / window.square().mean().sqrt()
    assert torch.allclose(got[0][0, :, 5, 6], far[0, :, 5, 6] * factor)


def test_normalizing_to_zero_and_of_zeros():
    assert not normalize_latents([normal(1, 2, 6, 6)], 0)[0].any()
    assert torch.equal(normalize_latents([torch.zeros(1, 2, 6, 6)], 0.8)[0], torch.zeros(1, 2, 6, 6))
