"""HCFlowModel in training: which steps, in which order, and from which start."""
import json

import numpy as np
import pytest
import torch
from helpers import (
    FEATURE_NET,
    L1,
    NET_D,
    NLL_OPT,
    PERCEPTUAL_OPT,
    SMALL,
    cpu_options,
    equal,
    gan_opts,
    perturb,
    train,
    training_batch,
    training_model,
    weights_of,
    write_random_vgg,
)

from hcflow_arch import InputError
from hcflow_model import HCFlowModel

VGG_D = {'type': 'HCFlowVGGDiscriminator', 'num_feat': 2, 'input_size': 32}


def names_of(log):
    """Names of the losses in a log, without the terms that one is made of and what is watched beside them."""
    return [name for name in log if not name.startswith('l_g_nll_') and name != 'condition_1x1']


@pytest.fixture(scope='module')
def vgg_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('vgg')
    write_random_vgg(folder)
    return folder


# ---- losses and their order ----

LOSSES = {'nll': NLL_OPT, 'pix': {'pixel_opt': L1}, 'gan': gan_opts()}
D_LOG = ['l_d_real', 'l_d_fake', 'out_d_real', 'out_d_fake']


@pytest.mark.parametrize('names', [('nll',), ('pix',), ('nll', 'pix'), ('gan',), ('nll', 'pix', 'gan')])
def test_blocks_decide_the_losses(names, tmp_path):
    losses = {key: block for name in names for key, block in LOSSES[name].items()}
    log, = train(training_model(tmp_path, losses, NET_D if 'gan' in names else None), 1)
    assert names_of(log) == [f'l_g_{name}' for name in names] + (D_LOG if 'gan' in names else [])
    assert all(np.isfinite(value) for value in log.values())


def test_every_loss_has_its_own_step_in_order(tmp_path, vgg_folder, monkeypatch):
    monkeypatch.chdir(vgg_folder)
    losses = {**gan_opts(), **PERCEPTUAL_OPT, 'pixel_opt': L1, **NLL_OPT}  # their order in the file means nothing
    model = training_model(tmp_path, losses, NET_D, temperature=0.7)
    events = []

    def record(target, name, event):
        original = getattr(target, name)
        monkeypatch.setattr(target, name, lambda *args, **kwargs: (events.append(event), original(*args, **kwargs))[1])

    record(model.cri_nll, 'forward', 'nll')
    record(model.cri_pixel, 'forward', 'pixel')
    record(model.cri_perceptual, 'forward', 'perceptual')
    record(model.adversary, 'generator_loss', 'gan')
    record(model.optimizer_g, 'zero_grad', 'zero g')
    record(model.optimizer_g, 'step', 'step g')
    record(model.optimizer_d, 'zero_grad', 'zero d')
    record(model.optimizer_d, 'step', 'step d')
    temperatures = []
    decode = model.net_g.decode
    monkeypatch.setattr(model.net_g, 'decode', lambda lq, latents, temperature, generator: (
        temperatures.append(temperature), decode(lq, latents, temperature, generator))[1])

    log, = train(model, 1)
    order = [event for event in events if not event.startswith('zero')]
    assert order == ['nll', 'step g', 'pixel', 'step g', 'perceptual', 'gan', 'step g', 'step d']
    assert [event for event in events if event.endswith(' g')] == ['zero g', 'step g'] * 3
    assert events[-2:] == ['zero d', 'step d']
    assert temperatures == [0, 0.7]
    assert names_of(log) == ['l_g_nll', 'l_g_pix', 'l_g_percep', 'l_g_gan', *D_LOG]
    assert log['l_g_percep'] > 0


def test_later_losses_see_the_weights_of_earlier_steps(tmp_path):
    model = training_model(tmp_path, {**NLL_OPT, 'pixel_opt': L1}, lr=1e-2)
    seen = []
    for criterion in (model.cri_nll, model.cri_pixel):
        criterion.register_forward_hook(lambda *_: seen.append(weights_of(model.net_g)))
    train(model, 1)
    assert not equal(*seen)


