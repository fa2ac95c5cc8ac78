import hcflow_arch  # noqa: F401  isort: skip  (makes `import basicsr` work)
import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import VGGStyleDiscriminator

from hcflow_arch.discriminator_arch import HCFlowVGGDiscriminator
from hcflow_arch.errors import InputError


def test_published_network():
    net = build_network({'type': 'HCFlowVGGDiscriminator'})
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convs] == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    assert [(m.kernel_size, m.stride) for m in convs] == [((3, 3), (1, 1)), ((4, 4), (2, 2))] * 5
    assert [m.bias is not None for m in convs] == [True] + [False] * 9
    assert (net.linear1.in_features, net.linear1.out_features, net.linear2.out_features) == (512 * 5 * 5, 100, 1)
    assert len([m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]) == 9
    assert net.lrelu.negative_slope == 0.2


@pytest.mark.parametrize('training', [True, False])
def test_equals_basicsr_at_128(training):
    torch.manual_seed(0)
    theirs = VGGStyleDiscriminator(num_in_ch=3, num_feat=4, input_size=128).train(training)
    ours = HCFlowVGGDiscriminator(num_in_ch=3, num_feat=4, input_size=128).train(training)
    for norm in (m for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in
                                                                    theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 128, 128)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(('size', 'channels'), [(32, 1), (96, 3), (160, 3)])
def test_scores_and_train_step(size, channels):
    torch.manual_seed(0)
    net = HCFlowVGGDiscriminator(num_in_ch=channels, num_feat=4, input_size=size)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    real = torch.rand(2, channels, size, size, requires_grad=True)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        score = net(real)
        assert score.shape == (2, 1)
        losses.append(torch.nn.functional.softplus(-score).mean())
        losses[-1].backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
    assert losses[-1] < losses[0] and real.grad.abs().sum() > 0


@pytest.mark.parametrize('size', [0, -32, 16, 48, 161, 160., '160', True, None])
def test_rejects_patch_sizes(size):
    with pytest.raises(InputError, match=r'network_d\.input_size must be a multiple of 32.*datasets\.train\.gt_size'):
        HCFlowVGGDiscriminator(num_feat=1, input_size=size)


@pytest.mark.parametrize('shape', [(1, 3, 32, 64), (1, 3, 128, 128), (1, 1, 64, 64), (3, 64, 64)])
def test_rejects_images_of_another_size(shape):
    with pytest.raises(InputError, match=r'takes images of \(3, 64, 64\).*network_d\.input_size.*gt_size'):
        HCFlowVGGDiscriminator(num_feat=1, input_size=64)(torch.rand(shape))
