"""What only a GPU can show. Numbers are checked there by the tests that take the fixture `device`."""
import copy

import pytest
import torch
from helpers import (
    L1,
    NET_D,
    NLL_OPT,
    RESCALING_OPTS,
    SMALL,
    gan_opts,
    golden_net,
    model_options,
    perturb,
    random_image,
    small_net,
    train,
    training_batch,
)
from plain import plain

from hcflow_arch import InputError
from hcflow_model import HCFlowUpscaler
from hcflow_model.models.hcflow_model import HCFlowModel
from hcflow_model.models.hcflow_rescaling_model import HCFlowRescalingModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
LOSSES = {'sr': {**NLL_OPT, 'pixel_opt': L1}, 'sr with GAN': {**NLL_OPT, 'pixel_opt': L1, **gan_opts()},
          'rescaling': RESCALING_OPTS,
          'rescaling by JPEG': {**RESCALING_OPTS, 'compression': {'type': 'jpeg', 'quality': [70, 70], 'prob': 1}}}


@pytest.fixture
def waiting_is_an_error():
    def switch(on):
        torch.cuda.set_sync_debug_mode('error' if on else 'default')
    yield switch
    switch(False)


@pytest.mark.parametrize('memory', ['default', 'low'])
@pytest.mark.parametrize('amp', [None, 'bf16'])
@pytest.mark.parametrize('losses', LOSSES)
def test_training_never_waits(losses, amp, memory, tmp_path, waiting_is_an_error):
    task = losses.split()[0]
    opt = model_options(tmp_path, {**SMALL, 'task': task, 'memory': memory}, copy.deepcopy(LOSSES[losses]), amp=amp,
                        ema_decay=0.99, grad_clip_value=5, grad_clip_norm=100, accumulate=2)
    if 'gan_opt' in opt['train']:
        opt['network_d'] = dict(NET_D)
    model = {'sr': HCFlowModel, 'rescaling': HCFlowRescalingModel}[task](opt)
    assert model.device.type == 'cuda'
    for current_iter in range(1, 5):
        model.update_learning_rate(current_iter)
        batch = {key: image.pin_memory() for key, image in training_batch(seed=current_iter).items()}
        waiting_is_an_error(current_iter > 2)  # the first starts actnorms from data
        model.feed_data(batch)
        model.optimize_parameters(current_iter)
        waiting_is_an_error(False)
    assert all(p.isfinite().all() for p in model.net_g.parameters())


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('memory', ['default', 'low'])
def test_options_equal_plain_autograd(memory, channels_last, amp):
    net = perturb(small_net(memory=memory, channels_last=channels_last), 0.05).cuda()
    gt, lq = random_image(2, 3, 16, 24).cuda(), random_image(2, 3, 4, 6, seed=1).cuda()
    found = []
    for each, amp_here in ((net, amp), (plain(net), False)):
        with torch.autocast('cuda', torch.bfloat16, enabled=amp_here):
            torch.cuda.manual_seed(0)
            loss = each(lq, gt).nll.mean() + (each(lq, temperature=0.7) - gt).abs().mean()
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in each.parameters()])))
    (loss, grad), (wanted, wanted_grad) = found
    assert loss == pytest.approx(wanted, rel=0.02 if amp else 1e-5)
    assert (grad - wanted_grad).norm() < (0.2 if amp else 1e-4) * wanted_grad.norm()


def test_round_trip_with_tensor_float_32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', True)  # PyTorch's default: 10 bits of mantissa
    net, case = golden_net('sr4')
    net = net.cuda().eval()
    with torch.no_grad():
        code = net.encode(case['hr'].cuda(), dequantization_noise=torch.zeros_like(case['hr']).cuda())
        back = net.decode(code.lq_exact, code.latents, clamp=False)
    assert (back - case['hr'].cuda()).abs().max() < 1e-4


