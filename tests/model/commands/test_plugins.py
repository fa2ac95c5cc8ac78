"""hcflow with networks whose feature net comes from another package, and with devices by name."""
import sys
from pathlib import Path

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import DATA, SMALL, perturb, small_net

from hcflow_arch import InputError
from hcflow_arch.flow import layers
from hcflow_model.checkpoints.pretrained import load_pretrained
from hcflow_model.commands import main
from hcflow_model.utils.devices import find_device

MODULE = """
import torch
from basicsr.utils.registry import ARCH_REGISTRY

@ARCH_REGISTRY.register()
class FeaturesOfAStranger(torch.nn.Conv2d):
    def __init__(self, num_in_ch, num_out_ch):
        super().__init__(num_in_ch, num_out_ch, 3, padding=1)
"""
NETWORK = {'feature_net': {'type': 'FeaturesOfAStranger', 'num_out_ch': 4}}


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Of a training with a plugin, as a later process finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    Path('a_stranger.py').write_text(MODULE)
    sys.path.append(str(tmp_path))
    import a_stranger  # noqa: F401

    Path('run/models').mkdir(parents=True)
    net = perturb(small_net(4, **NETWORK), 0.02)
    torch.save({'params': net.state_dict(), 'network_g': {'type': 'HCFlowNet', 'scale': 4, **SMALL, **NETWORK}},
               'run/models/net_g_1.pth')
    Path('run/opt.yml').write_text('plugins: [a_stranger]\n')

    def forget():
        sys.modules.pop('a_stranger', None)
        ARCH_REGISTRY._obj_map.pop('FeaturesOfAStranger', None)
    forget()
    yield
    forget()


@pytest.mark.parametrize('plugin', ['a_stranger', 'run/opt.yml'])
def test_plugins_are_imported_where_the_user_names_them(plugin, experiment, capsys):
    upscale = ['upscale', '-i', str(DATA / 'val_lq_x4' / 'cat.png'), '-o', 'out', '-w', 'run', '--device', 'cpu']
    for command in (upscale, ['info', 'run']):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert 'FeaturesOfAStranger' in error and '--plugins' in error and 'a_stranger' not in sys.modules
    with pytest.raises(InputError, match='FeaturesOfAStranger'):
        load_pretrained('run')
    assert main([*upscale, '--plugins', plugin]) == 0 and Path('out/cat.png').is_file()
    assert main(['info', 'run', '--plugins', plugin]) == 0


@pytest.mark.parametrize(('plugin', 'words'), [('no_such_module', "'no_such_module' cannot be imported"),
                                               ('../a', "['../a']"), ('no.yml', 'no.yml cannot be read')])
def test_plugins_that_are_none(plugin, words, experiment, capsys):
    assert main(['info', 'run', '--plugins', plugin]) == 1
    error = capsys.readouterr().err
    assert error.startswith('hcflow: error: ') and error.count('\n') == 1 and words in error


def test_devices():
    best = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert find_device().type == find_device('auto').type == find_device(None).type == best
    assert find_device('cpu') == torch.device('cpu')
    absent = ['gpu', 'cuda:99', 'meta', 1.5] + ([] if torch.backends.mps.is_available() else ['mps'])
    for name in absent:
        with pytest.raises(InputError, match='device is .*(cpu|auto)'):
            find_device(name)


def test_float64_on_a_device_that_has_none(monkeypatch):
    """No such device is at hand; what it does not compute itself comes back in its own type."""
    matrices = [torch.eye(3) * 2 + 0.1, torch.eye(3)]
    wanted = layers.invert(matrices), layers.sum_log_abs_det(matrices)
    monkeypatch.setattr(layers, 'NO_FLOAT64', ('cpu',))
    assert layers.double(torch.ones(2)).dtype == torch.float64
    assert torch.equal(layers.invert(matrices), wanted[0]) and layers.sum_log_abs_det(matrices) == wanted[1]
    back = layers._back(torch.ones(3, dtype=torch.float64), torch.ones(3, device='meta'))
    assert back.device.type == 'meta' and back.dtype == torch.float32
