"""HCFlow on NumPy images: the numbers are the network's, the kind of image stays."""
import numpy as np
import pytest
import torch
from helpers import DATA, equal, load_golden, perturb, random_image, small_net

from hcflow_arch import HCFlowNet, InputError
from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.checkpoints.pretrained import load_pretrained, save_pretrained
from hcflow_model.images.arrays import spread_colours
from hcflow_model.images.files import read_image
from hcflow_model.inference import base, draw
from hcflow_model.inference.noise import NoiseField

LR = read_image(DATA / 'val_lq_x4' / 'cat.png')[:20, :30]
HR = read_image(DATA / 'val_gt' / 'cat.png')[:80, :120]


def net_of(task='sr', **kwargs):
    return perturb(small_net(4, task, **kwargs), 0.02).eval()


def upscaler(**kwargs):
    return HCFlowUpscaler(net_of(), device='cpu', **kwargs)


def tensor(image):
    """BGR uint8 -> (1, 3, H, W) RGB in [0, 1]."""
    return torch.from_numpy(image[..., ::-1].transpose(2, 0, 1) / np.float32(255))[None]


def test_is_decode_of_the_noise_field_in_bgr():
    net = net_of()
    latents = NoiseField(5).latents(net, range(20), range(30), 0.7)
    wanted = (net.decode(tensor(LR), latents)[0] * 255).round().flip(0).permute(1, 2, 0).detach().numpy()
    got = HCFlowUpscaler(net)(LR, temperature=0.7, seed=5)
    assert got.dtype == np.uint8 and np.array_equal(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize('shape', [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64, np.float16])
def test_kind_and_type_stay(shape, dtype):
    image = np.random.default_rng(0).random(shape)
    image = image.astype(dtype) if np.dtype(dtype).kind == 'f' else (image * np.iinfo(dtype).max).astype(dtype)
    out = upscaler()(image)
    assert out.dtype == dtype and out.shape == (80, 120, *shape[2:]) and out.std() > 0


def test_depth_goes_through_the_network():
    image = (LR.astype(np.uint16) << 8) + 77
    deep, shallow, exact = (upscaler()(i) for i in (image, (image / 257).round().astype(np.uint8),
                                                    (image / 65535).astype(np.float32)))
    assert np.abs(deep / 65535 - exact).max() < 1e-5 < np.abs(shallow / 255 - exact).max()


def test_grey_is_the_mean_of_its_colours():
    grey = LR[..., 0].astype(np.float32) / 255
    colours = upscaler()(np.repeat(grey[..., None], 3, 2))
    assert np.abs(upscaler()(grey) - colours.mean(2)).max() < 1e-6


def test_alpha_is_upscaled_without_noise_and_opaque_stays_opaque():
    alpha = LR[..., 1]
    first, second = upscaler().samples(np.dstack([LR, alpha]), 2)
    assert np.array_equal(first[..., 3], upscaler()(alpha, temperature=0)) and first[..., 3].std() > 5
    assert np.array_equal(first[..., :3], upscaler()(LR)) and np.array_equal(first[..., 3], second[..., 3])
    for value in (0, 255):
        assert (upscaler()(np.dstack([LR, np.full_like(alpha, value)]))[..., 3] == value).all()


@pytest.mark.parametrize('channels', [2, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_transparent_edges_are_not_dark(channels, dtype):
    """What files hold under alpha 0, mostly black, is not seen by the network."""
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    rows, columns = np.mgrid[:20, :30]
    alpha = np.clip(8 - np.hypot(rows - 10, columns - 15), 0, 1)  # a disc with a smooth edge
    colours = np.full((20, 30, channels - 1), 0.8)
    whole = (np.dstack([colours, alpha]) * top).astype(dtype)
    black = whole.copy()
    black[whole[..., -1] == 0, :-1] = 0
    assert np.array_equal(upscaler()(black), upscaler()(whole))
    rescaler = HCFlowRescaler(net_of('rescaling'), device='cpu')
    assert np.array_equal(rescaler.downscale(black), rescaler.downscale(whole))
    clear = np.zeros_like(black)
    assert np.array_equal(upscaler()(clear)[..., :-1], upscaler()(clear[..., :-1].squeeze()).reshape(80, 120, -1))


def test_nearest_colours():
    image = np.random.default_rng(0).integers(1, 256, (11, 17, 4), np.uint8)
    image[..., 3] *= np.random.default_rng(1).random((11, 17)) < 0.1
    spread, seen = spread_colours(image), np.argwhere(image[..., 3] > 0)
    for place in np.argwhere(image[..., 3] == 0):
        distances = np.hypot(*(seen - place).T)
        nearest = {tuple(image[tuple(other)][:3]) for other in seen[distances <= 1.05 * distances.min()]}
        assert tuple(spread[tuple(place)][:3]) in nearest
    assert np.array_equal(spread[image[..., 3] > 0], image[image[..., 3] > 0])
    assert np.array_equal(spread[..., 3], image[..., 3])


def test_images_that_no_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(base, 'free_memory', lambda device: 20 * 30 * 16 * 3)
    assert upscaler()(LR).shape == (80, 120, 3)
    with pytest.raises(InputError, match='2 image.* of 80x120 pixels need'):
        upscaler().samples(LR, 2)


def test_a_network_of_the_caller_stays_as_it_is():
    net = net_of().train()
    up = HCFlowUpscaler(net)
    up(LR)
    assert all(module.training for module in net.modules()) and not up.net.training
    perturb(net)  # training goes on; the upscaler keeps its weights
    assert np.array_equal(up(LR), HCFlowUpscaler(net_of())(LR))


def test_samples_and_seeds():
    up = upscaler()
    samples = up.samples(LR, 3, temperature=0.9, seed=4)
    assert np.array_equal(samples[0], up(LR, 0.9, 4)) and not np.array_equal(up(LR, 0.9, 4), up(LR, 0.9, 5))
    assert all((a != b).mean() > 0.3 for a, b in ((samples[0], samples[1]), (samples[1], samples[2])))
    state = torch.get_rng_state()
    assert not np.array_equal(up(LR, 0.9, None), up(LR, 0.9, None))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(up.samples(LR, np.int64(1), np.float64(0.9), np.int64(4))[0], samples[0])
    assert np.array_equal(*up.samples(LR, 2, temperature=0))


def test_tiles_give_the_same_image():
    shares = []
    tiled = upscaler(tile=16, overlap=80)
    tiled.progress = shares.append
    samples = tiled.samples(LR, 2)
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(samples, upscaler().samples(LR, 2), strict=True))
    assert np.allclose(shares, np.arange(1, 9) / 8)


def test_likelihood_and_latents():
    up = upscaler()
    code = up.encode(HR, LR, seed=3)
    noise = torch.rand(1, 3, 80, 120, generator=torch.Generator().manual_seed(3))
    wanted = up.net.encode(tensor(HR), tensor(LR), noise)
    assert torch.equal(code.nll, wanted.nll) and up.log_likelihood(HR, LR, seed=3) == -wanted.nll.item()
    assert up.log_likelihood(HR, LR) != up.log_likelihood(HR[::-1].copy(), LR)
    restored = up.decode(code.lq_exact, code.latents)
    assert restored.dtype == np.float32 and np.abs(restored * 255 - HR).max() <= 4.1  # dequantization: up to 255 / 64
    latents = NoiseField(0).latents(up.net, range(20), range(30), 0.8)
    assert np.array_equal(up.decode(LR, latents), up(LR))
    assert up.decode(LR[..., 0], latents).shape == (80, 120)


@pytest.mark.parametrize('size', [(80, 120), (77, 118)])
def test_rescaling_pair(size):
    re = HCFlowRescaler(net_of('rescaling'), device='cpu')
    image = HR[:size[0], :size[1]]
    small = re.downscale(image)
    wanted = (re.net.encode(tensor(image)).lq[0] * 255).round().flip(0).permute(1, 2, 0).detach().numpy()
    assert small.dtype == np.uint8 and small.shape == (20, 30, 3) and np.array_equal(small, wanted)
    restored = re.restore(small, size, temperature=0)
    assert restored.shape == image.shape
    wanted = re.net.decode(tensor(small), temperature=0)[0].flip(0).permute(1, 2, 0).detach().numpy()
    assert np.array_equal(restored, (wanted * 255).round()[:size[0], :size[1]])
    tiled = HCFlowRescaler(re.net, device='cpu', tile=16, overlap=80)
    assert np.abs(tiled.downscale(image).astype(int) - small).max() <= 1
    assert np.abs(tiled.restore(small, size, seed=1).astype(int) - re.restore(small, size, seed=1)).max() <= 1


def test_rescaling_keeps_grey_alpha_and_depth():
    re = HCFlowRescaler(net_of('rescaling'))
    image = np.dstack([HR[..., 0], HR[..., 1]]).astype(np.uint16) * 257
    small = re.downscale(image)
    assert (small.shape, small.dtype) == ((20, 30, 2), np.uint16) and small[..., 1].std() > 0
    restored = re.restore(small)
    assert (restored.shape, restored.dtype) == ((80, 120, 2), np.uint16)
    assert np.array_equal(restored[..., 1], re.restore(small[..., 1], temperature=0))


@pytest.mark.parametrize('name', ['a.safetensors', 'a.pth'])
def test_saved_networks_come_back(name, tmp_path):
    up = HCFlowUpscaler(net_of(quant_bins=32, temperature=0.6))
    up.save_pretrained(tmp_path / 'new' / name if name.endswith('safetensors') else tmp_path / name)
    path, = tmp_path.rglob(name)
    again = HCFlowUpscaler(path)
    assert equal(again.net.state_dict(), up.net.state_dict()) and again.net.arguments == up.net.arguments
    assert np.array_equal(again(LR), up(LR))


def test_safetensors_without_arguments_and_broken_ones(tmp_path):
    from safetensors.torch import save_file
    net = net_of()
    save_file(net.state_dict(), tmp_path / 'bare.safetensors')
    assert equal(load_pretrained(tmp_path / 'bare.safetensors').state_dict(), net.state_dict())
    save_file(load_golden('sr4')[1], tmp_path / 'released.safetensors')
    assert isinstance(load_pretrained(tmp_path / 'released.safetensors'), HCFlowNet)
    content = (tmp_path / 'bare.safetensors').read_bytes()
    (tmp_path / 'broken.safetensors').write_bytes(content[:-20])
    for name in ('broken.safetensors', 'missing.safetensors'):
        with pytest.raises(InputError, match=name):
            load_pretrained(tmp_path / name)
    with pytest.raises(InputError, match='.safetensors or .pth'):
        save_pretrained(net, tmp_path / 'a.onnx')


def test_samples_that_are_not_finite_are_drawn_again(monkeypatch, warnings):
    up, seen = upscaler(), []
    wanted = up._draw(LR, 1, 0.8, 0)

    class Field(NoiseField):
        def latents(self, *args):
            seen.append(int(self.key[1]))
            first, *others = super().latents(*args)
            return [first * float('nan') if int(self.key[1]) in broken else first, *others]

    monkeypatch.setattr(draw, 'NoiseField', Field)
    broken = {1}
    samples = up.samples(LR, 2)
    assert np.array_equal(samples[0], wanted[0]) and samples[1].std() > 1
    assert seen == [0, 1, 1, 2**32 + 1]  # the second 1 is clipped
    assert warnings == ['Sample 2 had pixels that are not finite; draw 3, with noise clipped at 3 standard deviations, '
                        'is finite.']
    broken = range(2**40)
    with pytest.raises(InputError, match='not finite at temperature 0.8, 4 times'):
        up(LR)


def test_temperature_maps():
    up = upscaler()
    wanted = up(LR, 0.8)
    large = np.full((80, 120), 204, np.uint8)
    for map_ in (large, large[:20, :30], np.dstack(3 * [large]), large.astype(np.uint16) * 257, large / 255):
        assert np.array_equal(up(LR, map_), wanted)
    half = np.zeros((20, 30), np.float32)
    half[:, 15:] = 0.8
    got = up(LR, half).astype(int)
    quiet, lively = (abs(got - up(LR, t))[:, part] for t, part in ((0, slice(0, 20)), (0.8, slice(100, 120))))
    assert quiet.mean() < 1 and lively.mean() < 1 and abs(got - up(LR, 0))[:, 100:].mean() > 2
    rescaler = HCFlowRescaler(net_of('rescaling'), device='cpu')
    for size in ((80, 120), (77, 118)):
        map_ = large[:size[0], :size[1]]
        assert np.array_equal(rescaler.restore(LR, size, map_), rescaler.restore(LR, size, 0.8))


def test_self_ensemble():
    up = upscaler()
    views = [np.rot90(LR[:, ::step], turns) for step in (1, -1) for turns in range(4)]
    images = [np.rot90(up(np.ascontiguousarray(view) / 255, 0), -turns)[:, ::step] for view, (step, turns)
              in zip(views, [(step, turns) for step in (1, -1) for turns in range(4)], strict=True)]
    assert abs(up(LR, self_ensemble=True) - 255 * np.mean(images, 0)).max() < 0.501
    rescaler = HCFlowRescaler(net_of('rescaling'), device='cpu')
    ensemble = rescaler.restore(LR, (78, 119), self_ensemble=True)
    assert ensemble.shape == (78, 119, 3)
    assert not np.array_equal(ensemble, rescaler.restore(LR, (78, 119), 0))


@pytest.mark.parametrize('call,message', [
    (lambda: upscaler()(LR, 0.8, self_ensemble=True), 'at temperature 0'),
    (lambda: upscaler()(LR, LR), 'The temperature map has colours'),
    (lambda: upscaler()(LR, HR[:76, :120, 0]), 'The temperature map is 76x120'),
    (lambda: upscaler()(LR, HR[:40, :60, 0]), 'The temperature map is 40x60; for this image it must be 20x30'),
    (lambda: upscaler()(LR, np.full((20, 30), -0.5)), 'The temperature map has values from -0.5'),
    (lambda: upscaler()(LR, np.full((20, 30), np.nan)), 'The temperature map has values from nan'),
    (lambda: upscaler()('lr.png'), 'NumPy array'), (lambda: upscaler()(LR[..., :0]), 'shape'),
    (lambda: upscaler()(LR.astype(int)), 'type int64'), (lambda: upscaler()(LR.astype(np.float32)), r'in \[0, 1\]'),
    (lambda: upscaler()(np.zeros((3, 4, 5), np.uint8)), 'shape'), (lambda: upscaler()(LR, -1), 'temperature'),
    (lambda: upscaler()(LR, seed=-1), 'seed'), (lambda: upscaler()(LR, seed=2**63), 'seed'),
    (lambda: upscaler().samples(LR, 0), 'samples'), (lambda: upscaler(tile=8), 'from 16'),
    (lambda: upscaler(overlap=-1), 'overlap'), (lambda: HCFlowUpscaler(net_of('rescaling')), "task 'sr'"),
    (lambda: HCFlowRescaler(net_of()), "task 'rescaling'"), (lambda: HCFlowUpscaler(net_of(), device='nix'), 'device'),
    (lambda: HCFlowUpscaler('nowhere.pth'), 'does not exist'),
    (lambda: upscaler().encode(np.dstack([HR, HR[..., 0]])), 'alpha'),
    (lambda: upscaler().log_likelihood(HR, LR[:10]), 'belongs to'),
    (lambda: HCFlowRescaler(net_of('rescaling')).downscale(HR[:3]), 'smaller than the scale'),
    (lambda: HCFlowRescaler(net_of('rescaling')).restore(LR, (81, 120)), 'at most 80x120'),
    (lambda: HCFlowRescaler(net_of('rescaling')).restore(LR, (76, 120)), 'at most 80x120')])
def test_wrong_values(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_float_images_of_a_network_are_not_clipped_before_it():
    values = random_image(20, 30, 3).numpy() * 1.2 - 0.1
    assert not np.array_equal(upscaler()(values), upscaler()(values.clip(0, 1)))
