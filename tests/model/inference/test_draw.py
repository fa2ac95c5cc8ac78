"""Draws on a decode that breaks on demand: what is drawn again, how often, and what is counted."""
import pytest
import torch
from helpers import perturb, random_image, small_net

from hcflow_model.inference.draw import draw


class Breaking(torch.nn.Module):
    """A network whose pixels stay near [0, 1]; its calls number `broken` put three of `value` into some images."""

    def __init__(self, broken=(), value=float('nan'), images=(0,)):
        super().__init__()
        self.net, self.broken, self.value, self.images = perturb(small_net().eval(), 0.05), broken, value, images
        self.calls = []

    def decode(self, lq, **kwargs):
        sr = self.net.decode(lq, **kwargs) / 8 + 0.5
        if len(self.calls) in self.broken:
            for image in self.images:
                if image < len(sr):
                    sr[image, 1, 0, :3] = self.value
        self.calls.append(len(lq))
        return sr


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize('temperature', [0, 0.8])
@pytest.mark.parametrize('with_features', [False, True])
def test_a_good_draw_is_decode(temperature, with_features):
    net, lq = Breaking(), random_image(2, 3, 4, 5)
    features = net.net.coarsest_features(lq) if with_features else None
    sr, counts = draw(net, lq, temperature, seeded(), features=features)
    with torch.no_grad():
        wanted = net.net.decode(lq, temperature=temperature, generator=seeded(), clamp=False) / 8 + 0.5
    assert torch.equal(sr, wanted.clamp(0, 1))
    assert all(count.tolist() == [0, 0] for count in counts) and net.calls == [2]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_only_the_broken_sample_is_drawn_again_with_the_noise_that_follows(value):
    net, lq, generator = Breaking((0,), value, images=(1,)), random_image(3, 3, 4, 4), seeded()
    sr, counts = draw(net, lq, 0.8, generator, features=net.net.coarsest_features(lq))
    with torch.no_grad():
        generator = seeded()
        first = Breaking().decode(lq, temperature=0.8, generator=generator, clamp=False)
        second = Breaking().decode(lq[1:2], temperature=0.8, generator=generator, clamp=False)
    wanted = torch.stack([first[0], second[0], first[2]]).clamp(0, 1)
    assert torch.allclose(sr, wanted, atol=1e-6) and not torch.allclose(sr[1], first[1].clamp(0, 1), atol=1e-3)
    assert counts.nonfinite.tolist() == [0, 0, 0] and counts.redraws.tolist() == [0, 1, 0] and net.calls == [3, 1]


@pytest.mark.parametrize(('temperature', 'max_redraws', 'redraws'), [(0.8, 3, 3), (0.8, 1, 1), (0.8, 0, 0), (0, 3, 0)])
def test_redraws_are_bounded_and_pointless_at_temperature_0(temperature, max_redraws, redraws):
    net = Breaking(range(100))
    sr, counts = draw(net, random_image(2, 3, 4, 4), temperature, seeded(), max_redraws=max_redraws)
    assert counts.nonfinite.tolist() == [3, 0] and counts.redraws.tolist() == [redraws, 0]
    assert net.calls == [2] + [1] * redraws
    assert sr[0, 1, 0, :3].isnan().all()  # left as they are: nothing is painted over


@pytest.mark.parametrize(('value', 'far'), [(1.9, 0), (2.1, 3), (-0.9, 0), (-1.1, 3), (1e30, 3)])
def test_pixels_far_out_of_range_are_counted_and_clamped(value, far):
    net = Breaking((0,), value)
    sr, counts = draw(net, random_image(1, 3, 4, 4), 0.8, seeded())
    assert counts.out_of_range.tolist() == [far] and counts.nonfinite.tolist() == [0] and net.calls == [1]
    assert sr.min() >= 0 and sr.max() <= 1
