"""Two gloo processes: with half the batch each they are one process with the whole batch, and they decide together."""
import copy
import math
import os
import signal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import (
    L1,
    SMALL,
    GraphStandIn,
    adam_states,
    cpu_options,
    equal,
    gan_opts,
    random_image,
    training_batch,
    weights_of,
)
from torch.nn.functional import avg_pool2d

from hcflow_model.models import graphed_update
from hcflow_model.models.graphed_update import GraphedGradients
from hcflow_model.models.update import gradients
from hcflow_model.utils.distributed import settle

pytestmark = pytest.mark.slow
STARTS = ('paper', 'wavelet')
RUNS = {
    'HCFlow': ('HCFlowModel', 'sr', {'nll_opt': {'type': 'NLLLoss'}}),
    'HCFlow+': ('HCFlowModel', 'sr', {'nll_opt': {'type': 'NLLLoss', 'loss_weight': 2e-3}, 'pixel_opt': L1}),
    'HCFlow+ by graphs': ('HCFlowModel', 'sr', {
        'nll_opt': {'type': 'NLLLoss', 'loss_weight': 2e-3}, 'pixel_opt': L1, 'cuda_graph': True}),
    'rescaling': ('HCFlowRescalingModel', 'rescaling', {
        'lq_opt': {'type': 'MSELoss', 'loss_weight': 0.05}, 'latent_opt': {'type': 'LatentLoss', 'loss_weight': 1e-5},
        'pixel_opt': L1}),
}


def train_all(rank, world_size, root):
    """Every run and start on this process's share of the batches; rank 0 leaves what came out in root/results.pt."""
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group('gloo', init_method=f'file://{root}/store', rank=rank, world_size=world_size)
    results = {(run, start): train(rank, world_size, root, run, start) for run in RUNS for start in STARTS}
    if rank == 0:
        torch.save(results, root / 'results.pt')
    if world_size > 1:
        settle()
        dist.destroy_process_group()


def train(rank, world_size, root, run, start):
    """Five iterations with batches of 4. Returns the logs and the final weights.

    At a small learning rate: gradients that are pure round-off move weights by it in either direction.
    """
    import hcflow_model
    model_type, task, losses = RUNS[run]
    torch.manual_seed(0)
    opt = cpu_options(root, {**SMALL, 'task': task, 'start': start}, copy.deepcopy(losses), lr=1e-4)
    opt.update(dist=world_size > 1, rank=rank, world_size=world_size)
    model = getattr(hcflow_model, model_type)(opt)
    if 'cuda_graph' in losses:  # by a stand-in that runs on a CPU
        graphed_update.CudaGraph = type('Fresh', (GraphStandIn,), {'model': model})
        GraphedGradients._as_usual = lambda self, *args: gradients(*args)
        model.graphs = GraphedGradients(gradients)
        assert model.net_g is model.get_bare_model(model.net_g)
    logs = []
    share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    for i in range(5):
        gt = random_image(4, 3, 16, 16, seed=i)
        noise, eps = random_image(4, 3, 16, 16, seed=100 + i), random_image(4, 21, 8, 8, seed=200 + i)
        torch.rand_like = lambda x, noise=noise: noise[share]
        torch.randn = lambda shape, eps=eps, **kwargs: eps[share, :shape[1], :shape[2], :shape[3]]
        model.feed_data({'gt': gt[share], 'lq': avg_pool2d(gt, 4)[share]})
        model.optimize_parameters(i + 1)
        logs.append(model.get_current_log())
    assert not model.graphs or graphed_update.CudaGraph.replays == 3  # nll in the last iteration, pixels in two
    return logs, model.get_bare_model(model.net_g).state_dict()


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """[results of one process, results of two]."""
    results = []
    for world_size in (1, 2):
        root = tmp_path_factory.mktemp(f'processes{world_size}')
        mp.spawn(train_all, (world_size, root), nprocs=world_size)
        results.append(torch.load(root / 'results.pt', weights_only=True))
    return results


