"""These packages register in BasicSR, whichever is imported first, and neither is slowed down by the other."""
import subprocess
import sys

import pytest
from helpers import ROOT

REGISTERED = """
import basicsr.utils.registry as r
import hcflow_arch, hcflow_model
for registry, names in {
        r.ARCH_REGISTRY: ['HCFlowNet', 'HCFlowVGGDiscriminator'],
        r.DATASET_REGISTRY: ['HROnlyDataset'],
        r.LOSS_REGISTRY: ['LatentLoss', 'NLLLoss', 'RandomPerceptualLoss', 'RelativisticGANLoss'],
        r.METRIC_REGISTRY: ['calculate_diversity', 'calculate_lpips', 'calculate_lr_psnr', 'calculate_nll'],
        r.MODEL_REGISTRY: ['HCFlowModel', 'HCFlowRescalingModel']}.items():
    for name in names:
        package = hcflow_arch if registry is r.ARCH_REGISTRY else hcflow_model
        assert name in registry and registry.get(name) is getattr(package, name)
    assert set(names) < set(registry.keys())
    assert dict(list(registry)) == {name: registry.get(name) for name in registry.keys()}
from basicsr.archs import build_network
sizes = {'num_flow_steps': 1, 'num_cond_steps': 1, 'hidden_channels': 4, 'num_feat': 4, 'num_block': [1, 1]}
assert type(build_network({'type': 'HCFlowNet', 'scale': 2, **sizes})) is hcflow_arch.HCFlowNet
"""
REPAIRED = """
import torch
from basicsr.data.degradations import rgb_to_grayscale
assert rgb_to_grayscale(torch.ones(3, 2, 2)).shape == (1, 2, 2)
"""


def python(code, *arguments):
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('first', [
    'import hcflow_model',
    'import hcflow_arch, basicsr, hcflow_model',  # BasicSR between them
    # BasicSR before them, with the module that a user's own repair, or an old torchvision, has
    'import sys, types; m = types.ModuleType("torchvision.transforms.functional_tensor"); '
    'import torchvision.transforms.functional as f; m.rgb_to_grayscale = f.rgb_to_grayscale; '
    'sys.modules[m.__name__] = m; import basicsr',
    'from hcflow_model.models.hcflow_rescaling_model import HCFlowRescalingModel',  # a module that imports BasicSR
    'import pickle; pickle.loads(b"chcflow_model.losses.image_loss\\nRelativisticGANLoss\\n.")',  # as spawn does
    # BasicSR failed before, without the repair
    'import sys\ntry: import basicsr\nexcept ImportError: pass\nimport hcflow_arch, hcflow_model',
])
def test_names_are_registered(first):
    python(f'{first}\n{REGISTERED}\n{REPAIRED}')


@pytest.mark.slow
def test_each_imports_nothing_of_the_other():
    python('import sys, hcflow_arch, hcflow_model; assert not {"torch", "basicsr", "numpy"} & set(sys.modules)')
    python('import sys, hcflow_model, basicsr; assert "hcflow_model.models.hcflow_model" not in sys.modules')


@pytest.mark.slow
def test_a_name_that_is_taken_is_refused():
    python('import hcflow_arch; from basicsr.utils.registry import ARCH_REGISTRY\n'
           'try: ARCH_REGISTRY.register(hcflow_arch.HCFlowNet)\n'
           'except AssertionError as error: assert "already registered" in str(error)\n'
           'else: raise SystemExit("taken twice")')


def test_public_names():
    import hcflow_arch
    import hcflow_model
    for package in (hcflow_arch, hcflow_model):
        assert all(getattr(package, name).__name__ == name for name in package.__all__)
        assert set(package.__all__) <= set(dir(package))
        with pytest.raises(AttributeError, match=f'{package.__name__}.*Missing'):
            package.Missing  # noqa: B018
