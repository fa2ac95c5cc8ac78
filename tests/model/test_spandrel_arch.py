"""Checkpoints open in spandrel, the real package."""
import pytest
import spandrel
import torch
from helpers import golden_net, load_golden, perturb, random_image, small_net

from hcflow_model import spandrel_arch
from hcflow_model.checkpoints.pretrained import save_pretrained

LQ = random_image(1, 3, 9, 13)


@pytest.fixture(autouse=True)
def installed():
    spandrel_arch.install()
    spandrel_arch.install()


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
@pytest.mark.parametrize('scale,task', [(2, 'sr'), (4, 'rescaling')])
def test_own_checkpoints(name, scale, task, tmp_path):
    net = perturb(small_net(scale, task), 0.05).eval()
    save_pretrained(net, tmp_path / name)
    model = spandrel.ModelLoader(device='cpu').load_from_file(tmp_path / name)
    assert isinstance(model, spandrel.ImageModelDescriptor) and model.architecture.id == 'HCFlow'
    assert (model.scale, model.input_channels, model.output_channels, model.purpose) == (scale, 3, 3, 'SR')
    assert task in model.tags and not model.supports_half
    with torch.no_grad():
        assert torch.equal(model(LQ), net.decode(LQ, temperature=0))


def test_residual_blocks():
    net = perturb(small_net(feature_net={'type': 'ResidualFeatureNet', 'num_feat': 5, 'num_block': 1}), 0.05).eval()
    model = spandrel.ModelLoader(device='cpu').load_from_state_dict(net.state_dict())
    assert model.tags == ['sr', '5nf']
    with torch.no_grad():
        assert torch.equal(model(LQ), net.decode(LQ, temperature=0))


@pytest.mark.slow
@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_released_checkpoints(name, prefix, tmp_path):
    torch.save({prefix + key: value for key, value in load_golden(name)[1].items()}, tmp_path / 'a.pth')
    model = spandrel.ModelLoader(device='cpu').load_from_file(tmp_path / 'a.pth')
    net = golden_net(name)[0].eval()
    with torch.no_grad():
        assert model.scale == net.scale and torch.equal(model(LQ), net.decode(LQ, temperature=0))


def test_others_keep_their_architecture():
    from basicsr.archs.rrdbnet_arch import RRDBNet
    state_dict = RRDBNet(3, 3, num_feat=8, num_block=1).state_dict()
    assert spandrel.ModelLoader(device='cpu').load_from_state_dict(state_dict).architecture.id == 'ESRGAN'
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader(device='cpu').load_from_state_dict({'a': torch.ones(1)})
