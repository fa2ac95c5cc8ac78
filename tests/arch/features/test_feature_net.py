import pytest
import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import perturb, random_image, small_net
from torch import nn

from hcflow_arch.errors import InputError
from hcflow_arch.features.feature_net import RegisteredFeatureNet, RRDBFeatureNet

RRDBNET = {'type': 'RRDBNet', 'scale': 1, 'num_out_ch': 8, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 4}
SWINIR = {'type': 'SwinIR', 'upsampler': '', 'embed_dim': 8, 'depths': [1], 'num_heads': [2], 'window_size': 4,
          'mlp_ratio': 1}


def test_rrdb_net_hands_on_both_parts_or_the_second():
    both, second = RRDBFeatureNet(5, 4, (2, 1), 3), RRDBFeatureNet(5, 4, (2, 1), 3, both_parts=False)
    second.load_state_dict(perturb(both).state_dict())
    x = torch.randn(2, 5, 7, 6)
    with torch.no_grad():
        first = both.conv_first(x)
        part1 = both.body1(first)
        part2 = both.conv_body(both.body2(part1)) + first
        assert torch.equal(both(x), torch.cat([part1, part2], dim=1)) and torch.equal(second(x), part2)
    assert (both.num_out_ch, second.num_out_ch) == (8, 4)
    assert (len(both.body1), len(both.body2)) == (2, 1)


def test_rrdb_net_starts():
    net = RRDBFeatureNet(32, 64, (1, 1), 32)
    for body in (net.body1, net.body2):
        for conv in (m for m in body.modules() if isinstance(m, torch.nn.Conv2d)):
            fans = 9 * (conv.in_channels + conv.out_channels)
            assert conv.weight.std().item() == pytest.approx(0.1 * (2 / fans)**0.5, rel=0.05)
            assert not conv.bias.any()
    for conv in (net.conv_first, net.conv_body):  # PyTorch's default: uniform within 1 / sqrt(fan_in)
        bound = (9 * conv.in_channels)**-0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound and conv.bias.any()


@pytest.mark.parametrize(('options', 'num_out_ch', 'multiple'), [(RRDBNET, 8, 4), (SWINIR, 5, 4)])
def test_basicsr_arch(options, num_out_ch, multiple):
    net = RegisteredFeatureNet(5, options)
    assert (net.num_out_ch, net.size_multiple) == (num_out_ch, multiple)
    assert net.training and all(module.training for module in net.modules())
    x = torch.randn(2, 5, 8, 12)
    assert torch.equal(net.eval()(x), net.net(x))
    for height, width in ((1, 3), (6, 7), (8, 9)):
        small = x[:, :, :height, :width]
        out = net(small)
        assert out.shape == (2, num_out_ch, height, width)
        padded = F.pad(small, (0, -width % multiple, 0, -height % multiple), mode='replicate')
        assert torch.equal(out, net.net(padded)[:, :, :height, :width])


@pytest.mark.parametrize('options', [RRDBNET, SWINIR], ids=['RRDBNet', 'SwinIR'])
@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_basicsr_arch_trains_in_the_network(options, task):
    net = perturb(small_net(4, task, feature_net=options), 0.05)
    gt, lq = random_image(1, 3, 12, 20), random_image(1, 3, 3, 5, seed=1)
    noise = torch.rand_like(gt)

    def loss():
        if task == 'sr':
            return net(lq, gt, dequantization_noise=noise).nll.mean()
        return (net(lq, temperature=0) - gt).abs().mean()

    before = loss()
    before.backward()
    assert all(isinstance(level.feature_net, RegisteredFeatureNet) for level in net.levels)
    parameters = [p for level in net.levels for p in level.feature_net.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in parameters)
    step = 1e-3 / torch.nn.utils.clip_grad_norm_(parameters, float('inf'))
    torch.optim.SGD(parameters, step.item()).step()
    assert loss() < before


@pytest.mark.parametrize(('options', 'message'), [
    ({'type': 'NoSuchNet'}, 'feature_net.type is .NoSuchNet.*ARCH_REGISTRY'),
    ({'type': 'MSRResNet', 'upscale': 4, 'num_feat': 4, 'num_block': 1}, r'must map .*, but it maps .*resolution'),
    ({'type': 'RRDBNet', 'scale': 1}, 'RRDBNet cannot be built.*num_out_ch'),
    ({**RRDBNET, 'num_feats': 8}, 'RRDBNet cannot be built.*num_feats'),
    ({**RRDBNET, 'num_in_ch': 3}, 'num_in_ch'),
    ({'type': 'VGGFeatureExtractor', 'layer_name_list': []}, 'has none of the arguments num_in_ch'),
    ({'num_feat': 8}, r'feature_net.*type'),
    ('RRDBNet', r'feature_net.*type'),
])
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        small_net(feature_net=options)


@pytest.mark.parametrize('place', ['__init__', 'forward'])
def test_bugs_of_an_architecture_keep_their_traceback(place, monkeypatch):
    class SlippingNet(nn.Module):
        def __init__(self, num_in_ch):
            super().__init__()
            self.conv = nn.Conv2d(num_in_ch, 4, 3, 1, 1)
            if place == '__init__':
                self.conv.wieght  # noqa: B018

        def forward(self, x):
            return self.conv(x).realu()

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'SlippingNet', SlippingNet)
    with pytest.raises(AttributeError, match='wieght|realu'):
        RegisteredFeatureNet(3, {'type': 'SlippingNet'})
