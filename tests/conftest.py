import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import logging
import math

import pytest
import torch

from hcflow_arch.convs import layout as memory_layout
from hcflow_arch.convs import winograd
from hcflow_model.images import drawing

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


@pytest.fixture
def far_pixels_pass(monkeypatch):
    """Untrained networks give pixels far out of [0, 1], which validation counts; here they are not the subject."""
    monkeypatch.setattr('hcflow_model.inference.draw.FAR', float('inf'))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `basicsr ARGUMENTS` in an empty folder. Returns exit code, output and error output."""
    from hcflow_model import cli
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('basicsr.utils.logger.initialized_logger', {})  # else it writes to an older error output
    monkeypatch.setattr(logging.getLogger('basicsr'), 'handlers', [])

    def run(*argv):
        code = cli.main(list(argv))
        return (code, *capsys.readouterr())
    return run


@pytest.fixture
def warnings(monkeypatch):
    """Warnings of BasicSR's logger."""
    texts = []
    monkeypatch.setattr(logging.getLogger('basicsr'), 'warning', texts.append)
    return texts


@pytest.fixture
def rows_of_tiles(monkeypatch):
    """The tiles of each row of every sheet that is drawn."""
    rows, draw_row = [], drawing._draw_row
    monkeypatch.setattr(drawing, '_draw_row', lambda tiles: rows.append(tiles) or draw_row(tiles))
    return rows


@pytest.fixture
def log():
    """Messages of BasicSR's logger, [(level, text)]."""
    class Handler(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    lines, logger, handler = [], logging.getLogger('basicsr'), Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel('INFO')
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