def test_no_loss_at_all(tmp_path):
    with pytest.raises(InputError, match='no loss for the generator.*nll_opt, pixel_opt, perceptual_opt, gan_opt'):
        training_model(tmp_path, {})


def test_gan_without_discriminator(tmp_path):
    with pytest.raises(InputError, match='gan_opt needs a discriminator: give network_d'):
        training_model(tmp_path, gan_opts())


def test_basicsr_arch_as_feature_net(tmp_path):
    model = training_model(tmp_path, NLL_OPT, network={**SMALL, 'feature_net': FEATURE_NET})
    start = weights_of(model.net_g)
    log, = train(model, 1)
    changed = {name for name, value in model.net_g.state_dict().items() if not torch.equal(value, start[name])}
    assert np.isfinite(log['l_g_nll'])
    assert any(name.startswith('levels.1.prior.') for name in changed)
    log2, = train(model, 2, first=2)  # zero-started layers hold gradients back from the features in the first step
    moved = model.net_g.levels[0].feature_net.net.conv_first.weight
    assert np.isfinite(log2['l_g_nll']) and not torch.equal(moved, start['levels.0.feature_net.net.conv_first.weight'])


# ---- gradients ----

def test_gradients_are_clipped_by_value_then_by_norm(tmp_path, monkeypatch):
    model = training_model(tmp_path, NLL_OPT, grad_clip_value=0.5, grad_clip_norm=2.)
    parameters = model.optimizer_g.param_groups[0]['params']
    seen = {}

    def record(name):
        original = getattr(torch.nn.utils, name)

        def clip(tensors, limit):
            tensors = list(tensors)
            before = [p.grad.clone() for p in tensors if p.grad is not None]
            original(tensors, limit)
            seen[name] = (limit, before, [p.grad.clone() for p in tensors if p.grad is not None])
        monkeypatch.setattr(torch.nn.utils, name, clip)

    record('clip_grad_value_')
    record('clip_grad_norm_')
    train(model, 1)
    assert list(seen) == ['clip_grad_value_', 'clip_grad_norm_']
    limit, before, after = seen['clip_grad_value_']
    assert limit == 0.5 and max(g.abs().max() for g in before) > 0.5
    assert all(torch.equal(b.clamp(-0.5, 0.5), a) for b, a in zip(before, after, strict=True))
    limit, before, after = seen['clip_grad_norm_']
    norm = torch.cat([g.flatten() for g in before]).norm()
    assert limit == 2 and norm > 2
    for b, a, parameter in zip(before, after, [p for p in parameters if p.grad is not None], strict=True):
        torch.testing.assert_close(a, b * 2 / norm, rtol=1e-4, atol=1e-8)
        assert torch.equal(parameter.grad, a)  # nothing comes after


def test_generator_leaves_no_gradients_in_the_discriminator(tmp_path, monkeypatch):
    model = training_model(tmp_path, gan_opts(), NET_D)
    update, seen = model.adversary.update, []
    monkeypatch.setattr(model.adversary, 'update', lambda fake, real: (
        seen.extend((p.grad, p.requires_grad) for p in model.net_d.parameters()), update(fake, real))[1])
    train(model, 1)
    assert seen and all(grad is None and requires_grad for grad, requires_grad in seen)
    assert any(p.grad is not None and p.grad.any() for p in model.net_g.parameters())
    assert all(p.grad is not None for p in model.net_d.parameters())


def test_constants_are_not_optimized(tmp_path):
    model = training_model(tmp_path, {'pixel_opt': L1})
    optimized = {id(p) for group in model.optimizer_g.param_groups for p in group['params']}
    assert optimized == {id(p) for p in model.net_g.parameters() if p.requires_grad}


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    whole, parts = (training_model(tmp_path, {'pixel_opt': L1}, lr=1e-2, **more) for more in ({}, {'accumulate': 2}))
    for model in (whole, parts):
        perturb(model.net_g, 0.02)
    logs = [train(model, 2) for model in (whole, parts)]
    assert [log['l_g_pix'] for log in logs[1]] == pytest.approx([log['l_g_pix'] for log in logs[0]], rel=1e-5)
    other = parts.net_g.state_dict()
    for name, value in whole.net_g.state_dict().items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-3)  # Adam blows up round-off


