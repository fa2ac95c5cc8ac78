import os
import sys

import numpy as np
import pytest
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from helpers import L1, cpu_options, equal, golden_net, load_golden

from hcflow_arch import InputError, basicsr_import
from hcflow_model.images.files import read_image
from hcflow_model.pipeline.repairs import imwrite, name_checkpoint, replaced


def test_version_is_that_of_the_basicsr_that_would_be_imported(tmp_path, monkeypatch):
    """It has no metadata, and is not imported."""
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text('raise RuntimeError')
    (tmp_path / 'basicsr' / 'version.py').write_text("__version__ = '9.8.7'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'basicsr')
    assert basicsr_import.basicsr_version() == '9.8.7'


@pytest.mark.parametrize('error', [None, KeyError, KeyboardInterrupt])
def test_replaced_values_come_back(error):
    class Owner:
        first, second = 1, 2

    try:
        with replaced([(Owner, 'first', 3), (Owner, 'second', 4), (Owner, 'first', 5)]):
            assert (Owner.first, Owner.second) == (5, 4)
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert (Owner.first, Owner.second) == (1, 2)
    with pytest.raises(AttributeError, match='none'), replaced([(Owner, 'first', 3), (Owner, 'none', 4)]):
        pass
    assert Owner.first == 1 and not hasattr(Owner, 'none')


# ---- checkpoints ----

def sr_model(tmp_path, network, path, **more):
    """BasicSR's own model, as the command has it."""
    opt = cpu_options(tmp_path, network, {'pixel_opt': L1}, **more)
    opt['network_g'] = {'type': 'HCFlowNet', **network}
    opt['path']['pretrain_network_g'] = str(path)
    with replaced([(BaseModel, 'load_network', name_checkpoint(BaseModel.load_network))]):
        return SRModel(opt)


@pytest.mark.parametrize('ema_decay', [0, 0.9])
def test_models_of_basicsr_take_released_checkpoints(ema_decay, tmp_path):
    torch.save(load_golden('sr4')[1], tmp_path / 'released.pth')
    net = golden_net('sr4')[0]
    model = sr_model(tmp_path, net.arguments, tmp_path / 'released.pth', ema_decay=ema_decay)
    for loaded in [model.net_g, *([model.net_g_ema] if ema_decay else [])]:
        assert equal(net.state_dict(), loaded.cpu().state_dict())
    torch.save(load_golden('sr8')[1], tmp_path / 'other.pth')
    with pytest.raises(InputError, match=r'other\.pth does not fit HCFlowNet'):
        sr_model(tmp_path, net.arguments, tmp_path / 'other.pth')


def test_other_networks_say_where_weights_are_looked_for(tmp_path):
    network = {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 1, 'upscale': 4}
    torch.save({'conv.weight': torch.zeros(1)}, tmp_path / 'bare.pth')
    with pytest.raises(InputError, match=r"bare\.pth has no 'params'. Set path.param_key_g .* or to ~"):
        sr_model(tmp_path, network, tmp_path / 'bare.pth')


@pytest.mark.parametrize('name', [b'caf\xe9_10.png', b'\xff' * 251 + b'_10.png', b'new\nline.png'])
def test_pictures_of_every_name(name, tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    imwrite(pixels, os.fsdecode(os.path.join(os.fsencode(tmp_path), b'folder', name)))
    picture, = (tmp_path / 'folder').iterdir()
    assert np.array_equal(read_image(picture), pixels) and picture.suffix == '.png'
