"""Training runs of the authors' implementation, reproduced: losses of every iteration and the final weights."""
import copy

import numpy as np
import pytest
import torch
from helpers import GOLDEN, model_options, released_names

from hcflow_arch import load_official_state_dict
from hcflow_model import HCFlowModel, HCFlowRescalingModel

L1 = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
SR = {'num_flow_steps': 2, 'num_cond_steps': 2, 'hidden_channels': 12, 'num_feat': 8, 'num_block': [1, 1],
      'num_grow_ch': 4}
RUNS = {
    'train_hcflow_x4': {
        'model': HCFlowModel, 'network': SR, 'weights': None, 'lr': 2.5e-4,
        'losses': {'nll_opt': {'type': 'NLLLoss', 'loss_weight': 1.0}}, 'log': {'nll': 'l_g_nll'}},
    'train_hcflow_plus_x4': {
        'model': HCFlowModel, 'network': SR, 'weights': 'sr4_weights.npz', 'lr': 5e-5,
        'losses': {'nll_opt': {'type': 'NLLLoss', 'loss_weight': 2e-3}, 'pixel_opt': L1},
        'log': {'nll': 'l_g_nll', 'l_g_pix_hr': 'l_g_pix'}},
    'train_hcflow_rescaling_x4': {
        'model': HCFlowRescalingModel, 'network': {**SR, 'task': 'rescaling', 'num_subnet_grow_ch': 8},
        'weights': 're4_weights.npz', 'lr': 2.5e-4,
        'losses': {'lq_opt': {'type': 'MSELoss', 'loss_weight': 0.05, 'reduction': 'mean'},
                   'latent_opt': {'type': 'LatentLoss', 'loss_weight': 1e-5}, 'pixel_opt': L1},
        'log': {'l_g_lr': 'l_g_lq', 'l_g_z': 'l_g_latent', 'l_g_hr': 'l_g_pix'}},
}


@pytest.mark.usefixtures('convs')
@pytest.mark.parametrize('run', RUNS)
def test_training_run_is_reproduced(run, tmp_path, monkeypatch, device):
    setting, golden = RUNS[run], np.load(GOLDEN / f'{run}.npz')

    def array(key):
        return torch.from_numpy(golden[key]).to(device)

    if setting['weights']:
        start = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / setting['weights']).items()}
    else:
        start = {key.removeprefix('init:'): torch.from_numpy(golden[key]) for key in golden.files if 'init:' in key}
    opt = model_options(tmp_path, setting['network'], setting['losses'], lr=setting['lr'])
    opt['train'].update(grad_clip_value=5, grad_clip_norm=100)
    model = setting['model'](opt)
    net = model.net_g
    net.load_state_dict(load_official_state_dict(start, initialized=setting['weights'] is not None)[0])

    logs = []
    for i in range(len(golden['hr'])):
        monkeypatch.setattr(torch, 'rand_like', lambda x, i=i: array('dequantization_noise')[i])
        if f'eps:{i}:0' in golden.files:
            eps = iter([array(f'eps:{i}:0'), array(f'eps:{i}:1')])
            monkeypatch.setattr(torch, 'randn', lambda shape, eps=eps, **kwargs: next(eps))
        model.feed_data({'gt': array('hr')[i], 'lq': array('lr')[i]})
        model.optimize_parameters(i + 1)
        logs.append(copy.deepcopy(model.get_current_log()))

    for key, name in setting['log'].items():
        assert [log[name] for log in logs] == pytest.approx(golden[f'log:{key}'].tolist(), rel=1e-4), name
    ours = {released: name for name, released in released_names(start).items()}
    final = net.state_dict()
    for name, norm, mean in zip(golden['final_names'], golden['final_norm'], golden['final_mean'], strict=True):
        value = final[ours[str(name)]].double()
        # some biases have gradients of pure round-off, which Adam blows up to +-lr
        assert value.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), name
        assert value.mean().item() == pytest.approx(mean, rel=1e-3, abs=3e-4), name
