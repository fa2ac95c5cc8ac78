import inspect
from types import SimpleNamespace

import hcflow_arch  # isort: skip  (makes `import basicsr` work)
import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric, calculate_psnr
from basicsr.utils.matlab_functions import imresize

from hcflow_arch.errors import InputError
from hcflow_model.metrics import lpips as lpips_networks
from hcflow_model.metrics.hcflow_metric import calculate_diversity, calculate_lpips, calculate_lr_psnr, calculate_nll
from hcflow_model.metrics.lpips import LPIPS_NETS, check_lpips_available

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:torchvision')  # lpips uses its old argument `pretrained`
ALEXNET = LPIPS_NETS['alex'][0]


def random_image(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).uniform(0, 255, (height, width, channels))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub whose 'internet' is the folder `web`: the same loading code, without a real download."""
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    monkeypatch.setattr(ALEXNET.value, 'url', (tmp_path / 'web' / 'alexnet-owt-7be5be79.pth').as_uri())
    (tmp_path / 'web').mkdir()
    lpips_networks._build_lpips.cache_clear()
    yield tmp_path / 'hub' / 'checkpoints' / 'alexnet-owt-7be5be79.pth'
    lpips_networks._build_lpips.cache_clear()


@pytest.fixture
def alexnet_file(hub):
    """Random AlexNet weights where torch.hub looks for the real ones; LPIPS has no use for the classifier."""
    torch.manual_seed(0)
    weights = torchvision.models.alexnet(weights=None).state_dict()
    weights = {k: torch.zeros(1).expand(v.shape) if 'classifier' in k else v for k, v in weights.items()}
    hub.parent.mkdir(parents=True)
    torch.save(weights, hub)
    return hub


def test_lpips_equals_the_package(alexnet_file):
    import lpips
    img, img2 = random_image(40, 48), random_image(40, 48, seed=1)
    net = lpips.LPIPS(net='alex', verbose=False)
    # im2tensor maps RGB [0, 255] to [-1, 1]
    wanted = net(*(lpips.im2tensor(image[..., ::-1]) for image in (img, img2))).item()
    got = calculate_lpips(img, img2, device='cpu')
    assert got > 0 and got == pytest.approx(wanted, rel=1e-5)
    assert not np.isclose(got, calculate_lpips(img[..., ::-1], img2[..., ::-1], device='cpu'), rtol=1e-4)  # not BGR
    assert not np.isclose(got, calculate_lpips(img.round(), img2, device='cpu'), rtol=1e-7)  # not rounded
    chw = [image.transpose(2, 0, 1) for image in (img, img2)]
    assert calculate_lpips(*chw, input_order='CHW', device='cpu') == got
    cropped = calculate_lpips(img[4:-4, 4:-4], img2[4:-4, 4:-4], device='cpu')
    assert calculate_lpips(img, img2, crop_border=4, device='cpu') == cropped
    assert calculate_lpips(img, img, device='cpu') == 0
    opt = {'type': 'calculate_lpips', 'device': 'cpu', 'better': 'lower'}
    assert calculate_metric({'img': img, 'img2': img2}, opt) == got


def test_lpips_repeats_gray(alexnet_file):
    img, img2 = random_image(32, 32, channels=1), random_image(32, 32, seed=1, channels=1)
    wanted = calculate_lpips(img.repeat(3, 2), img2.repeat(3, 2), device='cpu')
    assert calculate_lpips(img, img2, device='cpu') == wanted
    assert calculate_lpips(img[..., 0], img2[..., 0], device='cpu') == wanted


def test_lpips_network_is_built_once(alexnet_file):
    net = check_lpips_available(device='cpu')
    alexnet_file.unlink()
    calculate_lpips(random_image(31, 31), random_image(31, 31), device='cpu')
    assert check_lpips_available('alex', 'cpu') is net
    assert lpips_networks._build_lpips.cache_info().misses == 1
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_lpips_weights_missing_or_broken(hub):
    with pytest.raises(InputError) as error:  # before the images are compared, and again on every later call
        check_lpips_available(device='cpu')
    for part in (hub.name, str(hub.parent), 'not there and could not be downloaded', 'TORCH_HOME', ALEXNET.url):
        assert part in str(error.value)
    web = hub.parents[2] / 'web' / hub.name
    web.write_bytes(b'not the real file')
    with pytest.raises(InputError, match='invalid hash value'):  # a download is checked
        check_lpips_available(device='cpu')
    assert not hub.exists()
    hub.write_bytes(b'cut off')
    with pytest.raises(InputError, match='could not be read; delete it'):
        calculate_lpips(random_image(31, 31), random_image(31, 31), device='cpu')


@pytest.mark.parametrize('net_type', ['alex', 'vgg', 'squeeze'])
def test_lpips_smallest_size(net_type, monkeypatch):
    import lpips
    monkeypatch.setattr(torchvision.models, 'vgg16', lambda pretrained: torchvision.models.VGG(
        torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs['D']), init_weights=False))
    net = lpips.LPIPS(net=net_type, pnet_rand=True, verbose=False)
    monkeypatch.setattr(lpips_networks, '_build_lpips', lambda *args: net)
    smallest = LPIPS_NETS[net_type][1]
    small, fits = random_image(smallest - 1, 64), random_image(smallest, 64)
    assert calculate_lpips(fits, fits, net_type=net_type) == 0
    with pytest.raises(RuntimeError, match='too small'):
        net(torch.rand(1, 3, smallest - 1, 64), torch.rand(1, 3, smallest - 1, 64))
    with pytest.raises(InputError, match=f'at least {smallest}x{smallest} pixels.*got {smallest - 1}x64'):
        calculate_lpips(small, small, net_type=net_type)
    with pytest.raises(InputError, match=f'got {smallest - 2}x62'):
        calculate_lpips(fits, fits, net_type=net_type, crop_border=1)


@pytest.mark.parametrize('net_type', ['alexnet', None, ['alex']])
def test_lpips_unknown_network(net_type):
    for call in (check_lpips_available, lambda net: calculate_lpips(*[random_image(64, 64)] * 2, net_type=net)):
        with pytest.raises(InputError, match='net_type must be one of alex, vgg, squeeze'):
            call(net_type)


def test_lr_psnr_by_hand():
    gray = np.full((16, 24, 3), 100, np.uint8)
    lq = np.full((4, 6, 3), 110, np.uint8)
    wanted = 20 * np.log10(255 / 10)  # bicubic weights sum to one: 100 everywhere
    assert calculate_lr_psnr(gray, lq, 4) == pytest.approx(wanted, abs=1e-4)
    assert calculate_lr_psnr(gray.transpose(2, 0, 1), lq.transpose(2, 0, 1), 4, input_order='CHW') == pytest.approx(
        wanted, abs=1e-4)
    # Y = 16 + 219 / 255 * gray
    wanted = 20 * np.log10(255 / (10 * 219 / 255))
    assert calculate_lr_psnr(gray, lq, 4, test_y_channel=True) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_lr_psnr_bicubic(scale):
    img, lq = random_image(8 * scale, 9 * scale), random_image(8, 9, seed=1)
    lq_hat = imresize(img / 255, 1 / scale) * 255
    assert calculate_lr_psnr(img, lq, scale) == pytest.approx(10 * np.log10(255**2 / ((lq_hat - lq)**2).mean()))
    assert calculate_lr_psnr(img, lq, scale, crop_border=2) == pytest.approx(calculate_psnr(lq_hat, lq, 2))
    opt = {'type': 'calculate_lr_psnr', 'crop_border': 2, 'test_y_channel': True, 'better': 'higher'}
    assert calculate_metric({'img': img, 'lq': lq, 'scale': scale}, opt) == pytest.approx(
        calculate_psnr(lq_hat, lq, 2, test_y_channel=True))
    assert np.isfinite(calculate_lr_psnr(img[:2 * scale, :2 * scale, 0], lq[:2, :2, 0], scale))  # the smallest, gray


def test_lr_psnr_neither_rounds_nor_clips():
    img = np.zeros((32, 32, 1))
    img[16:] = 255  # bicubic overshoots at an edge by 1.27 %
    lq = np.clip(imresize(img / 255, 0.25) * 255, 0, 255)
    error = np.zeros((8, 8, 1))
    error[[2, 5]] = 0.01269531 * 255
    assert calculate_lr_psnr(img, lq, 4) == pytest.approx(10 * np.log10(255**2 / (error**2).mean()), abs=1e-3)


@pytest.mark.parametrize(('img', 'lq', 'scale', 'message'), [
    ((16, 16, 3), (4, 5, 3), 4, r'4 times as large as lq \(4, 5, 3\): \(16, 20, 3\), got \(16, 16, 3\)'),
    ((16, 16, 3), (4, 4, 3), 2, 'check the option scale'),
    ((16, 16, 3), (4, 4, 1), 4, r'\(16, 16, 1\)'),
    ((4, 4, 3), (1, 1, 3), 4, 'at least 2x2'),
    ((16, 16, 3), (4, 4, 3), 4., 'scale must be an integer'),
    ((16, 16, 3), (16, 16, 3), 1, 'scale must be an integer of 2 or more'),
])
def test_lr_psnr_rejects(img, lq, scale, message):
    with pytest.raises(InputError, match=message):
        calculate_lr_psnr(np.zeros(img), np.zeros(lq), scale)


def test_diversity_by_hand():
    samples = [np.full((2, 2, 3), value) for value in (10., 11., 15.)]  # mean 12, squares 4 + 1 + 9, divided by 2
    assert calculate_diversity(samples) == pytest.approx(np.sqrt(7))
    samples = [np.zeros((1, 2, 1)), np.array([[[0.], [0.5]]])]  # not rounded: std 0 and 0.5 / sqrt(2)
    assert calculate_diversity(samples) == pytest.approx(0.5 / np.sqrt(2) / 2)
    assert calculate_diversity([samples[1]] * 3) == 0
    samples = np.stack([random_image(4, 5, seed) for seed in range(4)])
    wanted = torch.tensor(samples).std(0, unbiased=True).mean().item()
    assert calculate_diversity(samples) == pytest.approx(wanted)
    assert calculate_diversity(tuple(samples.transpose(0, 3, 1, 2)), input_order='CHW') == pytest.approx(wanted)
    assert calculate_metric({'samples': samples}, {'type': 'calculate_diversity'}) == pytest.approx(wanted)


def test_diversity_in_float64():
    samples = np.stack([np.full((64, 64, 3), 200 + 1e-4 * i, np.float32) for i in range(2)])
    wanted = (samples[1].astype(float) - samples[0]).mean() / np.sqrt(2)
    assert calculate_diversity(samples) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(('samples', 'message'), [
    ([np.zeros((4, 4, 3))], 'two or more samples per image, got 1.*val.num_samples'),
    (np.zeros((1, 4, 4, 3)), 'got 1'),
    ([], 'got 0'),
    (torch.zeros(2, 4, 4, 3), 'torch.Tensor'),
    (iter([]), 'samples must be a list'),
    (np.zeros((4, 4, 3)), r'4-dimensional array .* got numpy.ndarray \(4, 4, 3\)'),  # one image, not four gray ones
    ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], r'samples\[0\] \(4, 4, 3\), samples\[1\] \(4, 5, 3\)'),
    ([np.zeros((4, 4, 3)), np.full((4, 4, 3), -1.)], r'samples\[1\] must lie in \[0, 255\]'),
])
def test_diversity_rejects(samples, message):
    with pytest.raises(InputError, match=message):
        calculate_diversity(samples)


class FakeNet(torch.nn.Module):
    """Has HCFlowNet's call and keeps what it was given."""

    def __init__(self, nll=(3., 5.)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.nll = nll

    def forward(self, lq, gt=None, dequantization_noise=None):
        self.seen = SimpleNamespace(lq=lq, gt=gt, noise=dequantization_noise, training=self.training)
        return SimpleNamespace(nll=None if self.nll is None else torch.tensor(self.nll) + self.weight)


def test_nll_hands_images_and_noise_on():
    net, img2, lq = FakeNet(), random_image(8, 12), random_image(4, 6, seed=1).round().astype(np.uint8)
    value = calculate_nll(img2, lq, net, seed=3)
    assert value == 4 and isinstance(value, float)
    seen = net.seen
    for got, image in ((seen.gt, img2), (seen.lq, lq)):
        wanted = torch.tensor(image[..., ::-1].copy() / 255).permute(2, 0, 1)[None].float()
        torch.testing.assert_close(got, wanted)
    assert torch.equal(seen.noise, torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(3)))
    assert not seen.training and net.training
    calculate_metric({'img2': img2, 'lq': lq, 'net': net.eval()}, {'type': 'calculate_nll', 'better': 'lower'})
    assert not torch.equal(net.seen.noise, seen.noise) and not net.training