def test_terms_that_are_logged_are_those_of_the_whole_batch(tmp_path):
    logs = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        model = training_model(tmp_path, NLL_OPT, accumulate=accumulate)
        perturb(model.net_g, 0.02)
        model.net_g.quant_bins = 1e9  # noise does not show
        for norm in model.net_g.actnorms():
            norm.mark_initialized()
        model.feed_data(training_batch(num=4))
        model.optimize_parameters(1)
        logs.append(model.get_current_log())
    names = [name for name in logs[0] if name.startswith('l_g_nll_')]
    assert len(names) == 3 and set(logs[0]) == set(logs[1])
    for name in names:
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-4)


# ---- EMA ----

def test_ema_starts_from_the_started_weights(tmp_path):
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.9, lr=1e-2)
    random_start = weights_of(model.net_g)
    assert not model.net_g_ema.is_initialized()
    started = {}
    model.cri_nll.register_forward_hook(lambda *_: started.update(weights_of(model.net_g)))
    train(model, 1)
    norm = 'levels.0.main.1.actnorm.log_scale'
    assert not torch.equal(started[norm], random_start[norm])  # the batch did start actnorm
    first = weights_of(model.net_g)
    parameters = [name for name, _ in model.net_g.named_parameters()]
    for name, value in model.net_g_ema.state_dict().items():
        if name in parameters:
            torch.testing.assert_close(value, 0.9 * started[name] + 0.1 * first[name])
    assert not torch.equal(first[norm], started[norm])
    before = weights_of(model.net_g_ema)
    train(model, 2, first=2)
    second = model.net_g.state_dict()
    for name in parameters:
        torch.testing.assert_close(model.net_g_ema.state_dict()[name], 0.9 * before[name] + 0.1 * second[name])


def test_ema_copies_buffers(tmp_path):
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.9)
    train(model, 1)
    buffers = dict(model.net_g.named_buffers())
    assert buffers and model.net_g_ema.is_initialized()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.net_g_ema.named_buffers())
    assert model.net_for_testing() is model.net_g_ema and not model.net_g_ema.training


def test_ema_of_loaded_weights_is_not_restarted(tmp_path):
    first = training_model(tmp_path, NLL_OPT, ema_decay=0.9, lr=1e-2)
    train(first, 2)
    first.save(0, 2)
    path = {'pretrain_network_g': str(tmp_path / 'models' / 'net_g_2.pth')}
    model = training_model(tmp_path, NLL_OPT, ema_decay=0.9, path=path)
    assert equal(weights_of(model.net_g), weights_of(first.net_g))
    ema = weights_of(model.net_g_ema)
    assert equal(ema, weights_of(first.net_g_ema)) and not equal(ema, weights_of(first.net_g))
    train(model, 3, first=3)
    now = model.net_g.state_dict()
    for name, _ in model.net_g.named_parameters():
        torch.testing.assert_close(model.net_g_ema.state_dict()[name], 0.9 * ema[name] + 0.1 * now[name])


# ---- discriminator ----

def test_discriminator_trains_alone_first(tmp_path):
    model = training_model(tmp_path, {**NLL_OPT, **gan_opts()}, NET_D, net_d_init_iters=2, ema_decay=0.9)
    g, d = weights_of(model.net_g), weights_of(model.net_d)
    for current_iter in (1, 2):
        log, = train(model, current_iter, first=current_iter)
        assert names_of(log) == D_LOG
        assert equal(weights_of(model.net_g), g)
        assert not equal(weights_of(model.net_d), d)
        d = weights_of(model.net_d)
    log, = train(model, 3, first=3)
    assert names_of(log) == ['l_g_nll', 'l_g_gan', *D_LOG]
    assert not equal(weights_of(model.net_g), g)
    assert model.net_g_ema.is_initialized()


