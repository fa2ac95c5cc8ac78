"""Our network in BasicSR's models, and BasicSR's networks, losses and metrics in ours: a few iterations of each."""
import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import cv2
import numpy as np
import pytest
import torch
from basicsr.models import build_model
from helpers import (
    DATA,
    L1,
    NET_D,
    NLL_OPT,
    SMALL,
    cpu_options,
    equal,
    gan_opts,
    loader,
    perturb,
    random_image,
    small_net,
    train,
    training_batch,
    training_model,
    weights_of,
)

from hcflow_model import metric


@pytest.mark.parametrize('model_type', ['SRGANModel', 'ESRGANModel'])
def test_the_network_in_basicsrs_gans(model_type, tmp_path):
    opt = cpu_options(tmp_path, SMALL, {'pixel_opt': L1, **gan_opts()}, ema_decay=0.9)
    opt.update(model_type=model_type, network_d=dict(NET_D))
    (tmp_path / 'models').mkdir()
    model = build_model(opt)
    nets = model.net_g, model.net_d
    before = [weights_of(net) for net in nets]
    for current_iter in (1, 2):
        model.feed_data(training_batch(seed=current_iter))
        model.optimize_parameters(current_iter)
        assert all(np.isfinite(value) for value in model.get_current_log().values())
    assert not any(equal(weights_of(net), old) for net, old in zip(nets, before, strict=True))
    model.test()
    assert model.output.shape == model.gt.shape and model.output.isfinite().all()
    model.save_network([model.net_g, model.net_g_ema], 'net_g', 2, param_key=['params', 'params_ema'])
    ours = training_model(tmp_path, NLL_OPT, path={'pretrain_network_g': str(tmp_path / 'models' / 'net_g_2.pth'),
                                                   'param_key_g': 'params_ema'})
    assert equal(dict(ours.net_g.named_parameters()), dict(model.net_g_ema.named_parameters()))


FEATURES = {
    'RRDBNet': {'scale': 1, 'num_out_ch': 4, 'num_grow_ch': 4, 'num_feat': 4, 'num_block': 1},
    'MSRResNet': {'upscale': 2, 'unshuffle': True, 'num_feat': 4, 'num_block': 1},
    'SRVGGNetCompact': {'upscale': 1, 'num_feat': 4, 'num_conv': 1},
    'EDSR': {'upscale': 1, 'num_out_ch': 4, 'num_feat': 4, 'num_block': 1},
    'RCAN': {'upscale': 1, 'num_out_ch': 4, 'num_feat': 4, 'num_group': 1, 'num_block': 1, 'squeeze_factor': 2},
    'SwinIR': {'upsampler': '', 'embed_dim': 4, 'depths': [1], 'num_heads': [1], 'window_size': 4, 'mlp_ratio': 1},
}


@pytest.mark.parametrize('kind', FEATURES)
def test_features_of_basicsrs_networks(kind, tmp_path):
    """A patch whose LR image, 5x5, is no multiple of a window, and whose finest level gets more than colours."""
    network = {**SMALL, 'feature_net': {'type': kind, **FEATURES[kind]}}
    model = training_model(tmp_path, {**NLL_OPT, 'pixel_opt': L1}, network=network)
    perturb(model.net_g, 0.02)
    before = weights_of(model.net_g)
    logs = train(model, 2, size=20)
    assert all(np.isfinite(log['l_g_nll']) for log in logs)
    changed = {name for name, value in model.net_g.state_dict().items() if not torch.equal(value, before[name])}
    assert all(any(name.startswith(f'levels.{level}.feature_net.net.') for name in changed) for level in (0, 1))
    model.save_network(model.net_g, 'net_g', 2)
    again = small_net(feature_net=network['feature_net'])
    again.load_state_dict(torch.load(tmp_path / 'models' / 'net_g_2.pth', weights_only=True)['params'])
    lq = random_image(1, 3, 5, 6)
    assert torch.equal(again.eval()(lq, temperature=0), model.net_g.eval()(lq, temperature=0))


@pytest.mark.parametrize('loss', ['CharbonnierLoss', 'WeightedTVLoss'])
def test_pixel_losses_of_basicsr(loss, tmp_path):
    model = training_model(tmp_path, {'pixel_opt': {'type': loss, 'loss_weight': 0.5}})
    perturb(model.net_g, 0.02)
    with torch.no_grad():
        batch = training_batch()
        sr = model.net_g.eval()(batch['lq'], temperature=0)
        model.net_g.train()
        wanted = ((sr - batch['gt']) ** 2 + 1e-12).sqrt().mean() if loss == 'CharbonnierLoss' else (
            sr.diff(dim=2).abs().mean() + sr.diff(dim=3).abs().mean())
    model.feed_data(batch)
    model.optimize_parameters(1)
    assert model.get_current_log()['l_g_pix'] == pytest.approx(0.5 * float(wanted), rel=1e-4)


def test_niqe_and_a_metric_of_another_package(tmp_path, far_pixels_pass, monkeypatch):
    """As docs/real.md wraps pyiqa's, but by a module of ours: pyiqa's networks are downloads."""
    class Sharpness(torch.nn.Module):
        lower_better = False

        def forward(self, image):  # (1, 3, H, W), RGB in [0, 1]
            return image.diff(dim=3).abs().mean()

    @metric(takes_float=True)
    def calculate_sharpness(img):
        rgb = torch.from_numpy(img[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        return Sharpness()(rgb).item()
    from basicsr.utils.registry import METRIC_REGISTRY
    model = training_model(tmp_path, NLL_OPT)
    perturb(model.net_g, 0.02)
    lq = cv2.imread(str(DATA / 'val_gt' / 'tower.png'))[:52, :100, ::-1].copy()  # NIQE takes blocks of 96x96
    lq = torch.from_numpy(lq).permute(2, 0, 1).float() / 255
    model.opt['val'].update(temperatures=[0], metrics={'sharpness': {'type': 'calculate_sharpness'},
                                                       'niqe': {'type': 'calculate_niqe', 'crop_border': 4}})
    try:
        model.validation(loader([{'lq': lq}]), 1, None, save_img=False)  # without ground truth, as real pictures
    finally:
        METRIC_REGISTRY._obj_map.pop('calculate_sharpness')
    assert model.metric_results['niqe_t0'] > 0 and model.metric_results['sharpness_t0'] > 0