def test_nll_of_the_network():
    small = {'scale': 2, 'num_flow_steps': 1, 'num_cond_steps': 1, 'hidden_channels': 4, 'num_feat': 4,
             'num_block': (1, 1), 'num_grow_ch': 4}
    torch.manual_seed(0)
    net = hcflow_arch.HCFlowNet(**small)
    img2, lq = random_image(8, 12), random_image(4, 6, seed=1)
    value = calculate_nll(img2, lq, net)
    assert value == calculate_nll(img2, lq, net) and net.training
    noise = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    gt, lq_tensor = (torch.tensor(x[..., ::-1] / 255).permute(2, 0, 1)[None].float() for x in (img2, lq))
    with torch.no_grad():
        assert value == pytest.approx(net.eval().encode(gt, lq_tensor, noise).nll.item(), rel=1e-6)
    with pytest.raises(InputError, match='scale'):
        calculate_nll(random_image(16, 24), lq, net)
    with pytest.raises(InputError, match="task 'sr'"):
        calculate_nll(img2, lq, hcflow_arch.HCFlowNet(task='rescaling', **small))


@pytest.mark.parametrize(('img2', 'lq', 'net', 'message'), [
    (np.zeros((8, 8)), np.zeros((4, 4)), FakeNet(), 'three channels, got 1 and 1'),
    (np.zeros((8, 8, 3)), np.zeros((4, 4, 3)), FakeNet(nll=None), "task 'sr'"),
    (np.zeros((8, 8, 3)), np.zeros((4, 4, 3)), 'alex', 'net must be an HCFlowNet, got builtins.str'),
])
def test_nll_rejects(img2, lq, net, message):
    with pytest.raises(InputError, match=message):
        calculate_nll(img2, lq, net)