def test_generator_is_updated_every_net_d_iters(tmp_path):
    model = training_model(tmp_path, {**NLL_OPT, **gan_opts()}, NET_D, net_d_iters=2)
    logs = train(model, 4)
    assert ['l_g_nll' in log for log in logs] == [False, True, False, True]
    assert all('l_d_real' in log for log in logs)


GAN_TYPES = ['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge']


@pytest.mark.slow
@pytest.mark.parametrize('gan_type', GAN_TYPES)
@pytest.mark.parametrize('loss', ['GANLoss', 'RelativisticGANLoss'])
def test_gan_types_train_both_networks(loss, gan_type, tmp_path):
    model = training_model(tmp_path, {'pixel_opt': L1, **gan_opts(gan_type, loss)}, VGG_D)
    d = weights_of(model.net_d)
    log, = train(model, 1, size=32)
    assert all(np.isfinite(value) for value in log.values())
    assert not equal(weights_of(model.net_d), d)
    assert all(p.grad is not None for p in model.net_d.parameters())
    images = training_batch(32)['gt']
    fake = images.flip(3).requires_grad_()
    loss = model.adversary.generator_loss(fake, images)
    loss.backward()
    assert loss.dim() == 0 and fake.grad.any()  # the generator learns from it


@pytest.mark.parametrize(('network_d', 'size'), [
    ({'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 2, 'skip_connection': True}, 32),
    ({'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 2}, 128),
    ({'type': 'HCFlowVGGDiscriminator', 'num_feat': 2}, 160)])
def test_discriminators_train(network_d, size, tmp_path):
    model = training_model(tmp_path, gan_opts(), network_d)
    d = weights_of(model.net_d)
    log, = train(model, 1, size=size)
    assert names_of(log) == ['l_g_gan', *D_LOG] and all(np.isfinite(value) for value in log.values())
    assert not equal(weights_of(model.net_d), d)


@pytest.mark.parametrize(('network_d', 'size'), [
    (VGG_D, 64), ({'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 2}, 64),
    ({'type': 'HCFlowVGGDiscriminator', 'num_feat': 2, 'num_in_ch': 1, 'input_size': 32}, 32)])
def test_discriminator_that_does_not_fit_the_patches(network_d, size, tmp_path):
    opt = cpu_options(tmp_path, SMALL, gan_opts())
    opt.update(network_d=dict(network_d), datasets={'train': {'gt_size': size}})
    with pytest.raises(InputError, match=f'{network_d["type"]}.*{size}'):
        HCFlowModel(opt)


# ---- batches and BasicSR's own model ----

def test_batches_without_ground_truth_forget_the_one_before(tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    batch = training_batch()
    model.feed_data(batch)
    model.feed_data({'lq': batch['lq']})
    model.test()
    assert 'gt' not in model.get_current_visuals()
    assert model.get_current_visuals()['result'].shape == batch['gt'].shape
    assert model.net_g.training


def test_network_in_the_plain_sr_model(tmp_path):
    from basicsr.models.sr_model import SRModel
    opt = cpu_options(tmp_path, SMALL, {'pixel_opt': L1}, lr=1e-3)
    torch.manual_seed(1)
    model = SRModel(opt)
    start = weights_of(model.net_g)
    losses = []
    for current_iter in (1, 2, 3):
        model.feed_data(training_batch())
        model.optimize_parameters(current_iter)
        losses.append(model.get_current_log()['l_pix'])
    assert np.isfinite(losses).all() and losses[0] > losses[1] > losses[2]
    assert not equal(weights_of(model.net_g), start)
    model.test()
    assert torch.isfinite(model.output).all() and model.output.shape == model.gt.shape
    json.dumps(model.get_current_log())


def test_several_gpus_in_one_process_are_refused_in_training_and_one_is_used_in_tests(tmp_path):
    model = training_model(tmp_path, NLL_OPT)
    model.opt['num_gpu'] = 2
    with pytest.raises(InputError, match='num_gpu is 2 in one process.*torchrun --nproc_per_node=2'):
        model.model_to_device(model.net_g)
    model.is_train = False
    assert model.model_to_device(model.net_g) is model.net_g
