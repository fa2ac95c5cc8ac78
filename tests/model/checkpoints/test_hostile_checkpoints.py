"""Checkpoints that hold what no checkpoint holds: one line each, at once, and nothing large is built."""
import io
import json
import os
import zipfile

import pytest
import torch
from helpers import FEATURE_NET, SMALL, small_net

from hcflow_arch import InputError
from hcflow_model.checkpoints.files import read_network_weights
from hcflow_model.checkpoints.pretrained import load_pretrained
from hcflow_model.commands import main

WEIGHT = 'levels.0.main.1.conv1x1.weight'
PARAMS = small_net().state_dict()
NESTED = []
NESTED.append(NESTED)
DOUBLED = []
for _ in range(40):
    DOUBLED = [DOUBLED, DOUBLED]


def attributes():
    """A tensor that brings attributes of its own, one of the names of a method."""
    tensor = torch.ones(12, 12)
    tensor.is_floating_point = 'yes'
    return tensor


def _quantized():
    return torch.quantize_per_tensor(torch.ones(12, 12), 0.1, 0, torch.qint8)


TENSORS = {
    'a sparse tensor': torch.eye(12).to_sparse(), 'compressed rows': torch.eye(12).to_sparse_csr(),
    'a quantized tensor': _quantized(), 'a tensor without values': torch.empty(12, 12, device='meta'),
    'a nested tensor': torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    'complex numbers': torch.ones(12, 12, dtype=torch.complex64), 'a number': 1.5, 'text': 'x', 'nothing': None,
    'a list': [torch.ones(3)], 'another shape': torch.ones(3), 'no dimension': torch.tensor(1.),
    'a float8': torch.ones(12, 12).to(torch.float8_e4m3fn),
}
CONTENTS = {
    **{name: {'params': {**PARAMS, WEIGHT: tensor}} for name, tensor in TENSORS.items()},
    'a name that is a number': {'params': {**PARAMS, 5: torch.ones(1)}},
    'a name that is bytes': {'params': {**PARAMS, b'x': torch.ones(1)}},
    'a name that is nothing': {'params': {**PARAMS, None: torch.ones(1)}},
    'another network': {'params': {'conv.weight': torch.ones(3)}}, 'an iteration alone': {'iter': 3},
    'only numbers': {1: torch.ones(1), 2: torch.ones(1)},
    'a long name': {'params': {**PARAMS, 'x' * 100_000: torch.ones(1)}},
    'a released name with a long number': {f'flow.layers.{"9" * 5000}.actnorm.bias': torch.ones(1)},
    'an average without weights': {'params_ema': PARAMS, 'params': torch.ones(3), 'x': 1} | {'params_ema': {5: 1}},
    'no dimensions where shapes are read': {**PARAMS, 'levels.0.prior.0.coupling.subnet.conv2.weight': torch.ones(())},
    'a training state of iteration []': {'iter': [], 'optimizers': [], 'schedulers': []},
    **{f'network_g {name}': {'params': PARAMS, 'network_g': network} for name, network in {
        'is a tensor': torch.ones(3), 'is a number': 5, 'is empty': {}, 'is a list': ['HCFlowNet'],
        'of tensors': {'type': 'HCFlowNet', **SMALL, 'scale': torch.ones(4)},
        'of a tensor as type': {'type': torch.ones(2), **SMALL},
        'of blocks of tensors': {'type': 'HCFlowNet', **SMALL, 'num_block': torch.ones(2)},
        'of names that are numbers': {'type': 'HCFlowNet', **SMALL, 3: 4},
        'of nan': {'type': 'HCFlowNet', **SMALL, 'temperature': float('nan')},
        'of a huge number': {'type': 'HCFlowNet', **SMALL, 'quant_bins': 10**30},
        'without an end': {'type': 'HCFlowNet', **SMALL, 'num_block': NESTED},
        'of 4096 steps': {'type': 'HCFlowNet', **SMALL, 'num_flow_steps': 4096},
        'of 4096 conditional steps': {'type': 'HCFlowNet', **SMALL, 'num_cond_steps': 4096},
        'of 4096 blocks': {'type': 'HCFlowNet', **SMALL, 'num_block': [4096, 4096]},
        'of 4096 channels': {'type': 'HCFlowNet', **SMALL, 'num_feat': 4096, 'num_grow_ch': 4096},
        'of 100000 blocks of BasicSR': {'type': 'HCFlowNet', **SMALL, 'feature_net': {**FEATURE_NET,
                                                                                  'num_block': 100_000}},
        'of levels without end': {'type': 'HCFlowNet', **SMALL, 'feature_net': DOUBLED},
        'of a long type': {'type': 'HCFlowNet', **SMALL, 'feature_net': {'type': 'x' * 100_000}},
        'of a long name': {'type': 'HCFlowNet', **SMALL, 'x' * 100_000: 1},
        'of no blocks': {'type': 'HCFlowNet', **SMALL, 'feature_net': {'type': 'ResidualFeatureNet', 'num_block': 0}},
        'of 4096 residual blocks': {'type': 'HCFlowNet', **SMALL, 'feature_net': {'type': 'ResidualFeatureNet',
                                                                                 'num_block': 4096}},
        'of the features of a tensor': {'type': 'HCFlowNet', **SMALL, 'feature_net': torch.ones(2)},
    }.items()},
    'values repeated without end': {name: value.flatten()[:1].as_strided((2**27,), (0,)) if name == WEIGHT else value
                                    for name, value in PARAMS.items()},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', CONTENTS)
def test_one_line(name, capsys, recwarn):
    torch.save(CONTENTS[name], 'net.pth')
    recwarn.clear()
    assert main(['info', 'net.pth']) == 1 and not recwarn.list  # which would be more lines
    error = capsys.readouterr().err
    assert error.startswith('hcflow: error: ') and error.count('\n') == 1 and 'net.pth' in error and len(error) < 2000


@pytest.mark.parametrize('name', TENSORS)
def test_in_training(name):
    """What an option file names as pretrain_network_g is read in the same way; its shapes are compared later."""
    torch.save(CONTENTS[name], 'net.pth')
    if name in ('another shape', 'no dimension'):
        return
    with pytest.raises(InputError, match='not a state dict of tensors'):
        read_network_weights('net.pth', 'params')


def test_attributes_of_tensors_are_left_behind(capsys):
    torch.save({'params': {**PARAMS, WEIGHT: attributes()}}, 'net.pth')
    assert main(['info', 'net.pth']) in (0, 1) and 'Traceback' not in capsys.readouterr().err
    state_dict, _ = read_network_weights('net.pth', 'params')
    assert state_dict[WEIGHT].is_floating_point()


@pytest.mark.parametrize('value', [torch.tensor(5), torch.ones(2), 'five', 5.5, float('nan'), -3, 10**30, [5], b'5',
                                   None, True, {'a': 1}], ids=lambda value: type(value).__name__)
def test_odd_iterations(value, capsys):
    torch.save({'params': PARAMS, 'network_g': {'type': 'HCFlowNet', **SMALL}, 'iter': value}, 'net.pth')
    assert main(['info', 'net.pth', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['iteration'] is None
    assert main(['info', 'net.pth']) == 0
    assert 'iteration' in capsys.readouterr().out


def test_a_file_that_expands(capsys):
    torch.save({'params': {'x': torch.zeros(10**6)}}, 'plain.pth')
    with zipfile.ZipFile('plain.pth') as plain, zipfile.ZipFile('net.pth', 'w', zipfile.ZIP_DEFLATED) as packed:
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    assert os.path.getsize('net.pth') < 20_000
    assert main(['info', 'net.pth']) == 1
    assert 'many times its size' in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no FIFOs')
def test_what_is_no_regular_file(capsys):
    os.makedirs('run/models')
    os.mkfifo('run/models/net_g_latest.pth')
    os.mkfifo('net.safetensors')
    for path, words in (('run/models/net_g_latest.pth', 'no regular file'), ('net.safetensors', 'no regular file'),
                        ('/dev/zero', 'no regular file'), ('run', 'no checkpoint')):
        assert main(['info', path]) == 1
        assert words in capsys.readouterr().err
    torch.save({'params': PARAMS}, 'run/models/net_g_5.pth')
    assert main(['info', 'run']) == 0
    assert 'net_g_5.pth' in capsys.readouterr().out


def test_the_file_is_read_once(monkeypatch, capsys):
    torch.save({'params': PARAMS}, 'net.pth')
    reads, load = [], torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kwargs: reads.append(args) or load(*args, **kwargs))
    assert main(['info', 'net.pth']) == 0
    load_pretrained('net.pth')
    assert len(reads) == 2


def test_no_names_in_messages_control_the_terminal(capsys):
    buffer = io.BytesIO()
    torch.save({'params': {**PARAMS, 'x\x1b[2J\n\u202e': 5}}, buffer)
    with open('net.pth', 'wb') as file:
        file.write(buffer.getvalue())
    assert main(['info', 'net.pth']) == 1
    assert capsys.readouterr().err.rstrip('\n').isprintable()