@pytest.mark.parametrize('start', STARTS)
@pytest.mark.parametrize('run', RUNS)
def test_two_processes_equal_one(results, run, start):
    (logs_one, weights_one), (logs_two, weights_two) = (result[run, start] for result in results)
    for one, two in zip(logs_one, logs_two, strict=True):
        # the terms of the nll cancel: their error is relative to the largest
        assert two == pytest.approx(one, rel=1e-4, abs=1e-5 * max(map(abs, one.values())))
    difference = sum((weights_one[name].double() - value.double()).norm()**2 for name, value in weights_two.items())
    norm = sum(value.double().norm()**2 for value in weights_one.values())
    assert (difference / norm)**0.5 < 1e-4


# ---- deciding together ----

def train_with_a_bad_process(rank, root):
    """HCFlow+ with a GAN: in iteration 2 the nll, in 3 the discriminator's loss is not finite on process 1 alone; in
    4 it alone is asked to stop. Leaves what came out in root/RANK.pt."""
    from hcflow_model import HCFlowModel
    from hcflow_model.pipeline.stopping import TrainingStopped, signals_stop_training
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{root}/store', rank=rank, world_size=2)
    torch.manual_seed(rank)
    opt = cpu_options(root, SMALL, {**RUNS['HCFlow+'][2], **gan_opts()}, ema_decay=0.9)
    opt.update(dist=True, rank=rank, world_size=2,
               network_d={'type': 'HCFlowVGGDiscriminator', 'num_feat': 2, 'input_size': 32})
    model = HCFlowModel(opt)
    discriminator_loss = model.adversary.criterion.forward
    found = {'logs': [], 'steps': []}
    with signals_stop_training():
        for current_iter in range(1, 10):
            bad = rank == 1 and current_iter
            model.cri_nll.loss_weight = math.nan if bad == 2 else 2e-3
            model.adversary.criterion.forward = lambda *args, is_disc=False, bad=bad: (
                discriminator_loss(*args, is_disc=is_disc) * (math.inf if is_disc and bad == 3 else 1))
            if bad == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            model.feed_data(training_batch(32, seed=10 * current_iter + rank))
            try:
                model.optimize_parameters(current_iter)
            except TrainingStopped as stop:
                found['stopped'] = current_iter, stop.code
                break
            found['logs'].append(dict(model.get_current_log()))
            steps = [states[0]['step'].item() for states in map(adam_states, (model.optimizer_g, model.optimizer_d))]
            found['steps'].append(tuple(steps))
    found['weights'], found['ema'] = weights_of(model.get_bare_model(model.net_g)), weights_of(model.net_g_ema)
    state = torch.load(root / 'training_states' / '4.state', weights_only=True)
    torch.manual_seed(5)
    model.resume_training(state)
    found['draw'] = torch.rand(3)
    torch.save(found, root / f'{rank}.pt')
    settle()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def decisions(tmp_path_factory):
    """What each process found."""
    root = tmp_path_factory.mktemp('decisions')
    for folder in ('models', 'training_states'):
        (root / folder).mkdir()
    mp.spawn(train_with_a_bad_process, (root,), nprocs=2)
    return [torch.load(root / f'{rank}.pt', weights_only=True) for rank in range(2)]


def test_update_that_is_not_finite_on_one_process_is_left_out_on_both(decisions):
    for found in decisions:
        assert [log.get('l_nonfinite') for log in found['logs']] == [None, 1, 2]
        assert math.isnan(found['logs'][1]['l_g_nll']) and not math.isfinite(found['logs'][2]['l_d_real'])
        # three updates of the flow in an iteration, one of the discriminator
        assert found['steps'] == [(3, 1), (5, 2), (8, 2)]
        assert all(value.isfinite().all() for value in found['ema'].values())
    assert equal(decisions[0]['weights'], decisions[1]['weights']) and equal(decisions[0]['ema'], decisions[1]['ema'])


def test_processes_stop_at_the_same_iteration(decisions):
    assert [found['stopped'] for found in decisions] == [(4, 143)] * 2


def test_every_process_goes_on_with_its_own_random_generators(decisions):
    assert not torch.equal(*(found['draw'] for found in decisions))
