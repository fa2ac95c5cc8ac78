import pytest
import torch
from helpers import GOLDEN_SIZE, golden_net, load_golden, random_image, released_names, released_state_dict

from hcflow_arch import HCFlowNet, load_official_state_dict
from hcflow_arch.errors import InputError
from hcflow_arch.weights.official import is_official_state_dict
from hcflow_model.checkpoints.named import NAMED

FULL_SIZE = {'sr4': 'SR_DF2K_X4_HCFlow++', 'sr8': 'SR_CelebA_X8_HCFlow', 're4': 'Rescaling_DF2K_X4_HCFlow'}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_full_size_names(name):
    released = released_state_dict(name)
    state_dict, kwargs = load_official_state_dict(released)
    assert kwargs == NAMED[FULL_SIZE[name]].arguments
    defaults = {key: kwargs[key] for key in ('scale', 'task')}
    for arguments in (kwargs, defaults):  # the published sizes are the defaults of scale and task
        with torch.device('meta'):  # no numbers: names and shapes are what is tested
            net = HCFlowNet(**arguments)
        net.load_state_dict(state_dict, strict=True, assign=True)
        assert net.is_initialized()
    assert len(released) == sum(not key.endswith('.initialized') for key in state_dict)
    assert sum(p.numel() for p in net.parameters()) == sum(value.numel() for value in released.values())


@pytest.mark.parametrize(('name', 'more'), [('sr4', {'scale': 4, 'task': 'sr'}), ('sr8', {'scale': 8, 'task': 'sr'}),
                                            ('re4', {'scale': 4, 'task': 'rescaling', 'num_subnet_grow_ch': 8})])
def test_small_size_is_read_from_the_shapes(name, more):
    state_dict, kwargs = load_official_state_dict(load_golden(name)[1])
    assert kwargs == {**GOLDEN_SIZE, **more}
    net = HCFlowNet(**kwargs)
    assert not net.is_initialized()
    net.load_state_dict(state_dict, strict=True)
    assert net.is_initialized()


@pytest.mark.parametrize('name', ['sr4', 'sr8', 're4'])
def test_every_tensor_has_its_own_place(name):
    _, weights = load_golden(name)
    names = released_names(weights)
    assert sorted(names.values()) == sorted(weights)
    assert set(names) == {key for key, _ in golden_net(name)[0].named_parameters()}


def test_prefix_and_file(tmp_path):
    _, weights = load_golden('re4')
    wanted, wanted_kwargs = load_official_state_dict(weights)
    prefixed = {f'module.{key}': value for key, value in weights.items()}
    torch.save(prefixed, tmp_path / 'released.pth')
    for given in (prefixed, tmp_path / 'released.pth', str(tmp_path / 'released.pth')):
        got, kwargs = load_official_state_dict(given)
        assert kwargs == wanted_kwargs and got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_is_official():
    _, weights = load_golden('sr4')
    assert is_official_state_dict(weights) and is_official_state_dict({f'module.{key}': 0 for key in weights})
    assert not is_official_state_dict(golden_net('sr4')[0].state_dict()) and not is_official_state_dict({})


@pytest.mark.parametrize('name', ['sr4', 're4'])
def test_loaded_weights_are_not_started_again(name):
    net, _ = golden_net(name)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train().encode(random_image(2, 3, 16, 24))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_starting_weights_are_started():
    _, weights = load_golden('sr4')
    state_dict, kwargs = load_official_state_dict(weights, initialized=False)
    net = HCFlowNet(**kwargs)
    net.load_state_dict(state_dict, strict=True)
    net.encode(random_image(2, 3, 16, 24))
    assert net.is_initialized()
    for key, value in net.state_dict().items():
        if key.endswith(('norm.bias', 'norm1.bias', 'norm2.bias')):
            assert not torch.equal(value, state_dict[key])


@pytest.mark.parametrize('state_dict', [{}, {'params': {}}, {'conv_first.weight': torch.zeros(1)}])
def test_not_a_released_checkpoint(state_dict, tmp_path):
    torch.save(state_dict, tmp_path / 'other.pth')
    for given in (state_dict, tmp_path / 'other.pth'):
        with pytest.raises(InputError, match='not the names of a released HCFlow checkpoint'):
            load_official_state_dict(given)


def test_not_a_checkpoint(tmp_path):
    (tmp_path / 'text.pth').write_text('no checkpoint')
    with pytest.raises(InputError, match=r'text\.pth'):
        load_official_state_dict(tmp_path / 'text.pth')


@pytest.mark.parametrize('name', [
    'flow.layers.1.affine.f.conv9.weight', 'flow.layers.1.extra', 'flow.level0_condFlow.f.extra', 'params_ema',
    'flow.level0_condFlow.RRDB_trunk2.0.RDB1.conv1.weight', 'flow.level0_condFlow.additional_flow_steps.0.conv1.weight',
])
def test_unknown_name(name):
    _, weights = load_golden('sr4')
    with pytest.raises(InputError, match=f"'{name}' is not a name of a released HCFlow checkpoint"):
        load_official_state_dict({**weights, name: torch.zeros(1)})


def test_incomplete_checkpoint():
    _, weights = load_golden('sr4')
    del weights['flow.level0_condFlow.conv_first.weight']
    with pytest.raises(InputError, match=r'incomplete.*conv_first\.weight'):
        load_official_state_dict(weights)
