"""Tiles: they cover the image, and with a margin of the receptive field they are the whole image."""
import numpy as np
import pytest
import torch
from helpers import perturb, random_image, small_net

from hcflow_arch import InputError
from hcflow_model.inference.cuda_graph import RepeatedDecode
from hcflow_model.inference.draw import draw
from hcflow_model.inference.noise import NoiseField
from hcflow_model.inference.tiling import (
    TiledNet,
    check_tile,
    decode_tiles,
    downscale_tiles,
    receptive_field,
    size_multiple,
    split,
)

# takes sizes that are multiples of 4
RRDB = {'type': 'RRDBNet', 'num_out_ch': 5, 'scale': 1, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 4}


@pytest.mark.parametrize('height,width,tile,overlap,multiple', [
    (50, 33, 16, 3, 1), (16, 100, 32, 0, 1), (7, 5, None, 9, 1), (65, 90, 16, 5, 4), (128, 128, 64, 16, 8)])
def test_tiles_cover_every_pixel_once(height, width, tile, overlap, multiple):
    seen = np.zeros((height, width), int)
    for own_rows, own_columns, rows, columns in split(height, width, tile, overlap, multiple):
        seen[own_rows.start:own_rows.stop, own_columns.start:own_columns.stop] += 1
        for own, outer, length in ((own_rows, rows, height), (own_columns, columns, width)):
            assert len(own) <= (tile or length)
            assert outer.start == 0 or outer.start <= own.start - overlap and outer.start % multiple == 0
            assert outer.stop == length or outer.stop >= own.stop + overlap and outer.stop % multiple == 0
            assert outer.start >= 0 and outer.stop <= length and len(outer) <= len(own) + 2 * (overlap + multiple)
    assert (seen == 1).all()


def assembled(net, lq, tile, overlap, temperature=0.8, fields=1):
    out = torch.zeros(fields, 3, *(length * net.scale for length in lq.shape[2:]))
    tiles = split(*lq.shape[2:], tile, overlap, size_multiple(net))

    def read(rows, columns):
        return lq[:, :, rows.start:rows.stop, columns.start:columns.stop]

    noise = [NoiseField(0, i) for i in range(fields)]
    for place, index, sr in decode_tiles(RepeatedDecode(net), read, tiles, noise, temperature):
        rows, columns = (slice(own.start * net.scale, own.stop * net.scale) for own in (place.rows, place.columns))
        out[index:index + 1, :, rows, columns] = sr
    return out


@pytest.mark.parametrize('scale,task', [(2, 'sr'), (4, 'sr'), (4, 'rescaling')])
def test_margin_of_the_receptive_field_is_exact(scale, task):
    net = perturb(small_net(scale, task, num_flow_steps=1, num_cond_steps=1), 0.05).eval()
    reach = receptive_field(net)
    lq = random_image(1, 3, 2 * reach + 20, 18)
    whole = assembled(net, lq, None, 0)
    assert (assembled(net, lq, reach + 10, reach) - whole).abs().max() < 1e-5
    assert (assembled(net, lq, reach + 10, 1) - whole).abs().max() > 1e-3  # margins do matter


@pytest.mark.parametrize('scale,task', [(2, 'sr'), (4, 'sr'), (4, 'rescaling')])
def test_receptive_field_is_not_too_small_nor_much_too_large(scale, task):
    """By the gradient of one LR pixel's HR pixels, in float64, where also what is very small is not 0."""
    net = perturb(small_net(scale, task, num_flow_steps=1, num_cond_steps=1).double(), 0.1).eval()
    reach = receptive_field(net)
    size = 2 * reach + 9
    lq = random_image(1, 3, size, 5, dtype=torch.float64).requires_grad_()
    middle = size // 2
    latents = [torch.zeros(shape, dtype=torch.float64) for shape in net.latent_shapes(lq)]
    sr = net.decode(lq, latents, clamp=False)
    pixels = sr[:, :, middle * scale:(middle + 1) * scale]
    (pixels * random_image(*pixels.shape)).sum().backward()  # in the plain sum the bands of the Haar transform cancel
    assert lq.grad.isfinite().all()
    touched = lq.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    seen = max(middle - touched.min().item(), touched.max().item() - middle)
    assert 0.8 * reach <= seen <= reach  # steps that leave the LR image alone reach less far


def test_whole_equals_plain_decode_with_the_same_latents():
    net, lq = perturb(small_net(), 0.05).eval(), random_image(1, 3, 9, 12)
    latents = NoiseField(0).latents(net, range(9), range(12), 0.8)
    with torch.no_grad():
        assert torch.equal(assembled(net, lq, None, 0), net.decode(lq, latents, clamp=False))


def test_samples_of_tiles_differ_and_agree_with_the_whole():
    net, lq = perturb(small_net(), 0.05).eval(), random_image(1, 3, 20, 40)
    samples = assembled(net, lq, 16, receptive_field(net), fields=2)
    assert (samples - assembled(net, lq, None, 0, fields=2)).abs().max() < 1e-5
    assert (samples[0] - samples[1]).abs().mean() > 1e-2


def test_registered_feature_net_sees_its_windows():
    net = perturb(small_net(feature_net=RRDB), 0.02).eval()
    assert size_multiple(net) == 4 and receptive_field(net) is None
    lq = random_image(1, 3, 45, 90)
    assert (assembled(net, lq, 18, 60) - assembled(net, lq, None, 0)).abs().max() < 1e-5


def test_downscaling_in_tiles():
    net = perturb(small_net(4, 'rescaling'), 0.05).eval()
    hr = random_image(1, 3, 4 * 60, 4 * 20)
    with torch.no_grad():
        whole = net.downscale(hr)
        assert torch.allclose(whole, net.encode(hr).lq_exact, atol=1e-6)
        tiled = TiledNet(net, 16, receptive_field(net))
        assert (tiled.downscale(hr) - whole).abs().max() < 1e-5
        assert (TiledNet(net, 16, 0).downscale(hr) - whole).abs().max() > 1e-4

    def read(rows, columns):
        return hr[:, :, 4 * rows.start:4 * rows.stop, 4 * columns.start:4 * columns.stop]

    (_, lq), = downscale_tiles(net, read, split(60, 20, None))
    assert torch.equal(lq, whole)


def test_tiled_net_draws_by_its_generator():
    net, lq = perturb(small_net(), 0.02).eval(), random_image(2, 3, 20, 24)
    tiled, whole = TiledNet(net, 16, 80), TiledNet(net, 100)
    samples = [draw(n, lq, 0.8, torch.Generator().manual_seed(seed))[0]
               for n, seed in ((tiled, 0), (whole, 0), (tiled, 1))]
    assert samples[0].shape == (2, 3, 80, 96) and (samples[0] - samples[1]).abs().max() < 1e-5
    assert (samples[0] - samples[2]).abs().mean() > 1e-3
    assert (samples[0][0] - samples[0][1]).abs().mean() > 1e-3
    with torch.no_grad():
        assert (draw(tiled, lq, 0)[0] - net.decode(lq, temperature=0)).abs().max() < 1e-5


@pytest.mark.parametrize('tile', [0, 15, -3, 32., True, '64'])
def test_tiles_too_small(tile):
    with pytest.raises(InputError, match=r'--tile is .*from 16'):
        check_tile('--tile', tile)
