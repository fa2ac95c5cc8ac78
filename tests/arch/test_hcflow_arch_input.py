"""What HCFlowNet refuses: arguments, images, pairs."""
import pytest
import torch
from helpers import random_image, small_net

from hcflow_arch.errors import InputError


@pytest.mark.parametrize(('kwargs', 'message'), [
    ({'scale': 3}, r'network_g\.scale is 3; allowed are \(2, 4, 8, 16\)'),
    ({'scale': '4'}, r"network_g\.scale is '4'"),
    ({'scale': 4.}, r'network_g\.scale is 4\.0'),
    ({'task': 'SR'}, r"network_g\.task is 'SR'; allowed are \('sr', 'rescaling'\)"),
    ({'num_flow_steps': 0}, r'network_g\.num_flow_steps is 0'),
    ({'num_cond_steps': 1.5}, r'network_g\.num_cond_steps is 1\.5'),
    ({'hidden_channels': True}, r'network_g\.hidden_channels is True'),
    ({'num_feat': '64'}, r"network_g\.num_feat is '64'"),
    ({'quant_bins': -1}, r'network_g\.quant_bins is -1'),
    ({'num_block': 7}, r'network_g\.num_block is 7; it takes two numbers'),
    ({'num_block': [7]}, r'network_g\.num_block is \[7\]'),
    ({'num_block': [1, 0]}, r'network_g\.num_block\[1\] is 0'),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(InputError, match=message):
        small_net(**kwargs)


@pytest.mark.parametrize('temperature', [-0.1, float('nan'), float('inf'), '0.8', True, None])
def test_bad_temperature(temperature):
    with pytest.raises(InputError, match='temperature is'):
        small_net().decode(random_image(1, 3, 2, 2), temperature=temperature)


IMAGE = random_image(1, 3, 8, 8)
BAD_IMAGES = {'uint8': (255 * IMAGE).byte(), '[0, 255]': 255 * IMAGE, 'gray': IMAGE[:, :1], 'no batch': IMAGE[0],
              'array': IMAGE.numpy()}


CALLS = {
    'decode': ('lq', lambda net, image: net.decode(image)),
    'forward to decode': ('lq', lambda net, image: net(image)),
    'encode': ('gt', lambda net, image: net.encode(image)),
    'forward to encode': ('gt', lambda net, image: net(None, image)),
    'encode with lq': ('lq', lambda net, image: net.encode(random_image(1, 3, 16, 16), image)),
}


@pytest.mark.parametrize('image', BAD_IMAGES.values(), ids=BAD_IMAGES)
@pytest.mark.parametrize(('name', 'call'), CALLS.values(), ids=CALLS)
@torch.no_grad()
def test_bad_images(name, call, image):
    with pytest.raises(InputError, match=f'^{name} '):
        call(small_net(2), image)


def test_bad_pairs():
    net, gt, lq = small_net(), random_image(2, 3, 8, 8), random_image(2, 3, 2, 2)
    for call, message in (
        (lambda: net(None), 'without an image'),
        (lambda: net.encode(gt, lq[:1]), 'lq holds 1 images, its partner 2'),
        (lambda: net.encode(gt, random_image(2, 3, 2, 3)), 'gt is 8x8 and lq 2x3'),
        (lambda: net.encode(gt[:, :, :3]), 'gt is 3x8, smaller than the scale'),
        (lambda: net.encode(gt, lq, gt[:1]), 'dequantization_noise has shape'),
        (lambda: net.decode(lq, net.draw_latents(lq)[::-1]), 'latents have shapes'),
        (lambda: net.decode(lq, net.draw_latents(lq)[:1]), 'latents have shapes'),
        (lambda: net.decode(lq, net.draw_latents(lq[:1])), 'latents have shapes'),
    ):
        with pytest.raises(InputError, match=message):
            call()