def good():
    return np.zeros((32, 32, 3))


@pytest.mark.parametrize(('image', 'message'), [
    (torch.zeros(32, 32, 3), 'torch.Tensor; convert a tensor with basicsr.utils.tensor2img'),
    ([[0.]], 'builtins.list'),
    (None, 'NoneType'),
    (good().astype(object), 'uint8 or float, got object'),
    (good().astype(np.int64), 'got int64'),
    (good().astype(np.uint16), 'got uint16'),
    (good().astype(bool), 'got bool'),
    (np.zeros((1, 32, 32, 3)), r'1 or 3 channels.*got the shape \(1, 32, 32, 3\)'),
    (np.zeros((32, 32, 4)), r'\(32, 32, 4\)'),
    (np.zeros((3, 32, 32)), "with input_order 'HWC'"),
    (np.zeros((0, 32, 3)), r'\(0, 32, 3\)'),
    (np.zeros(32), r'\(32,\)'),
    (good() - 0.01, r'\[0, 255\], got \[-0.01, -0.01\]'),
    (good() + 255.01, r'\[255.01, 255.01\]'),
    (good() + np.nan, 'finite'),
    (good() + np.inf, 'finite'),
])
def test_every_metric_rejects_images(image, message):
    for name, call in {
            'img': lambda x: calculate_lpips(x, good()), 'img2': lambda x: calculate_lpips(good(), x),
            'lq': lambda x: calculate_lr_psnr(good(), x, 4),
            r'samples\[1\]': lambda x: calculate_diversity([good(), x]),
            r'img2\b': lambda x: calculate_nll(x, good(), FakeNet())}.items():
        with pytest.raises(InputError, match=f'{name} must.*{message}'):
            call(image)