def graph_model(tmp_path, losses, cuda_graph, lr, dist=False, **options):
    opt = model_options(tmp_path, SMALL, copy.deepcopy(LOSSES[losses]), lr=lr, cuda_graph=cuda_graph, temperature=0,
                        ema_decay=0.9, **options)
    opt['dist'] = dist
    if 'gan_opt' in opt['train']:
        opt['network_d'] = dict(NET_D)
    task = opt['network_g']['task'] = losses.split()[0]
    torch.manual_seed(1)
    return {'rescaling': HCFlowRescalingModel, 'sr': HCFlowModel}[task](opt)


@pytest.mark.parametrize('lr', [0., 1e-4])
@pytest.mark.parametrize('options', [{}, {'accumulate': 2}, {'amp': 'bf16'}, {'dist': True}], ids=str)
@pytest.mark.parametrize('losses', LOSSES)
def test_training_by_cuda_graphs(losses, options, lr, tmp_path, monkeypatch, request):
    if 'dist' in options:  # as one of several processes
        torch.distributed.init_process_group('nccl', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
        request.addfinalizer(torch.distributed.destroy_process_group)
    monkeypatch.setattr(torch, 'rand_like', torch.zeros_like)  # random numbers come in another order
    found = []
    for cuda_graph in (False, True):
        model = graph_model(tmp_path, losses, cuda_graph, lr, **options)
        logs = train(model, 8)
        grads = [p.grad for p in model.net_g.parameters() if p.grad is not None]
        found.append((logs, torch.cat([grad.flatten() for grad in grads]), model))
    (logs, grads, _), (graph_logs, graph_grads, model) = found
    assert len(model.graphs._graphs) == len(model.generator_losses())
    for log, graph_log in zip(logs, graph_logs, strict=True):
        assert graph_log == pytest.approx(log, rel=1e-3 if not lr and not options.get('amp') else 0.02)
    assert (grads - graph_grads).norm() < (0.1 if lr or options.get('amp') else 1e-3) * grads.norm()


def test_cuda_graph_draws_other_noise_each_time(tmp_path):
    model = graph_model(tmp_path, 'sr', True, 0.)
    values = []
    for current_iter in range(1, 9):
        model.feed_data(training_batch())
        model.optimize_parameters(current_iter)
        values.append(model.get_current_log()['l_g_nll'])
    assert len(set(values[4:])) == 4


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('amp', [False, True])
def test_sampling_by_cuda_graphs(amp, compiled):
    net = perturb(small_net(compile=compiled), 0.05)
    by_graph, as_usual = (HCFlowUpscaler(net, device='cuda', tile=16, overlap=4) for _ in range(2))
    as_usual._decode.MAX_PIXELS = 0
    for seed in range(3):  # graphs outlive an image, its context of autocast, and weights
        perturb(net, 0.02, seed=seed)
        image = random_image(1, 3, 48, 48, seed=seed)[0].permute(1, 2, 0).numpy()
        found = []
        for upscaler in (as_usual, by_graph):
            with torch.autocast('cuda', torch.bfloat16, enabled=amp):
                found.append(upscaler.samples(image, 3, 0.8))
        for got, wanted in zip(*found, strict=True):
            assert abs(got - wanted).max() < (1e-2 if amp else 1e-5)
    assert by_graph._decode._graphs and not as_usual._decode._graphs


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_compiled(task):
    net, lq = perturb(small_net(task=task, compile=True), 0.05).cuda(), random_image(1, 3, 6, 7).cuda()
    latents = net.draw_latents(lq)
    with torch.no_grad():
        got = net.decode(lq, latents, clamp=False)
        net.compile_blocks(False)
        assert (got - net.decode(lq, latents, clamp=False)).abs().max() < 1e-4


def test_what_cannot_be_recorded(tmp_path, monkeypatch):
    model = graph_model(tmp_path, 'sr', True, 1e-4)
    train(model, 3)
    loss = model.cri_pixel.forward
    monkeypatch.setattr(model.cri_pixel, 'forward', lambda sr, gt: loss(sr, gt) * float(gt.max() <= 1))
    with pytest.raises(InputError, match='cannot be recorded .* Set train.cuda_graph: false'):
        train(model, 8)
