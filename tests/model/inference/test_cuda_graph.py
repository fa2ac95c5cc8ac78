"""What is built on CUDA graphs, with a stand-in that runs on a CPU; tests/whole/test_gpu.py has the real ones."""
import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import L1, NET_D, NLL_OPT, GraphStandIn, gan_opts, perturb, random_image, small_net, train, training_model

from hcflow_arch import InputError
from hcflow_model import HCFlowUpscaler
from hcflow_model.inference import cuda_graph
from hcflow_model.models import graphed_update
from hcflow_model.models.graphed_update import GraphedGradients
from hcflow_model.models.update import gradients

LOSSES = {'hcflow+': {**NLL_OPT, 'pixel_opt': L1}, 'hcflow++': {**NLL_OPT, **gan_opts()}}


@pytest.fixture
def stand_in(monkeypatch):
    class Fresh(GraphStandIn):
        pass
    for module in (cuda_graph, graphed_update):
        monkeypatch.setattr(module, 'CudaGraph', Fresh)
    monkeypatch.setattr(GraphedGradients, '_as_usual', lambda self, *args: gradients(*args))
    return Fresh


@pytest.mark.slow
@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('losses', LOSSES)
def test_training_is_the_same(losses, accumulate, tmp_path, stand_in):
    logs = []
    for graphs in (None, GraphedGradients(gradients)):
        network_d = NET_D if losses == 'hcflow++' else None
        model = training_model(tmp_path, copy.deepcopy(LOSSES[losses]), network_d, accumulate=accumulate, ema_decay=0.9,
                               grad_clip_norm=10.)
        model.graphs, stand_in.model = graphs, model
        logs.append(train(model, 6))
    assert logs[0] == logs[1]
    assert stand_in.made == 2  # nll, and pixel or GAN loss
    assert stand_in.replays > 2 * accumulate


@pytest.fixture
def recorded(stand_in, monkeypatch):
    monkeypatch.setattr(cuda_graph.RepeatedDecode, '_key', lambda self, lq: lq.shape)
    return stand_in


def test_tiles_of_one_size_are_recorded_once(recorded):
    net = perturb(small_net(), 0.05)
    image = random_image(1, 3, 48, 16)[0].permute(1, 2, 0).numpy()
    wanted = HCFlowUpscaler(net, device='cpu', tile=16, overlap=0).samples(image, 2)
    assert recorded.made == 1 and recorded.replays == 4  # of six: 3 tiles, 2 samples
    upscaler = HCFlowUpscaler(net, device='cpu', tile=16, overlap=0)
    for _ in range(2):
        assert all((a == b).all() for a, b in zip(upscaler.samples(image, 2), wanted, strict=True))
    assert recorded.made == 2 and recorded.replays == 4 + 10
    upscaler.samples(image[:20], 2)  # two tiles of another size
    assert recorded.made == 3 and recorded.replays == 14 + 2


def test_few_graphs_are_kept(recorded, monkeypatch):
    monkeypatch.setattr(cuda_graph.RepeatedDecode, 'MAX_GRAPHS', 2)
    decode = cuda_graph.RepeatedDecode(perturb(small_net(), 0.05))
    with torch.no_grad():
        for size in (4, 5, 6, 5, 4):
            lq = random_image(1, 3, size, 4)
            latents, features = decode.net.draw_latents(lq), decode.net.coarsest_features(lq)
            images = [decode(lq, latents, features) for _ in range(3)]
            assert torch.equal(images[0], images[2])
    assert recorded.made == 4 and len(decode._graphs) == 2  # 4 had made room for 6


@pytest.mark.parametrize(('error', 'lines'), [
    (torch.OutOfMemoryError('CUDA out of memory.'), []),
    (RuntimeError('operation not permitted when stream is capturing\nmore'), [
        'Images are decoded without CUDA graphs, more slowly: operation not permitted when stream is capturing.'])])
def test_where_nothing_can_be_recorded_tiles_run_as_usual(error, lines, monkeypatch, warnings):
    def fail(*args, **kwargs):
        raise error
    monkeypatch.setattr(cuda_graph, 'CudaGraph', fail)
    monkeypatch.setattr(cuda_graph.RepeatedDecode, '_key', lambda self, lq: lq.shape if self._records else None)
    decode, lq = cuda_graph.RepeatedDecode(perturb(small_net(), 0.05)), random_image(1, 3, 6, 6)
    with torch.no_grad():
        latents, features = decode.net.draw_latents(lq), decode.net.coarsest_features(lq)
        images = [decode(lq, latents, features) for _ in range(5)]
    assert all(torch.equal(image, images[0]) for image in images) and not decode._graphs
    assert warnings == lines


@pytest.mark.parametrize('change', [
    lambda net: net.load_state_dict(small_net().state_dict(), assign=True), lambda net: net.compile_blocks(True),
    lambda net: net.double()], ids=['assign', 'compile', 'double'])
def test_what_is_recorded_anew(change):
    decode = cuda_graph.RepeatedDecode(small_net())
    lq = SimpleNamespace(shape=torch.Size((1, 3, 6, 6)), dtype=torch.float32, device=torch.device('cuda'))
    key = decode._key(lq)
    perturb(decode.net, 0.1)  # values alone
    assert decode._key(lq) == key
    change(decode.net)
    assert decode._key(lq) != key


def test_what_is_not_recorded():
    decode = cuda_graph.RepeatedDecode(small_net())
    assert decode._key(random_image(1, 3, 6, 6)) is None


@pytest.mark.parametrize('error', [RuntimeError('operation not permitted'), torch.OutOfMemoryError('out of memory')])
def test_what_cannot_be_recorded(error, tmp_path, stand_in, monkeypatch):
    def fail(*args, **kwargs):
        raise error
    model = training_model(tmp_path, NLL_OPT)
    model.graphs = GraphedGradients(gradients)
    monkeypatch.setattr(graphed_update, 'CudaGraph', fail)
    with pytest.raises(InputError, match='Set train.cuda_graph: false'):
        train(model, 6)


@pytest.mark.slow
def test_patches_of_ever_other_sizes_run_as_usual(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(GraphedGradients, 'MAX_GRAPHS', 2)
    model = training_model(tmp_path, NLL_OPT)
    model.graphs, stand_in.model = GraphedGradients(gradients), model
    for size in (16, 24, 32):
        train(model, 5, size)
    assert stand_in.made == 2 and stand_in.replays == 3  # the first update of all starts actnorms


def test_no_effect_on_a_cpu(tmp_path, warnings):
    assert training_model(tmp_path, NLL_OPT, cuda_graph=True).graphs is None
    assert warnings == ['train.cuda_graph has no effect here: it needs a GPU.']
