import math

import pytest
import torch
from basicsr.archs import build_network
from helpers import (
    golden_net,
    jacobian_log_det,
    load_golden,
    perturb,
    random_image,
    relative_error,
    released_names,
    small_net,
)
from torch.distributions import Normal

from hcflow_arch import HCFlowNet, InputError


def add_noise(net, gt, noise):
    """The image that decode(encode(gt)) returns."""
    return gt + noise / net.quant_bins if net.task == 'sr' else gt


def latent_list(case, key, device):
    return [case[f'{key}_level{level}'].to(device) for level in range(3) if f'{key}_level{level}' in case]


# ---- the authors' numbers ----

@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_golden_encode(name, device):
    net, case = golden_net(name)
    net.to(device)
    noise = case.get('dequantization_noise')
    code = net.encode(case['hr'].to(device), case['lr'].to(device), None if noise is None else noise.to(device))
    assert relative_error(code.lq, case['lr_from_hr']) < 1e-4
    latents = latent_list(case, 'latent', 'cpu')
    assert len(code.latents) == len(latents) == len(net.levels)
    for got, wanted in zip(code.latents, latents, strict=True):
        assert relative_error(got, wanted) < 1e-4
    if name == 're4':
        assert code.nll is None
    else:
        assert code.nll.shape == (2,) and relative_error(code.nll.mean(), case['nll']) < 1e-4


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('name', ['sr4', 'sr8'])
def test_golden_gradients(name, device):
    net, case = golden_net(name)
    code = net.to(device)(*(case[key].to(device) for key in ('lr', 'hr')),
                          dequantization_noise=case['dequantization_noise'].to(device))
    code.nll.mean().backward()
    names = released_names(load_golden(name)[1])
    norms = {names[key]: parameter.grad.norm() for key, parameter in net.named_parameters()}
    wanted = dict(zip(case['grad_norm_names'].tolist(), case['grad_norm'], strict=True))
    assert norms.keys() == wanted.keys()
    errors = {key: relative_error(norms[key], wanted[key]) for key in wanted}
    assert max(errors.values()) < 1e-3, max(errors, key=errors.get)


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
@pytest.mark.parametrize('temperature', [0.8, 0])
def test_golden_decode(name, temperature, device):
    net, case = golden_net(name)
    net.to(device)
    lq = case['lr_quantized' if name == 're4' else 'lr'].to(device)
    latents = [temperature * eps for eps in latent_list(case, 'eps', device)]
    with torch.no_grad():
        sr = net.decode(lq, latents)
    assert relative_error(sr, case[f'sr_temperature_{temperature}']) < 1e-4
    if temperature == 0:
        assert torch.equal(net.decode(lq, temperature=0), sr)


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_golden_round_trip(name, device):
    net, case = golden_net(name)
    net.to(device)
    gt = case['hr'].to(device)
    noise = torch.rand_like(gt)
    with torch.no_grad():
        code = net.encode(gt, dequantization_noise=noise)
        restored = net.decode(code.lq_exact, code.latents)
    assert (restored - add_noise(net, gt, noise).clamp(0, 1)).abs().max() < 1e-4


# ---- one bijection ----

