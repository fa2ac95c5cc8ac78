"""First batches that actnorm can learn no scale from, and the ordinary ones after them."""
import numpy as np
import pytest
import torch
from helpers import L1, NLL_OPT, RESCALING_OPTS, SMALL, cpu_options, training_batch, weights_of
from torch.nn.functional import avg_pool2d

import hcflow_model

MODELS = {'sr': ('HCFlowModel', {**NLL_OPT, 'pixel_opt': L1}), 'rescaling': ('HCFlowRescalingModel', RESCALING_OPTS)}
BATCHES = {'black': torch.zeros(2, 3, 16, 16), 'white': torch.ones(2, 3, 16, 16),
           'one pixel high': training_batch()['gt'][:, :, :4]}  # in LR


@pytest.mark.slow
@pytest.mark.parametrize('start', ['paper', 'wavelet'])
@pytest.mark.parametrize('task', MODELS)
@pytest.mark.parametrize('name', BATCHES)
def test_all_stays_finite(name, task, start, tmp_path):
    model_type, losses = MODELS[task]
    torch.manual_seed(0)
    model = getattr(hcflow_model, model_type)(
        cpu_options(tmp_path, {**SMALL, 'task': task, 'start': start}, {key: dict(x) for key, x in losses.items()}))
    for current_iter in range(1, 4):
        gt = BATCHES[name] if current_iter == 1 else training_batch(seed=current_iter)['gt']
        model.feed_data({'gt': gt, 'lq': avg_pool2d(gt, 4)})
        model.optimize_parameters(current_iter)
        log = model.get_current_log()
        assert np.isfinite(list(log.values())).all() and 'l_nonfinite' not in log
    assert model.net_g.is_initialized()
    assert all(value.isfinite().all() for value in weights_of(model.net_g).values())
