"""Mixed precision by the options train.amp and val.amp."""
import pytest
import torch
from helpers import NLL_OPT, SMALL, perturb, train, training_model

from hcflow_model.models import hcflow_model

LOSSES = {**NLL_OPT, 'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0}}


@pytest.mark.slow
def test_training_in_bf16_stays_near_float32(tmp_path):
    logs = {}
    for amp in (None, 'bf16'):
        model = training_model(tmp_path, LOSSES, amp=amp)
        seen = []
        conv = model.net_g.levels[0].feature_net.conv_first
        conv.register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.dtype))
        logs[amp] = train(model, 3)
        assert set(seen) == {torch.float32 if amp is None else torch.bfloat16}
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.net_g.parameters())
    for plain, mixed in zip(logs[None], logs['bf16'], strict=True):
        assert plain.keys() == mixed.keys() and plain != mixed
        for name, value in plain.items():
            assert mixed[name] == pytest.approx(value, rel=0.02), name


def test_validation_in_bf16(tmp_path):
    images = []
    for amp in (None, 'bf16'):
        model = training_model(tmp_path, LOSSES)
        perturb(model.net_g, 0.02)
        model.opt['val'] = {**(model.opt.get('val') or {}), 'amp': amp}
        model.lq = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), model.autocast('val'):
            images.append(model.net_g(model.lq, temperature=0.))
    assert all(image.dtype == torch.float32 for image in images)
    assert 0 < (images[0] - images[1]).abs().max() < 0.02


@pytest.mark.parametrize(('amp', 'has_instructions', 'lines'), [
    ('bf16', False, 1), ('bf16', True, 0), (None, False, 0)])
def test_slow_cpus_are_told(amp, has_instructions, lines, tmp_path, monkeypatch, warnings):
    monkeypatch.setattr(hcflow_model, 'has_bf16_instructions', lambda device: has_instructions)
    training_model(tmp_path, LOSSES, amp=amp)
    assert len(warnings) == lines
    assert all(line.startswith('train.amp: this device has no bf16') for line in warnings)
    assert isinstance(hcflow_model.has_bf16_instructions(torch.device('cpu')), bool)


def test_first_update_from_the_wavelet_has_all_gradients(tmp_path):
    model = training_model(tmp_path, NLL_OPT, network={**SMALL, 'start': 'wavelet'}, amp='bf16')
    train(model, 1)
    assert all(parameter.grad is not None for parameter in model.net_g.parameters())
