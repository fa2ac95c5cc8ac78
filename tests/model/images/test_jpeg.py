"""The JPEG of training, against what OpenCV and Pillow make of the same images."""
import io

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.diffjpeg import DiffJPEG
from helpers import DATA, perturb, random_image, small_net
from PIL import Image

from hcflow_model.checkpoints.files import random_states, set_random_states
from hcflow_model.images import jpeg
from hcflow_model.images.jpeg import CHROMA, JPEG, LUMA, RandomJPEG, tables

QUALITIES = (30, 50, 70, 90, 95)


def photograph(width, height):
    return cv2.resize(cv2.imread(str(DATA / 'val_gt' / 'cat.png')), (width, height), interpolation=cv2.INTER_AREA)


def by_opencv(image, quality):
    return cv2.imdecode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def by_pillow(image, quality):
    file = io.BytesIO()
    Image.fromarray(image[..., ::-1].copy()).save(file, 'jpeg', quality=quality)
    return np.asarray(Image.open(file))[..., ::-1]


def tensor(image):
    return torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def psnr(result, wanted):
    result = result[0].permute(1, 2, 0).numpy()[..., ::-1] * 255
    return -10 * np.log10(max(np.mean((result - wanted)**2), 1e-6) / 255**2)


@pytest.mark.parametrize('size', [(120, 88), (45, 31)])
def test_agrees_with_opencv_and_pillow(size, device):
    image = photograph(*size)
    quality = torch.tensor(QUALITIES, device=device)  # each image of the batch has its own
    results = JPEG().to(device)(tensor(image).to(device).expand(len(quality), -1, -1, -1), quality).cpu()
    found, of_basicsr = [], []
    for each, result in zip(QUALITIES, results, strict=True):
        wanted = by_opencv(image, each)
        assert np.array_equal(wanted, by_pillow(image, each))
        found.append(psnr(result[None], wanted))
        with torch.no_grad():
            of_basicsr.append(psnr(DiffJPEG(differentiable=False)(tensor(image), float(each)), wanted))
    assert min(found) > 43 and np.mean(found) > 50
    assert np.mean(found) > np.mean(of_basicsr) + 12


@pytest.mark.parametrize('size', [(1, 1), (7, 5), (16, 17)])
def test_sizes_that_are_no_multiple_of_a_block(size):
    image = np.full((*size, 3), 200, np.uint8)
    assert psnr(JPEG()(tensor(image), torch.tensor([95])), by_opencv(image, 95)) > 45


def test_tables_are_pillows():
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new('RGB', (8, 8)).save(file, 'jpeg', quality=quality)
        chroma = torch.full((8, 8), 99.)
        chroma[:4, :4] = torch.tensor(CHROMA)
        found = Image.open(file).quantization.values()
        for base, wanted in zip((torch.tensor(LUMA).float(), chroma), found, strict=True):
            assert tables(base, torch.tensor([quality])).flatten().int().tolist() == list(wanted)


def test_values_outside_of_the_range_are_clamped():
    image = tensor(photograph(16, 16))
    quality = torch.tensor([90])
    assert torch.equal(JPEG()(image * 3 - 1, quality), JPEG()((image * 3 - 1).clamp(0, 1), quality))


def test_gradients_pass_roundings_straight_through(monkeypatch):
    image = (0.3 + 0.4 * random_image(2, 3, 20, 18, dtype=torch.float64)).requires_grad_()  # far from clamped
    weight, quality = random_image(2, 3, 20, 18, seed=1, dtype=torch.float64), torch.tensor([90, 95])
    straight, = torch.autograd.grad((JPEG()(image, quality) * weight).sum(), image)
    monkeypatch.setattr(jpeg, 'rounded', lambda values: values)
    exact, = torch.autograd.grad((JPEG()(image, quality) * weight).sum(), image)
    assert torch.allclose(straight, exact, rtol=1e-9) and straight.abs().min() > 0


def test_gradients_of_the_loop(monkeypatch):
    """Downscale, compress, restore: float64 against finite differences, the roundings left out."""
    monkeypatch.setattr(jpeg, 'rounded', lambda values: values)
    net, quality = perturb(small_net(task='rescaling'), 0.05).double(), torch.tensor([70])
    gt = (0.3 + 0.4 * random_image(1, 3, 16, 16, dtype=torch.float64)).requires_grad_()

    def loop(gt):
        return net.decode(JPEG()(net.encode(gt).lq, quality), temperature=0, clamp=False)

    assert torch.autograd.gradcheck(loop, gt, fast_mode=True, atol=1e-4)


def test_under_autocast():
    image, quality = tensor(photograph(32, 32)), torch.tensor([90])
    with torch.autocast('cpu', torch.bfloat16):
        result = JPEG()(image, quality)
    assert result.dtype == torch.float32 and torch.equal(result, JPEG()(image, quality))


def test_qualities_are_drawn_for_each_image(monkeypatch):
    seen = []
    store = RandomJPEG((60, 62), 0.5)
    monkeypatch.setattr(store.jpeg, 'forward', lambda image, quality: (seen.extend(quality.tolist()), image + 1)[1])
    torch.manual_seed(0)
    states = random_states()
    result = store(torch.zeros(600, 3, 1, 1))
    assert set(seen) == {60, 61, 62} and min(map(seen.count, (60, 61, 62))) > 150
    assert set(result.unique().tolist()) == {0, 1} and 0.4 < result.mean() < 0.6
    set_random_states(states)  # as a training that is resumed does
    assert torch.equal(store(torch.zeros(600, 3, 1, 1)), result) and seen[:600] == seen[600:]