def test_rejects_shapes_orders_and_borders():
    with pytest.raises(InputError, match=r'img \(32, 32, 3\), img2 \(32, 33, 3\)'):
        calculate_lpips(good(), np.zeros((32, 33, 3)))
    for call in (lambda **opt: calculate_lpips(good(), good(), **opt),
                 lambda **opt: calculate_lr_psnr(np.zeros((128, 128, 3)), good(), 4, **opt)):
        with pytest.raises(InputError, match="input_order must be 'HWC' or 'CHW', got 'NHWC'"):
            call(input_order='NHWC')
        for border in (-1, 16, 1.5, True, '4'):
            with pytest.raises(InputError, match=f'crop_border must be an integer.*32x32.*got {border!r}'):
                call(crop_border=border)


def test_black_images_and_rounding_errors_pass():
    assert calculate_diversity([good(), good() + 255.0009]) > 0
    assert calculate_diversity([good() - 9e-4, good()]) > 0
    assert calculate_lr_psnr(good(), np.zeros((8, 8, 3), np.float16), 4) == float('inf')


def test_what_validation_reads():
    data = {'img', 'img2', 'lq', 'samples', 'net', 'scale'}
    wanted = {calculate_lpips: {'img', 'img2'}, calculate_lr_psnr: {'img', 'lq', 'scale'},
              calculate_diversity: {'samples'}, calculate_nll: {'img2', 'lq', 'net'}}
    for metric, names in wanted.items():
        assert data & set(inspect.signature(metric).parameters) == names
    assert [getattr(metric, 'takes_float', False) for metric in wanted] == [True, False, True, False]
