import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import logging
import math
import os
import sys

import pytest
import torch

from hcflow_arch.convs import layout as memory_layout
from hcflow_arch.convs import winograd
from hcflow_arch.weights.safe_load import SWITCHES

torch.set_num_threads(1)  # tiny tensors: a second thread only waits, ten times slower on a busy machine
torch.backends.cudnn.allow_tf32 = False  # its 10 bits of mantissa would hide errors of 1e-4


@pytest.fixture
def device():
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


@pytest.fixture(params=['direct', 'winograd'])
def convs(request, monkeypatch):
    """Runs a test twice: with dense blocks of any size direct, and, on a CPU in float32, by Winograd's convolution."""
    monkeypatch.setattr(winograd, 'MIN_MULTIPLICATIONS', -math.inf if request.param == 'winograd' else math.inf)
    monkeypatch.setattr(winograd, 'MAX_FILLED', math.inf)
    monkeypatch.setattr(memory_layout, '_prefers_channels_last', lambda device: True)
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def torch_switches():
    """The command sets PyTorch's switch for safe loading for good; tests after it must not have it."""
    before = {name: os.environ.get(name) for name in SWITCHES}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture
def far_pixels_pass(monkeypatch):
    """Untrained networks give pixels far out of [0, 1], which validation counts; here they are not the subject."""
    monkeypatch.setattr('hcflow_model.inference.draw.FAR', float('inf'))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `basicsr ARGUMENTS` in an empty folder. Returns exit code, output and error output."""
    import basicsr.test
    import basicsr.train

    from hcflow_model import cli
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    monkeypatch.setattr('basicsr.utils.logger.initialized_logger', {})  # else it writes to an older error output
    monkeypatch.setattr(logging.getLogger('basicsr'), 'handlers', [])
    monkeypatch.setattr(basicsr.train, 'parse_options', basicsr.utils.options.parse_options)
    monkeypatch.setattr(basicsr.test, 'parse_options', basicsr.utils.options.parse_options)

    def run(*argv):
        code = cli.main(list(argv))
        return (code, *capsys.readouterr())
    return run
