"""Arguments of `hcflow page`, and its networks; the page itself is tested in tests/whole/test_page.py."""
import importlib.util

import pytest
from helpers import small_net

from hcflow_arch import InputError
from hcflow_model import HCFlowRescaler, HCFlowUpscaler, commands
from hcflow_model.checkpoints.pretrained import save_pretrained
from hcflow_model.page.server import networks


@pytest.fixture
def paths(tmp_path):
    for task in ('sr', 'rescaling'):
        save_pretrained(small_net(task=task), tmp_path / f'{task}.pth')
    return tmp_path / 'sr.pth', tmp_path / 'rescaling.pth'


def test_without_gradio(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'gradio' else find_spec(name))
    assert commands.main(['page']) == 1
    assert capsys.readouterr().err == (
        "hcflow: error: hcflow page needs Gradio, which is not installed. Install the extra page: pip install "
        "'hcflow[page]', or in a clone of the repository pip install '.[page]'.\n")


@pytest.mark.parametrize(('argument', 'value'), [('--port', '0'), ('--port', '65536'), ('--max_upload', '0')])
def test_numbers_that_are_not_allowed(argument, value, capsys):
    assert commands.main(['page', argument, value]) == 1
    assert f'{argument} is {value}; it must be' in capsys.readouterr().err


def test_each_network_gets_its_tab(paths):
    sr, rescaling = paths
    found = networks([rescaling, sr], 'params_ema', device='cpu', tile=32)
    assert {task: type(images) for task, images in found.items()} == {'sr': HCFlowUpscaler, 'rescaling': HCFlowRescaler}
    assert found['sr'].tile == 32
    with pytest.raises(InputError, match="two networks for task 'sr'"):
        networks([sr, sr], 'params_ema', device='cpu')


def test_the_package_gives_what_is_not_named(paths):
    found = networks(paths[:1], 'params_ema', device='cpu')
    assert found['sr'].net.arguments['num_feat'] == 4  # the one named
    assert found['rescaling'].net.arguments['num_feat'] > 4
