"""The sampler: what a sample is made of, tiles, and what is drawn again and counted."""
import pytest
import torch
from helpers import FEATURE_NET, perturb, random_image, small_net

from hcflow_arch import InputError
from hcflow_model.inference.draw import CLIP, DrawCounts, Sample, Sampler, check_seed, noise_of, reader, samples_of


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


def decoded(net, lq, number, redraws=0, temperature=0.8, seed=0, clipped=False):
    latents = noise_of(seed, number, redraws, clipped).latents(net, range(lq.shape[2]), range(lq.shape[3]), temperature)
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
@pytest.mark.parametrize('redraws', [0, 1])
def test_only_the_broken_sample_is_drawn_again_clipped_and_then_with_the_noise_that_follows(value, redraws):
    net, lq = Breaking((1, 3)[:1 + redraws], value), random_image(1, 3, 4, 40)
    drawn = Sampler(net).draw_image(lq, samples_of([0.8], 3), seed=0)
    assert [counts for _, counts in drawn.values()] == [(0, 0, 0, 0), (0, 0, redraws, 1), (0, 0, 0, 0)]
    assert net.calls == 4 + redraws
    for sample, (sr, counts) in drawn.items():
        assert torch.equal(sr, decoded(net, lq, sample.number, counts.redraws, clipped=counts.clipped))
    assert not torch.equal(drawn[0.8, 2][0], decoded(net, lq, 2, redraws))


def test_clipped_noise():
    free, clipped = (noise_of(0, 1, 0, clip).window(0, 21, range(64), range(64)) for clip in (False, True))
    beyond = abs(free) > CLIP
    assert 0.002 < beyond.mean() < 0.0035 and abs(clipped).max() == CLIP
    assert (clipped[~beyond] == free[~beyond]).all() and (clipped[beyond] * free[beyond] > 0).all()


@pytest.mark.parametrize(('temperature', 'redraws'), [(0.8, 2), (0, 0)])
def test_redraws_are_bounded_and_pointless_at_temperature_0(temperature, redraws):
    net, lq = Breaking(range(100)), random_image(1, 3, 20, 20)
    written, sampler = [], Sampler(net, 16, 2)
    counts = sampler.draw(reader(lq), sampler.tiles(20, 20), [Sample(temperature)], 0, lambda *a: written.append(a))
    draws = 1 + (temperature > 0) + redraws  # the second is clipped
    assert counts == {(temperature, 1): (3, 0, redraws, draws > 1)}  # the others lie in the tiles' margins
    assert net.calls == 4 * draws and len(written) == 3 * draws  # the broken tile is never handed on


class Equivariant(torch.nn.Module):
    """A network that flips and turns with its image."""
    scale = 4

    def latent_shapes(self, lq):
        return [(1, 6, 2 * lq.shape[2], 2 * lq.shape[3]), (1, 21, *lq.shape[2:])]

    def coarsest_features(self, lq):
        return lq.exp()

    def decode(self, lq, latents, features, clamp):
        assert not any(latent.any() for latent in latents) and torch.equal(features, lq.exp())
        return (lq * 1.1 - 0.03).repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize('tile', [None, 16])
def test_ensemble_of_an_equivariant_network_changes_nothing(tile):
    lq = random_image(1, 3, 20, 35)
    single, mean = (Sampler(Equivariant(), tile).draw_image(lq, [Sample(0)], 0, ensemble)[0, 1][0]
                    for ensemble in (False, True))
    assert torch.equal(mean, single) and single.min() == 0 and single.max() == 1


def test_ensemble_is_the_mean_over_eight_turned_images():
    net, lq = Breaking(), random_image(1, 3, 4, 6)
    with torch.no_grad():
        images = [net.net.decode(view, temperature=0, clamp=False) / 8 + 0.5 for turned in (lq, lq.transpose(2, 3))
                  for view in (turned, turned.flip(2), turned.flip(3), turned.flip(2, 3))]
    images = [image.clamp(0, 1) for image in images]
    back = [image.flip(axes) for image, axes in zip(images, 2 * [(), (2,), (3,), (2, 3)], strict=True)]
    wanted = torch.stack([*back[:4], *(image.transpose(2, 3) for image in back[4:])]).mean(0)
    drawn = Sampler(net).draw_image(lq, samples_of([0, 0.8], 1), 0, self_ensemble=True)
    assert (drawn[0, 1][0] - wanted).abs().max() < 1e-6 < 1e-3 < (back[0] - wanted).abs().max()
    assert torch.equal(drawn[0.8, 1][0], decoded(net, lq, 1))  # others are as they are without
    net = Breaking((5,))
    assert Sampler(net).draw_image(lq, [Sample(0)], 0, True)[0, 1][1] == (3, 0, 0, 0) and net.calls == 8


def test_temperature_map_in_tiles_as_in_the_whole():
    net = perturb(small_net(num_flow_steps=1, num_cond_steps=1), 0.05).eval()
    lq, map_, sample = random_image(1, 3, 134, 18), random_image(1, 1, 134, 18, seed=1), Sample(1.)

    def draw(map_, tile, overlap):
        sampler, out = Sampler(net, tile, overlap), torch.zeros(1, 3, 4 * 134, 4 * 18)
        sampler.draw(reader(lq), sampler.tiles(134, 18), [sample], 0, lambda sample, tile, sr: reader(out, 4)(
            tile.rows, tile.columns).copy_(sr), temperature_map=reader(map_))
        return out

    number = Sampler(net).draw_image(lq, [Sample(0.7)], 0)[0.7, 1][0]
    assert torch.equal(draw(torch.full_like(map_, 0.7), None, 16), number)
    whole = draw(map_, None, 16)
    assert (draw(map_, 67, 57) - whole).abs().max() < 1e-5
    assert (draw(map_.flip(2), None, 16) - whole).abs().max() > 1e-2


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
