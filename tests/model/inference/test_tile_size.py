"""Images that do not fit into memory go through the network in tiles by themselves, and say so."""
import numpy as np
import pytest
import torch
from helpers import perturb, random_image, small_net

from hcflow_arch import InputError
from hcflow_model import HCFlowUpscaler
from hcflow_model.inference import tile_size as tile_choice
from hcflow_model.inference.tile_size import free_memory, in_tiles_that_fit, memory_needed


def runs(errors, tile=None, size=(500, 400), net=None):
    """Tile sizes that are tried when the first ones fail with `errors`."""
    tried = []

    def run(chosen):
        tried.append(chosen)
        if len(tried) <= len(errors):
            raise errors[len(tried) - 1]

    in_tiles_that_fit(net or small_net(), size, tile, run)
    return tried


CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")


def test_whole_where_it_fits():
    assert runs([]) == [None] and runs([], tile=64) == [64]


def test_memory_that_pytorch_keeps_on_a_gpu_is_free(monkeypatch):
    for name, value in {'mem_get_info': (100, 1000), 'memory_reserved': 500, 'memory_allocated': 20}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device('cuda')) == 580


def test_tiles_where_the_estimate_says_so(monkeypatch, log):
    net = small_net()
    needed = memory_needed(net, 500, 400)
    monkeypatch.setattr(tile_choice, 'free_memory', lambda device: needed)
    assert runs([], net=net) == [128]
    (_, line), = log
    assert '500x400 does not fit' in line and line.endswith('in tiles of 128.')
    assert runs([], net=net, size=(100, 128)) == [None]  # one tile anyway
    monkeypatch.setattr(tile_choice, 'free_memory', lambda device: None)
    assert runs([], net=net) == [None]


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory'), MemoryError(), CPU_ERROR])
def test_tiles_after_memory_ran_out(error):
    assert runs([error] * 3) == [None, 128, 64, 32]
    assert runs([error], size=(100, 60)) == [None, 50]
    with pytest.raises(InputError, match='tiles of 16'):
        runs([error] * 5)
    with pytest.raises(InputError, match='tiles of 64.*smaller'):
        runs([error], tile=64)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match='shape'):
        runs([RuntimeError('shape mismatch')])


def test_result_is_that_of_the_whole_image(monkeypatch):
    image = random_image(20, 30, 3).numpy()
    net = perturb(small_net(), 0.02)
    whole = HCFlowUpscaler(net)(image)
    monkeypatch.setattr(tile_choice, 'free_memory', lambda device: 1)
    monkeypatch.setattr(tile_choice, 'DEFAULT_TILE', 16)
    assert 0 < np.abs(HCFlowUpscaler(net, overlap=12)(image) - whole).max() < 1e-3


def test_free_memory_of_containers(tmp_path, monkeypatch):
    available = free_memory(torch.device('cpu'))
    assert available is None or available > 0
    monkeypatch.setattr(tile_choice, 'CGROUP', tmp_path)
    assert free_memory(torch.device('cpu')) is None or available is not None
    for name, content in (('memory.max', '3000'), ('memory.current', '1000'),
                          ('memory.stat', 'anon 700\ninactive_file 200')):
        (tmp_path / name).write_text(f'{content}\n')
    if available is not None:
        assert free_memory(torch.device('cpu')) == 2200
        (tmp_path / 'memory.stat').unlink()
        assert free_memory(torch.device('cpu')) == 2000
    assert free_memory(torch.device('meta')) is None
