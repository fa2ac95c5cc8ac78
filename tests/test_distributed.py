"""Two gloo processes with half the batch each are one process with the whole batch."""
import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import SMALL, cpu_options, random_image
from torch.nn.functional import avg_pool2d

L1 = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
STARTS = ('paper', 'wavelet')
RUNS = {
    'HCFlow': ('HCFlowModel', 'sr', {'nll_opt': {'type': 'NLLLoss'}}),
    'HCFlow+': ('HCFlowModel', 'sr', {'nll_opt': {'type': 'NLLLoss', 'loss_weight': 2e-3}, 'pixel_opt': L1}),
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
