"""The sampler: what a sample is made of, tiles, and what is drawn again and counted."""
import pytest
import torch
from helpers import FEATURE_NET, perturb, random_image, small_net

from hcflow_arch import InputError
from hcflow_model.inference.draw import DrawCounts, Sample, Sampler, check_seed, noise_of, reader, samples_of


class Breaking(torch.nn.Module):
    """A network whose pixels stay near [0, 1]; its decodes number `broken` put three of `value` into the image."""

    def __init__(self, broken=(), value=float('nan')):
        super().__init__()
        self.net, self.broken, self.value, self.calls = perturb(small_net().eval(), 0.05), broken, value, 0
        self.scale, self.latent_shapes, self.coarsest_features = 4, self.net.latent_shapes, self.net.coarsest_features

    def decode(self, lq, latents, **kwargs):
        sr = self.net.decode(lq, latents, **kwargs) / 8 + 0.5
        if self.calls in self.broken:
            sr[0, 1, 0, :3] = self.value
        self.calls += 1
        return sr


def decoded(net, lq, number, redraws=0, temperature=0.8, seed=0):
    latents = noise_of(seed, number, redraws).latents(net, range(lq.shape[2]), range(lq.shape[3]), temperature)
    with torch.no_grad():
        return (net.net.decode(lq, latents, clamp=False) / 8 + 0.5).clamp(0, 1)


def test_samples_that_are_drawn():
    assert samples_of([0, 0.8], 2) == [(0, 1), (0.8, 1), (0.8, 2)]
    assert noise_of(3, 1).key.tolist() == [3, 0] and noise_of(3, 2, 1).key.tolist() == [3, 1 + 2**32]


@pytest.mark.parametrize('sample', [Sample(0), Sample(0.8), Sample(0.8, 3)])
def test_a_sample_does_not_depend_on_the_others(sample):
    net, lq = Breaking(), random_image(1, 3, 4, 5)
    drawn = Sampler(net).draw_image(lq, samples_of([0, 0.5, 0.8], 3), seed=7)
    sr, counts = Sampler(net).draw_image(lq, [sample], seed=7)[sample]
    assert torch.equal(sr, drawn[sample][0]) and counts == DrawCounts(0, 0, 0) and sr.dtype == torch.float32
    assert torch.equal(sr, decoded(net, lq, sample.number, temperature=sample.temperature, seed=7))


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_only_the_broken_sample_is_drawn_again_with_the_noise_that_follows(value):
    net, lq = Breaking((1,), value), random_image(1, 3, 4, 4)
    drawn = Sampler(net).draw_image(lq, samples_of([0.8], 3), seed=0)
    assert [counts.redraws for _, counts in drawn.values()] == [0, 1, 0] and net.calls == 4
    for sample, (sr, counts) in drawn.items():
        assert torch.equal(sr, decoded(net, lq, sample.number, counts.redraws)) and counts.nonfinite == 0
    assert not torch.allclose(drawn[0.8, 2][0], decoded(net, lq, 2), atol=1e-3)


@pytest.mark.parametrize(('temperature', 'redraws'), [(0.8, 3), (0, 0)])
def test_redraws_are_bounded_and_pointless_at_temperature_0(temperature, redraws):
    net, lq = Breaking(range(100)), random_image(1, 3, 20, 20)
    written, sampler = [], Sampler(net, 16, 2)
    counts = sampler.draw(reader(lq), sampler.tiles(20, 20), [Sample(temperature)], 0, lambda *a: written.append(a))
    assert counts == {(temperature, 1): DrawCounts(3, 0, redraws)}  # the others lie in the tiles' margins
    assert net.calls == 4 * (1 + redraws) and len(written) == 3 * (1 + redraws)  # the broken tile is never handed on


@pytest.mark.parametrize(('value', 'far'), [(1.9, 0), (2.1, 3), (-0.9, 0), (-1.1, 3), (1e30, 3)])
def test_pixels_far_out_of_range_are_counted_and_clamped(value, far):
    net = Breaking((0,), value)
    (sr, counts), = Sampler(net).draw_image(random_image(1, 3, 4, 4), [Sample(0.8)], 0).values()
    assert counts == DrawCounts(0, far, 0) and net.calls == 1 and sr.min() >= 0 and sr.max() <= 1


@pytest.mark.parametrize(('scale', 'task', 'reach'), [(2, 'sr', 38), (4, 'sr', 57), (4, 'rescaling', 62)])
def test_tiles_are_the_whole_image(scale, task, reach):
    net = perturb(small_net(scale, task, num_flow_steps=1, num_cond_steps=1), 0.05).eval()
    lq, samples = random_image(1, 3, 2 * reach + 20, 18), [Sample(0.8), Sample(0.8, 2), Sample(0)]
    whole = Sampler(net).draw_image(lq, samples, 0)
    not_cut = Sampler(net, 500).draw_image(lq, samples, 0)
    exact, near = (Sampler(net, reach + 10, overlap).draw_image(lq, samples, 0) for overlap in (reach, 1))
    for sample in samples:
        assert torch.equal(not_cut[sample][0], whole[sample][0])
        assert (exact[sample][0] - whole[sample][0]).abs().max() < 1e-5
        assert (near[sample][0] - whole[sample][0]).abs().max() > 1e-3  # margins do matter
    assert (whole[samples[0]][0] - whole[samples[1]][0]).abs().mean() > 1e-2


def test_registered_feature_net_sees_its_windows():
    net = perturb(small_net(feature_net=FEATURE_NET), 0.02).eval()  # takes sizes that are multiples of 4
    lq, sample = random_image(1, 3, 45, 90), Sample(0.8)
    tiled, whole = (Sampler(net, tile, 60).draw_image(lq, [sample], 0)[sample][0] for tile in (18, None))
    assert (tiled - whole).abs().max() < 1e-5


def test_downscaling_in_tiles():
    net = perturb(small_net(4, 'rescaling'), 0.05).eval()
    hr = random_image(1, 3, 4 * 100 - 3, 4 * 20)
    with torch.no_grad():
        whole = net.downscale(hr)
        assert torch.allclose(whole, net.encode(hr).lq_exact, atol=1e-6)
    assert torch.equal(Sampler(net).downscale(hr), whole)
    assert (Sampler(net, 16, 75).downscale(hr) - whole).abs().max() < 1e-5
    assert (Sampler(net, 16, 0).downscale(hr) - whole).abs().max() > 1e-4


@pytest.mark.parametrize('seed', [-1, 2**63, 1.0, True, '1'])
def test_wrong_seeds(seed):
    with pytest.raises(InputError, match='--seed is .*from 0 to'):
        check_seed(seed, '--seed')
    with pytest.raises(InputError, match='temperature is -1'):
        Sampler(small_net()).draw_image(random_image(1, 3, 4, 4), [Sample(-1)], 0)
