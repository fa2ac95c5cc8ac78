"""Dense convolutions as they are compiled; tests/whole/test_gpu.py compiles them."""
import pytest
import torch
from helpers import perturb, random_image, small_net

from hcflow_arch import HCFlowNet, InputError
from hcflow_arch.convs import compiled as compiled_convs
from hcflow_arch.convs import dense_block as dense_convs
from hcflow_arch.flow.subnets import DenseBlock


@pytest.fixture
def calls(monkeypatch):
    """How often something compiled would have run."""
    calls = []

    def run(*args):
        calls.append(args)
        return compiled_convs.handed_on(*args)
    monkeypatch.setattr(dense_convs, 'compiled', run)
    return calls


@pytest.mark.parametrize(('num_in_ch', 'num_out_ch', 'num_grow_ch'), [(5, 3, 4), (3, 8, 2), (4, 4, 4), (6, 1, 1)])
def test_equals_concatenations(num_in_ch, num_out_ch, num_grow_ch, calls):
    block = perturb(DenseBlock(num_in_ch, num_out_ch, num_grow_ch).double(), 0.3)
    x = torch.randn(2, num_in_ch, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        wanted = block(x)
        block.compiled = True
        assert (block(x) - wanted).abs().max() < 1e-12
    assert len(calls) == 1


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_only_without_gradients(task, calls):
    net, lq = perturb(small_net(task=task, compile=True), 0.02), random_image(1, 3, 5, 6)
    latents = net.draw_latents(lq)
    wanted = net.decode(lq, latents)
    assert not calls and wanted.requires_grad
    with torch.no_grad():
        assert (net.decode(lq, latents) - wanted).abs().max() < 1e-5
    assert calls
    net.compile_blocks(False)
    calls.clear()
    with torch.no_grad():
        net.decode(lq, latents)
    assert not calls


def test_in_mixed_precision(calls):
    net, lq = perturb(small_net(compile=True), 0.02), random_image(1, 3, 5, 6)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        net.decode(lq, temperature=0.5)
    assert all(x.dtype == torch.bfloat16 for x, *_ in calls)


@pytest.mark.parametrize('error', [torch._dynamo.exc.TorchDynamoException('no C compiler'),
                                   RuntimeError('Failed to find C compiler')])
def test_where_nothing_can_be_compiled(error, monkeypatch):
    def fail():
        raise error
    monkeypatch.setattr(compiled_convs, '_compile', fail)
    net = small_net(compile=True)
    with torch.no_grad(), pytest.raises(InputError, match='set network_g.compile: false .*C compiler'):
        net.decode(random_image(1, 3, 5, 6))


def test_other_errors_stay_what_they_are(monkeypatch):
    def fail():
        raise torch.OutOfMemoryError('CUDA out of memory.')
    monkeypatch.setattr(compiled_convs, '_compile', fail)
    with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
        small_net(compile=True).decode(random_image(1, 3, 5, 6))


def test_bad_option():
    with pytest.raises(InputError, match="network_g.compile is 'yes'; it must be true or false"):
        HCFlowNet(compile='yes')


def test_compiled_once_whether_recorded_or_not(monkeypatch):
    by_dynamo = torch.compile(compiled_convs.handed_on, backend='eager')
    monkeypatch.setattr(compiled_convs, '_compile', lambda: by_dynamo)
    net, lq = perturb(small_net(compile=True), 0.02), random_image(1, 3, 5, 6)
    with torch.inference_mode():
        wanted = net.decode(lq, temperature=0)
        with torch._dynamo.config.patch(error_on_recompile=True), torch.autocast('cpu', enabled=False,
                                                                                 cache_enabled=False):
            assert torch.equal(net.decode(lq, temperature=0), wanted)


def test_errors_of_a_recording_are_for_who_records(monkeypatch):
    def fail():
        raise torch._dynamo.exc.TorchDynamoException('cannot compile during CUDA graph capture')
    monkeypatch.setattr(compiled_convs, '_compile', fail)
    monkeypatch.setattr(compiled_convs, 'is_recording', lambda device: True)
    with torch.no_grad(), pytest.raises(torch._dynamo.exc.TorchDynamoException):
        small_net(compile=True).decode(random_image(1, 3, 5, 6))
