"""Upper limits of the operations that start a kernel, so that launches do not creep back."""
import importlib

import pytest
from helpers import ROOT

LIMITS = {'nll step, default': 4000, 'nll step, low': 5500, 'decode, default': 1500,
          'GAN iteration, default': 12300, 'GAN iteration, low': 16200}


@pytest.mark.slow
def test_number_of_kernels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    kernels = importlib.import_module('benchmarks.kernels')
    figures = {name: sum(counts.values()) for name, counts in kernels.measure(forms=('default', 'low')).items()}
    assert figures.keys() == LIMITS.keys()
    assert all(figures[name] <= LIMITS[name] for name in LIMITS), figures
