"""`hcflow info` on released checkpoints, ours, and broken ones."""
import hashlib
import json
from collections import OrderedDict

import pytest
import torch
from helpers import NLL_OPT, load_golden, perturb, released_state_dict, small_net, train, training_model

from hcflow_arch.flow.condition_numbers import condition_numbers
from hcflow_model.checkpoints.info import checkpoint_info, info_table
from hcflow_model.checkpoints.pretrained import save_pretrained
from hcflow_model.commands import main


def rows(table):
    """{name: value}; the values stand in one column."""
    lines = table.splitlines()
    column = lines[0].index('  ') + len(lines[0]) - len(lines[0].lstrip())
    while lines[0][column] == ' ':
        column += 1
    assert all(line[column - 2:column] == '  ' and line[column] != ' ' for line in lines)
    return {line[:column].strip(): line[column:] for line in lines}


@pytest.mark.parametrize(('name', 'task', 'scale'), [('sr4', 'sr', 4), ('sr8', 'sr', 8), ('re4', 'rescaling', 4)])
def test_released_checkpoints(name, task, scale, tmp_path):
    path = tmp_path / 'released.pth'
    torch.save(load_golden(name)[1], path)
    info = checkpoint_info(path)
    assert (info['origin'], info['task'], info['scale']) == ('released', task, scale)
    assert info['weights'] is info['iteration'] is None and not info['ema'] and info['not_finite'] == 0
    assert info['size'] == path.stat().st_size
    assert info['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info['actnorms'] == info['actnorms_initialized'] > 0
    table = rows(info_table(info))
    assert table['from'] == "a release of the method's authors" and f'scale {scale}' in table['task']
    assert ('quant_bins' in table) == (task == 'sr')


def test_parameters_of_the_full_network(tmp_path):
    """The size of the released rescaling network. Zero matrices have no inverse."""
    torch.save(released_state_dict('re4'), tmp_path / 're4.pth')
    info = checkpoint_info(tmp_path / 're4.pth')
    assert info['parameters'] == 4396350
    assert info['matrices'] == 12 and info['condition'] == float('inf')
    assert rows(info_table(info))['parameters'] == '4 396 350'
    assert 'inf (no inverse)' in info_table(info)


def test_own_checkpoint_with_ema(tmp_path):
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.5)
    train(model, 2)
    model.save(0, 2)
    for given, key, net in (('params_ema', 'params_ema', model.net_g_ema), ('params', 'params', model.net_g)):
        info = checkpoint_info(tmp_path, given)
        assert info['file'] == str(tmp_path / 'models' / 'net_g_2.pth') and info['origin'] == 'basicsr'
        assert (info['iteration'], info['ema'], info['weights']) == (2, True, key)
        numbers = condition_numbers(net)
        assert info['condition'] == max(numbers.values()) == numbers[info['condition_of']]
        assert info['matrices'] == len(numbers)
        assert info['network']['hidden_channels'] == 6
        table = rows(info_table(info))
        assert table['weights'] == f'params_ema and params (below: {key})' and table['iteration'] == '2'
        assert info['condition_of'] in table['condition']


def test_blocks_look_as_in_an_option_file(tmp_path):
    feature_net = [None, OrderedDict(type='ResidualFeatureNet', num_feat=3, num_block=1)]  # as BasicSR reads it
    save_pretrained(small_net(feature_net=feature_net), tmp_path / 'net.pth')
    assert 'feature_net [null, {type: ResidualFeatureNet, num_feat: 3, num_block: 1}]' in info_table(
        checkpoint_info(tmp_path / 'net.pth'))


def test_unsound_weights(tmp_path):
    net = small_net()
    name = 'levels.1.main.2.conv1x1.weight'
    with torch.no_grad():
        net.get_parameter(name)[1:3] = float('nan')
    torch.save({'params': net.state_dict()}, tmp_path / 'net.pth')
    info = checkpoint_info(tmp_path / 'net.pth')
    assert info['not_finite'] == 2 * 24 and info['not_finite_in'] == [name]
    assert info['condition'] == float('inf') and info['condition_of'] == name.removesuffix('.weight')
    assert info['actnorms_initialized'] == 0 and not info['ema']
    table = rows(info_table(info))
    assert table['not finite'] == f'48 values, in {name}' and 'has not seen data' in table['actnorms']
    assert table['weights'] == 'params, no EMA'


def test_nearly_singular_matrix(tmp_path):
    net = perturb(small_net(task='rescaling'))
    layer = net.levels[0].prior[0].conv1x1
    with torch.no_grad():
        layer.weight.mul_(0).add_(torch.diag(torch.linspace(1, 1e-5, len(layer.weight))))
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    info = checkpoint_info(tmp_path / 'net.pth')
    assert info['origin'] == 'bare' and info['condition'] == pytest.approx(1e5, rel=1e-4)
    assert 'above 10000 decode loses precision' in info_table(info)


def test_command(tmp_path, capsys):
    net = small_net()
    with torch.no_grad():
        net.get_parameter('levels.0.main.1.conv1x1.weight').zero_()
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    assert main(['info', str(tmp_path / 'net.pth')]) == 0
    assert rows(capsys.readouterr().out)['task'] == 'super-resolution (sr), scale 4'
    assert main(['info', str(tmp_path / 'net.pth'), '--json']) == 0
    info = json.loads(capsys.readouterr().out)
    assert info['scale'] == 4 and info['condition'] is None and info['condition_of'] == 'levels.0.main.1.conv1x1'