@pytest.mark.slow
@pytest.mark.parametrize(('scale', 'task', 'size'), [
    (2, 'sr', (4, 4)), (4, 'sr', (4, 4)), (4, 'sr', (8, 4)), (2, 'rescaling', (4, 4)), (4, 'rescaling', (8, 4)),
])
def test_log_determinant_of_the_network(scale, task, size):
    net = perturb(small_net(scale, task).double())
    gt = random_image(2, 3, *size, dtype=torch.float64)
    lq = random_image(2, 3, size[0] // scale, size[1] // scale, seed=1, dtype=torch.float64)
    noise = random_image(*gt.shape, seed=2, dtype=torch.float64)
    code = net.encode(gt, lq, noise)

    if task == 'sr':
        num_pixels = size[0] * size[1]
        log_prior = sum(Normal(0., 1.).log_prob(latent).sum(dim=(1, 2, 3)) for latent in code.latents)
        log_prior = log_prior + Normal(lq, math.exp(-6)).log_prob(code.lq).sum(dim=(1, 2, 3))
        log_det = -code.nll * math.log(2) * num_pixels + math.log(net.quant_bins) * num_pixels - log_prior
    else:
        log_det, x, parts, features = 0, gt, [], []
        for level in net.levels:
            x, high, level_log_det = level.split(x)
            parts.append((level, x, high))
            log_det = log_det + level_log_det
        for level, low, high in reversed(parts):
            features.append(level.features(low, features))
            log_det = log_det + level.prior(high, features[-1])[1]

    for n in range(2):
        def encode(sample, n=n):
            code = net.encode(sample, dequantization_noise=noise[n:n + 1])
            return torch.cat([code.lq_exact.flatten(), *(latent.flatten() for latent in code.latents)])
        assert log_det[n].item() == pytest.approx(jacobian_log_det(encode, gt[n:n + 1]).item(), abs=1e-7)


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
@pytest.mark.parametrize('scale', [2, 4, 8, 16])
@pytest.mark.parametrize(('batch', 'dtype', 'tolerance'), [(1, torch.float64, 1e-8), (3, torch.float32, 1e-4)])
def test_decode_inverts_encode(task, scale, batch, dtype, tolerance):
    net = perturb(small_net(scale, task), 0.05).to(dtype)
    gt = random_image(batch, 3, 2 * scale, 3 * scale, dtype=dtype)
    noise = random_image(*gt.shape, seed=1, dtype=dtype)
    with torch.no_grad():
        code = net.encode(gt, dequantization_noise=noise)
        assert code.lq.shape == code.lq_exact.shape == (batch, 3, 2, 3)
        assert [latent.shape for latent in code.latents] == net.latent_shapes(code.lq)
        assert sum(latent.numel() for latent in code.latents) + code.lq.numel() == gt.numel()
        restored = net.decode(code.lq_exact, code.latents)
        assert relative_error(restored, add_noise(net, gt, noise)) < tolerance
        other = [latent + 0.5 for latent in code.latents]
        assert (net.decode(code.lq_exact, other) - restored).abs().max() > 1e-2


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_lr_image(task):
    net = perturb(small_net(4, task))
    gt = random_image(1, 3, 16, 24).requires_grad_()
    code = net.encode(gt, dequantization_noise=torch.zeros_like(gt))
    clamped = code.lq_exact.clamp(0, 1)
    assert clamped.ne(code.lq_exact).any() and clamped.eq(code.lq_exact).any()
    gradients = [torch.autograd.grad(image.sum(), gt, retain_graph=True)[0] for image in (code.lq, code.lq_exact)]
    if task == 'sr':
        assert torch.allclose(code.lq, (clamped * 255).round() / 255, atol=1e-6)
        assert torch.equal(*gradients)  # straight through clamping and rounding
    else:
        assert torch.equal(code.lq, clamped)
        assert not torch.equal(*gradients)


# ---- sizes and noise ----

@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_reflected_sizes_are_cropped_back(task):
    net = perturb(small_net(4, task))
    gt, noise = random_image(2, 3, 9, 14), random_image(2, 3, 9, 14, seed=1)
    code = net.encode(gt, dequantization_noise=noise)
    assert code.lq.shape == (2, 3, 3, 4)
    restored = net.decode(code.lq_exact, code.latents)
    assert restored.shape == (2, 3, 12, 16)
    assert (restored[..., :9, :14] - add_noise(net, gt, noise)).abs().max() < 1e-4
    assert net.encode(gt).lq.shape == (2, 3, 3, 4)


def test_lq_of_a_cropped_image():
    net = perturb(small_net())
    gt, noise, lq = random_image(2, 3, 9, 14), random_image(2, 3, 9, 14, seed=1), random_image(2, 3, 2, 3, seed=2)
    code = net.encode(gt, lq, noise)
    cropped = net.encode(gt[..., :8, :12], lq, noise[..., :8, :12])
    assert torch.equal(code.nll, cropped.nll) and torch.equal(code.lq_exact, cropped.lq_exact)
    assert net.encode(gt, lq).nll.shape == (2,)


def test_dequantization_noise():
    net = perturb(small_net(2))
    gt = random_image(1, 3, 64, 64)
    with torch.no_grad():
        code = net.encode(gt)
        noise = (net.decode(code.lq_exact, code.latents) - gt) * net.quant_bins
    assert -0.01 < noise.min() < 0.01 and 0.99 < noise.max() < 1.01 and abs(noise.mean() - 0.5) < 0.02
    torch.manual_seed(0)
    codes = [net.encode(gt) for _ in range(2)]
    assert not torch.equal(codes[0].lq_exact, codes[1].lq_exact)
    torch.manual_seed(0)
    assert torch.equal(net.encode(gt).lq_exact, codes[0].lq_exact)
    net = perturb(small_net(2, 'rescaling'))
    assert torch.equal(net.encode(gt).lq_exact, net.encode(gt).lq_exact)


def test_latents_scale_with_temperature_and_repeat_with_the_generator():
    net, lq = perturb(small_net(8), 0.05), random_image(2, 3, 2, 3)

    def draw(temperature, seed=7):
        return net.draw_latents(lq, temperature, torch.Generator().manual_seed(seed))

    generator = torch.Generator().manual_seed(7)
    wanted = [torch.randn(shape, generator=generator) for shape in reversed(net.latent_shapes(lq))]
    for got, half, other, latent in zip(draw(1.), draw(0.5), draw(1., 8), reversed(wanted), strict=True):
        assert torch.equal(got, latent) and torch.equal(half, 0.5 * latent) and not torch.equal(other, latent)
    assert not any(latent.any() for latent in draw(0))
    with torch.no_grad():
        srs = [net.decode(lq, temperature=0.5, generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8)]
        assert torch.equal(srs[0], srs[1]) and not torch.equal(srs[0], srs[2])
        assert torch.equal(srs[0], net.decode(lq, draw(0.5)))
        assert not torch.equal(net.decode(lq), net.decode(lq))
        assert torch.equal(net.decode(lq, temperature=0), net.decode(lq, temperature=0))


def test_temperature_map():
    net, lq = perturb(small_net(8), 0.05), random_image(2, 3, 2, 3)

    def decode(temperature):
        with torch.no_grad():
            return net.decode(lq, temperature=temperature, generator=torch.Generator().manual_seed(7))

    for number in (0, 0.7):
        assert torch.equal(decode(torch.full((2, 1, 2, 3), float(number))), decode(number))
    map_ = torch.tensor([0., 0.3, 1, 0.5, 2, 0]).view(1, 1, 2, 3).repeat(2, 1, 1, 1)
    map_[1] = 1
    latents, whole = (net.draw_latents(lq, t, torch.Generator().manual_seed(7)) for t in (map_, 1.))
    for latent, z in zip(latents, whole, strict=True):
        k = z.shape[2] // 2
        assert torch.equal(latent[1], z[1])
        assert all(torch.equal(latent[0, :, k * y:k * (y + 1), k * x:k * (x + 1)],
                               map_[0, 0, y, x] * z[0, :, k * y:k * (y + 1), k * x:k * (x + 1)])
                   for y in range(2) for x in range(3))
    for wrong, message in ((map_[:1], r'needs floats of shape \(2, 1, 2, 3\)'), (map_.long(), 'type torch.int64'),
                           (-map_, 'values from -2 to'), (map_ * float('nan'), 'values from nan')):
        with pytest.raises(InputError, match=f'temperature .*{message}'):
            decode(wrong)


def test_decode_takes_the_image_unrounded_and_clamps_only_its_output():
    net, lq = perturb(small_net()), random_image(1, 3, 4, 6)
    with torch.no_grad():
        sr = net.decode(lq, temperature=0)
        assert not torch.equal(sr, net.decode((lq * 255).round() / 255, temperature=0))
        assert not torch.equal(net.decode(lq + 1, temperature=0), net.decode((lq + 1).clamp(0, 1), temperature=0))
        bright = net.decode(3 * lq - 1, temperature=0)
    assert bright.min() == 0 and bright.max() == 1 and sr.shape == (1, 3, 16, 24)


def test_forward_is_encode_and_decode():
    net, lq, gt = perturb(small_net()), random_image(2, 3, 2, 3), random_image(2, 3, 8, 12)
    noise = torch.rand_like(gt)
    for got, wanted in ((net(lq, gt, dequantization_noise=noise), net.encode(gt, lq, noise)),
                        (net(None, gt, dequantization_noise=noise), net.encode(gt, None, noise))):
        assert torch.equal(got.lq, wanted.lq) and torch.equal(got.lq_exact, wanted.lq_exact)
        assert all(map(torch.equal, got.latents, wanted.latents))
        assert got.nll is wanted.nll is None or torch.equal(got.nll, wanted.nll)
    latents = net.draw_latents(lq)
    assert torch.equal(net(lq, latents=latents), net.decode(lq, latents))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    assert torch.equal(net(lq, temperature=0.7, generator=generators[0]),
                       net.decode(lq, temperature=0.7, generator=generators[1]))


@pytest.mark.parametrize(('kwargs', 'temperature'), [({}, 0), ({'task': 'rescaling'}, 1), ({'temperature': 0.6}, 0.6)])
def test_default_temperature(kwargs, temperature):
    net, lq = perturb(small_net(**kwargs)), random_image(1, 3, 2, 3)
    torch.manual_seed(1)
    sr = net(lq)
    torch.manual_seed(1)
    assert torch.equal(net.decode(lq, temperature=temperature), sr)


# ---- start of actnorm ----

def test_encode_starts_actnorm_in_training_mode_only():
    net, gt = small_net(), random_image(2, 3, 8, 12)
    net.eval().encode(gt)
    assert not any(norm.is_initialized() for norm in net.actnorms())
    net.train().encode(gt)
    assert net.is_initialized()
    assert all(norm.bias.any() for norm in net.actnorms())


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_encode_without_latents(task):
    """The same LR image and gradients without the conditional flow, which only an encode that starts it runs."""
    net = small_net(4, task).train()
    gt, lq = random_image(1, 3, 16, 16), random_image(1, 3, 4, 4)
    noise = torch.rand_like(gt)
    assert len(net.encode(gt, lq, noise, with_latents=False).latents) == 2 and net.is_initialized()
    grads = []
    for with_latents in (True, False):
        net.zero_grad()
        code = net(lq, gt, dequantization_noise=noise, with_latents=with_latents)
        code.lq.square().sum().backward()
        grads.append([parameter.grad for parameter in net.levels[0].main.parameters() if parameter.grad is not None])
        assert len(code.latents) == (2 if with_latents else 0)
    assert code.nll is None and torch.equal(code.lq_exact, net.encode(gt, lq, noise).lq_exact)
    assert grads[0] and all(torch.equal(*pair) for pair in zip(*grads, strict=True))
    assert net.levels[0].prior[-1].head.weight.grad is None


@pytest.mark.parametrize('with_grad', [True, False])
def test_decode_never_starts_actnorm(with_grad):
    net, lq = small_net(), random_image(2, 3, 2, 3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.set_grad_enabled(with_grad):
        net.decode(lq)
    assert all(torch.equal(p, before[key]) for key, p in net.named_parameters())
    # trained through decode: the present weights are the start; only looked at: the first batch is still waited for
    assert [norm.is_initialized() for norm in net.actnorms()] == [with_grad] * len(net.actnorms())
    assert net.training and all(module.training for module in net.modules())
    net.encode(random_image(2, 3, 8, 12))
    assert all(norm.bias.any() == (not with_grad) for norm in net.actnorms())


def test_decode_in_eval_mode_leaves_actnorm_waiting():
    net = small_net().eval()
    net.decode(random_image(1, 3, 2, 3))
    assert not any(norm.is_initialized() for norm in net.actnorms())


# ---- construction ----

@pytest.mark.parametrize(('kwargs', 'number'), [({}, 23_232_539), ({'scale': 8}, 27_017_723),
                                                ({'task': 'rescaling'}, 4_396_350)])
def test_published_sizes(kwargs, number):
    with torch.device('meta'):
        net = build_network({'type': 'HCFlowNet', **kwargs})
    assert isinstance(net, HCFlowNet) and sum(p.numel() for p in net.parameters()) == number
    haar = sum(p.numel() for p in net.parameters() if not p.requires_grad)
    assert haar == (144 if net.task == 'rescaling' else 0)


@pytest.mark.parametrize(('scale', 'quant_bins'), [(2, 64), (4, 64), (8, 256), (16, 256)])
def test_default_quant_bins(scale, quant_bins):
    assert small_net(scale).quant_bins == quant_bins
    assert small_net(scale, quant_bins=100).quant_bins == 100
