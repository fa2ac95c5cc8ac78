"""On a CPU the commands and models keep freed memory, and give it back before they look how much is free."""
import os
import platform
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import DATA, perturb, small_net, training_model

from hcflow_model.commands import main
from hcflow_model.exploration import job as exploration_job
from hcflow_model.inference import tile_size as tile_choice
from hcflow_model.models import hcflow_model
from hcflow_model.utils import memory as freed_memory

SCRIPT = """
import resource, sys
import torch
from hcflow_model.utils.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()

if sys.argv[1] != 'as it is':
    keep_freed_memory(torch.device(sys.argv[1]))
faults, before = [], resident()
for _ in range(24):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = torch.ones(2**26)  # 256 MiB
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
kept = resident() - before
return_freed_memory()
print(min(faults), kept,  # small blocks may settle in what a large one left, and the next is new once more
       resident() - before)
"""
MIB = 2**20


@pytest.mark.slow
@pytest.mark.skipif(not freed_memory._has_glibc(), reason='other C libraries are left as they are')
@pytest.mark.parametrize('device', ['cpu', 'cuda', 'as it is'])
def test_freed_memory_is_kept_until_it_is_returned(device):
    output = subprocess.run([sys.executable, '-c', SCRIPT, device], capture_output=True, text=True, check=True,
                            env={**os.environ, 'THP_MEM_ALLOC_ENABLE': '0', 'OMP_NUM_THREADS': '1'}).stdout
    faults, kept, returned = map(int, output.split())
    if device == 'cpu':
        assert faults < 100 and kept > 200 * MIB
    else:
        assert faults > 100 and kept < 50 * MIB
    assert returned < 50 * MIB


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, 'system', lambda: 'Darwin')
    monkeypatch.setattr(freed_memory.ctypes, 'CDLL', None)  # not called
    freed_memory.keep_freed_memory(torch.device('cpu'))
    freed_memory.return_freed_memory()


def test_what_is_kept_counts_as_free(monkeypatch):
    returned = []
    monkeypatch.setattr(tile_choice, 'return_freed_memory', lambda: returned.append(True))
    tile_choice.free_memory(torch.device('cpu'))
    assert returned == [True]


@pytest.mark.parametrize('command', [
    'upscale -i lq.png -o out -w sr.pth --device cpu', 'downscale -i lq.png -o out -w rescaling.pth --device cpu',
    'restore -i lq.png -o out -w rescaling.pth --device cpu',
    'explore -i lq.png -o out -w sr.pth --device cpu --temperatures 0 -n 1'])
def test_commands_keep_it(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / 'val_lq_x4' / 'cat.png', 'lq.png')
    for task in ('sr', 'rescaling'):
        torch.save({'params': perturb(small_net(4, task), 0.02).state_dict()}, f'{task}.pth')
    devices = []
    for module in (freed_memory, exploration_job):
        monkeypatch.setattr(module, 'keep_freed_memory', devices.append)
    assert main(command.split()) == 0
    assert devices == [torch.device('cpu')]


def test_models_keep_it(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr(hcflow_model, 'keep_freed_memory', devices.append)
    model = training_model(tmp_path, {'nll_opt': {'type': 'NLLLoss'}})
    assert devices == [model.device]
