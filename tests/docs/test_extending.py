"""The examples of docs/extending.md: each is written to an empty folder and trained with."""
import csv
import re
from pathlib import Path

import hcflow_arch  # noqa: F401  isort: skip  (makes `import basicsr` work)
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.registry import DATASET_REGISTRY
from helpers import REMOVED, ROOT, SMALL_NET, check_flow_layer, demo_options
from torch.nn.functional import interpolate

from hcflow_arch.flow.couplings import COUPLINGS
from hcflow_arch.flow.subnets import FCN
from hcflow_arch.weights.safe_load import load_file
from hcflow_model import HCFlowModel, HCFlowUpscaler

SECTIONS = dict(re.findall(
    r'^## (.*?)\n(.*?)(?=^## |\Z)', (ROOT / 'docs' / 'extending.md').read_text(encoding='utf-8'), re.M | re.S))
TINY = {**SMALL_NET, 'datasets.train.num_worker_per_gpu': 0,
        'datasets.train.gt_size': 16, 'datasets.train.batch_size_per_gpu': 2, 'train.pixel_opt': REMOVED,
        'train.total_iter': 2, 'train.warmup_iter': -1, 'val.val_freq': 2, 'val.metrics': REMOVED,
        'logger.print_freq': 1, 'logger.save_checkpoint_freq': 2, 'logger.use_tb_logger': False}


def merge(opt, changes):
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(opt.setdefault(key, {}), value)
        else:
            opt[key] = value
    return opt


@pytest.fixture
def example(command):
    """Train with the example of a section, in an empty folder. Returns the weights of the experiment."""
    def run(title):
        for code in re.findall(r'```python\n(.*?)```', SECTIONS[title], re.S):
            Path(re.match(r'# (\w+\.py)\n', code).group(1)).write_text(code)
        changes, = re.findall(r'```yaml\n(.*?)```', SECTIONS[title], re.S)
        opt = merge(demo_options({**TINY, 'name': 'example'}), yaml.safe_load(changes))
        Path('opt.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
        code, output, errors = command('train', '-opt', 'opt.yml')
        assert code == 0, output + errors
        return output + errors
    return run


def test_every_section_is_tested():
    tested = re.findall(r"example\('(.*?)'\)", Path(__file__).read_text())
    assert sorted(tested) == sorted(SECTIONS)


@pytest.mark.slow
def test_coupling(example):
    example('A coupling')
    cls = COUPLINGS['TanhCoupling']
    check_flow_layer(cls(FCN(2, 4, 5), 2), (4, 3, 2))
    upscaler = HCFlowUpscaler('experiments/example')
    assert any(isinstance(module, cls) for module in upscaler.net.modules())
    assert upscaler(np.zeros((4, 5, 3), np.uint8)).shape == (16, 20, 3)


@pytest.mark.slow
def test_loss(example):
    assert 'l_g_pix: ' in example('A loss')


@pytest.mark.slow
def test_metric(example):
    example('A metric')
    with open('results/example/metrics.csv', newline='') as file:
        values = [float(row['mean']) for row in csv.DictReader(file) if row['metric'] == 'mae']
    assert len(values) == 9 and min(values) > 0  # three images; bicubic and two temperatures
    best = load_file('experiments/example/training_states/2.state')['best_metric_results']['held_out']
    assert best['mae_t0']['better'] == best['mae_t0.8']['better'] == 'lower'


@pytest.mark.slow
def test_dataset(example):
    example('A dataset')
    names, changes = ('NoisyPairedDataset', 'PairedImageDataset'), {'phase': 'val', 'scale': 4, 'sigma': 5}
    noisy, clean = (DATASET_REGISTRY.get(name)({**demo_options()['datasets']['val'], **changes})[0] for name in names)
    assert torch.equal(noisy['gt'], clean['gt'])
    assert 4 < 255 * (noisy['lq'] - clean['lq']).std() < 6


@pytest.fixture
def batches(monkeypatch):
    """(LR images, HR images) of every iteration of HCFlowModel."""
    batches, update = [], HCFlowModel.optimize_parameters
    monkeypatch.setattr(HCFlowModel, 'optimize_parameters', lambda model, number: (
        batches.append((model.lq, model.gt)), update(model, number)))
    return batches


def check_noise(batches, sigma):
    assert len(batches) == 2
    for lq, gt in batches:
        noise = lq - interpolate(gt, scale_factor=1 / 4, mode='bicubic', antialias=True)
        assert 0 < 255 * noise.std() < sigma


@pytest.mark.slow
def test_degradation(example, command, batches):
    example('A degradation')
    check_noise(batches, 17)
    code, _, errors = command('train', '-opt', 'opt.yml', '--force_yml', 'train:degradation:sigma=x')
    assert code == 1 and "'train.degradation.sigma' is 'x'; it must be a whole number or a number" in errors


@pytest.mark.slow
def test_model(example, command, batches):
    example('A model with an option of its own')
    check_noise(batches, 12)
    code, _, errors = command('train', '-opt', 'opt.yml', '--force_yml', 'train:max_noise=-1')
    assert code == 1 and "'train.max_noise' is -1; it must be" in errors
