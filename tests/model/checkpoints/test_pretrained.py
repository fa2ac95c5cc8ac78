"""Checkpoints rebuild their network by themselves."""
import os

import pytest
import torch
import yaml
from helpers import FEATURE_NET, NLL_OPT, SMALL, equal, golden_net, load_golden, small_net, train, training_model

from hcflow_arch import InputError
from hcflow_model.checkpoints.pretrained import find_checkpoint, load_pretrained


def decoded(net):
    return net.decode(torch.full((1, 3, 4, 5), 0.5), temperature=0)


@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_released_checkpoint(name, tmp_path):
    torch.save(load_golden(name)[1], tmp_path / 'released.pth')
    net = load_pretrained(tmp_path / 'released.pth')
    assert not net.training and torch.equal(decoded(net), decoded(golden_net(name)[0]))


def test_own_checkpoint_prefers_ema_and_keeps_arguments(tmp_path):
    model = training_model(tmp_path, NLL_OPT, network={**SMALL, 'quant_bins': 32, 'temperature': 0.7}, ema_decay=0.5)
    train(model, 2)
    model.save(0, 2)
    model.save(0, -1)
    path = tmp_path / 'models' / 'net_g_2.pth'
    net = load_pretrained(path)
    assert (net.quant_bins, net.temperature) == (32, 0.7)
    assert equal(net.state_dict(), model.net_g_ema.state_dict())
    assert equal(load_pretrained(path, param_key='params').state_dict(), model.net_g.state_dict())
    for name in ('net_g_2', 'net_g_latest'):
        assert torch.load(tmp_path / 'models' / f'{name}.pth', weights_only=True)['iter'] == 2


def test_folder_means_its_latest_checkpoint(tmp_path):
    (tmp_path / 'models').mkdir()
    for name in ('net_g_5', 'net_g_100', 'net_d_200'):
        torch.save({}, tmp_path / 'models' / f'{name}.pth')
    assert find_checkpoint(tmp_path).name == 'net_g_100.pth'
    torch.save({}, tmp_path / 'models' / 'net_g_latest.pth')
    assert find_checkpoint(tmp_path).name == find_checkpoint(tmp_path / 'models').name == 'net_g_latest.pth'


def test_folder_means_its_latest_iteration(tmp_path):
    """A longer training that was stopped leaves net_g_latest.pth of an earlier end."""
    models = tmp_path / 'models'
    models.mkdir()
    for name, iteration in (('net_g_latest', 300_000), ('net_g_300000', 300_000), ('net_g_95000', 95_000)):
        torch.save({'params': {'x': torch.ones(1)}, 'iter': iteration}, models / f'{name}.pth')
    assert find_checkpoint(tmp_path).name == 'net_g_latest.pth'
    torch.save({'params': {'x': torch.ones(1)}, 'iter': 310_000}, models / 'net_g_310000.pth')
    os.utime(models / 'net_g_310000.pth', (1, 1))  # copied, with an older date
    assert find_checkpoint(tmp_path).name == 'net_g_310000.pth'
    torch.save({'params': {'x': torch.ones(1)}}, models / 'net_g_latest.pth')  # BasicSR's name no iteration
    assert find_checkpoint(tmp_path).name == 'net_g_latest.pth'
    os.utime(models / 'net_g_latest.pth', (0, 0))
    assert find_checkpoint(tmp_path).name == 'net_g_310000.pth'
    (models / 'net_g_latest.pth').write_bytes(b'broken')
    (models / 'net_g_400000.pth').mkdir()
    assert find_checkpoint(tmp_path).name == 'net_g_310000.pth'


def test_folder_without_checkpoint(tmp_path):
    with pytest.raises(InputError, match='no checkpoint'):
        load_pretrained(tmp_path)


def test_bare_state_dict_is_rebuilt_from_its_shapes(tmp_path):
    net = small_net(8, 'sr').eval()
    torch.save(net.state_dict(), tmp_path / 'bare.pth')
    assert torch.equal(decoded(load_pretrained(tmp_path / 'bare.pth')), decoded(net))


def test_other_feature_net_is_found_beside_the_checkpoint(tmp_path):
    net = small_net(feature_net=FEATURE_NET).eval()
    (tmp_path / 'models').mkdir()
    torch.save({'params': net.state_dict()}, tmp_path / 'models' / 'net_g_1.pth')
    with pytest.raises(InputError, match='a feature net of another package'):
        load_pretrained(tmp_path)
    (tmp_path / 'options.yml').write_text(yaml.safe_dump(
        {'network_g': {'type': 'HCFlowNet', **SMALL, 'feature_net': FEATURE_NET}}))
    assert torch.equal(decoded(load_pretrained(tmp_path)), decoded(net))


def test_option_files_elsewhere_mean_nothing(tmp_path, monkeypatch):
    """Of a checkpoint in the current folder, other people's option files may lie beside it."""
    torch.save({'params': small_net(8).state_dict()}, tmp_path / 'net.pth')
    (tmp_path / 'options.yml').write_text(yaml.safe_dump({'network_g': {'type': 'HCFlowNet', 'scale': 4, **SMALL}}))
    (tmp_path / 'broken.yml').write_text('{')
    monkeypatch.chdir(tmp_path)
    assert load_pretrained('net.pth').scale == 8


def test_wrong_task_names_the_right_command(tmp_path):
    torch.save(load_golden('re4')[1], tmp_path / 're4.pth')
    with pytest.raises(InputError, match="task 'rescaling'.*hcflow downscale"):
        load_pretrained(tmp_path / 're4.pth', task='sr')


@pytest.mark.parametrize('content', [{'a': torch.ones(1)}, {'params': {'conv.weight': torch.ones(3)}},
                                     {'network_g': {'type': 'RRDBNet'}, 'params': {'conv.weight': torch.ones(3)}},
                                     {'network_g': 5, 'params': small_net().state_dict()},
                                     {'network_g': {'type': 'HCFlowNet', **SMALL, 'of_a_later_version': 1},
                                      'params': small_net().state_dict()}])
def test_other_networks_are_refused(content, tmp_path):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(InputError):
        load_pretrained(tmp_path / 'other.pth')
