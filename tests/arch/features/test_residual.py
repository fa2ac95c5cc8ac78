"""ResidualFeatureNet, and feature nets of single levels."""
import json

import pytest
import torch
import torch.nn.functional as F
from helpers import FEATURE_NET, perturb, random_image, small_net
from plain import plain

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.features.feature_net import RRDBFeatureNet
from hcflow_arch.features.residual import ResidualFeatureNet
from hcflow_arch.weights.official import arguments_of

FINE, COARSE = ({'type': 'ResidualFeatureNet', 'num_feat': num_feat, 'num_block': num_block}
                for num_feat, num_block in ((3, 1), (5, 2)))
GT, LQ = random_image(2, 3, 16, 24, dtype=torch.float64), random_image(2, 3, 4, 6, seed=1, dtype=torch.float64)


def gradients(net):
    torch.manual_seed(0)
    code = net(LQ, GT)
    loss = (net(code.lq, temperature=0.7) - GT).abs().mean() + (code.lq - LQ).square().mean()
    loss = loss + (sum(z.square().mean() for z in code.latents) if code.nll is None else code.nll.mean())
    return loss, torch.autograd.grad(loss, [p for p in net.parameters() if p.requires_grad])


@pytest.mark.parametrize('recompute', [False, True])
def test_is_what_it_says(recompute):
    net = perturb(ResidualFeatureNet(4, 5, 2, recompute).double())
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    features = first = F.conv2d(x, net.conv_first.weight, net.conv_first.bias, padding=1)
    for block in net.body:
        hidden = F.conv2d(features, block.conv1.weight, block.conv1.bias, padding=1).clamp(min=0)
        features = features + F.conv2d(hidden, block.conv2.weight, block.conv2.bias, padding=1)
    wanted = F.conv2d(features, net.conv_body.weight, net.conv_body.bias, padding=1) + first
    got = net(x)
    assert net.num_out_ch == 5 and torch.allclose(got, wanted, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (x, *net.parameters())) for y in (got, wanted)),
                    strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


def test_starts_near_the_identity():
    net = ResidualFeatureNet(8, 16, 12)
    x = torch.randn(1, 8, 9, 9)
    first = net.conv_first(x)
    assert 0 < (net.body(first) - first).norm() < 0.2 * first.norm()


@pytest.mark.parametrize('memory', ['default', 'low'])
@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_equals_plain_autograd(task, memory):
    net = perturb(small_net(4, task, memory=memory, feature_net=[FINE, COARSE]), 0.05).double()
    (loss, got), (wanted_loss, wanted) = gradients(net), gradients(plain(net))
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-12)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_low_memory_keeps_the_inputs_of_blocks_alone():
    kept = {}
    for recompute in (False, True):
        net, seen = ResidualFeatureNet(8, 8, 4, recompute), set()
        with torch.autograd.graph.saved_tensors_hooks(
                lambda tensor, seen=seen: seen.add((tensor.data_ptr(), tensor.numel())) or tensor, lambda x: x):
            out = net(torch.randn(1, 8, 64, 64))
        kept[recompute] = sum(numel for _, numel in seen if numel >= 8 * 64 * 64)
        assert out.requires_grad
    assert kept[True] <= 6 * 8 * 64 * 64 < 9 * 8 * 64 * 64 <= kept[False]


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_a_feature_net_for_each_level(task):
    net = small_net(4, task, feature_net=[None, COARSE])
    assert isinstance(net.levels[0].feature_net, RRDBFeatureNet)
    coarse = net.levels[1].feature_net
    assert isinstance(coarse, ResidualFeatureNet) and len(coarse.body) == 2 and coarse.num_out_ch == 5
    assert net.levels[0].feature_net.conv_first.in_channels == 6 + 5  # its own low part, and the coarser features
    rebuilt = HCFlowNet(**json.loads(json.dumps(net.arguments)))
    rebuilt.load_state_dict(net.state_dict())


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
@pytest.mark.parametrize('feature_net', [[FINE, COARSE], [None, COARSE], [FINE, None]])
def test_names_and_shapes_tell_the_blocks(task, feature_net):
    net = small_net(4, task, feature_net=feature_net)
    arguments = arguments_of(net.state_dict())
    assert arguments['feature_net'] == feature_net and ('num_grow_ch' in arguments) == (None in feature_net)
    HCFlowNet(**arguments).load_state_dict(net.state_dict())


@pytest.mark.parametrize('other', [None, FINE])
def test_names_of_a_net_of_another_package(other):
    net = small_net(feature_net=[other, FEATURE_NET])
    with pytest.raises(InputError, match='a feature net of another package and does not say which'):
        arguments_of(net.state_dict())


def test_levels_without_end():
    state_dict = small_net(feature_net=COARSE).state_dict()
    state_dict.update((f'levels.{level}.x', torch.zeros(1)) for level in range(20_000))
    with pytest.raises(InputError, match='not one of HCFlow: it has 20000 levels'):
        arguments_of(state_dict)


def test_nothing_is_the_default():
    net = small_net(feature_net=[FINE, {**COARSE, 'num_block': None}])
    assert len(net.levels[1].feature_net.body) == 16


@pytest.mark.parametrize(('options', 'message'), [
    ([COARSE], 'feature_net has 1 entries.* list of 2, one for each level, the finest first'),
    ([], 'feature_net has 0 entries'),
    ([COARSE, [COARSE]], "feature_net is .*it must be a block with a 'type'"),
    ({**COARSE, 'num_grow_ch': 4}, r'feature_net\.num_grow_ch is no option of ResidualFeatureNet; it takes num_feat'),
    ({**COARSE, 'num_block': 0}, r'network_g\.feature_net\.num_block is 0; it must be a whole number from 1'),
    ({**COARSE, 'type': 'ResidualFeaturNet'}, "type is 'ResidualFeaturNet', which is neither ResidualFeatureNet nor"),
    ({**COARSE, 'type': ['RRDBNet']}, r"type is \['RRDBNet'\], which is neither"),
    ({**COARSE, 'num_feat': '64'}, r"network_g\.feature_net\.num_feat is '64'"),
])
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        small_net(feature_net=options)
