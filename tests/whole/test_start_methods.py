"""Workers that are forked (Linux up to Python 3.13), forked by a server (from 3.14) or spawned (Windows, macOS)."""
import os
import re
import subprocess
import sys

import pytest
import yaml
from helpers import REMOVED, demo_options
from test_kill_and_resume import EPOCH, OPTIONS, losses_of

from hcflow_arch.weights.safe_load import load_file

pytestmark = pytest.mark.slow
STOP = 11  # iterations
PROGRAM = """
import multiprocessing, os, signal, sys
method, fault, iteration = sys.argv[1], sys.argv[2], int(sys.argv[3])
multiprocessing.set_start_method(method)
from hcflow_model import HCFlowModel
from hcflow_model.cli import main
optimize_parameters = HCFlowModel.optimize_parameters

def optimize_and_fail(self, current_iter):
    if current_iter == iteration and fault == 'signal':
        os.killpg(0, signal.SIGTERM)  # workers and servers as well, as launchers do
    optimize_parameters(self, current_iter)
    if current_iter == iteration and fault == 'kill':
        for child in multiprocessing.active_children():
            child.kill()

HCFlowModel.optimize_parameters = optimize_and_fail
sys.exit(main(['train', '-opt', f'{method}.yml']))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('trainings')


def run(folder, method, fault, iteration):
    """Train, and let something happen in an iteration. Returns (exit code, output, errors)."""
    options = demo_options({**OPTIONS, 'name': f'{method}_{fault}', 'train.ema_decay': 0,
                            'datasets.train.num_worker_per_gpu': 1, 'logger.save_checkpoint_freq': 100000,
                            'datasets.val': REMOVED, 'val': REMOVED})
    (folder / f'{method}.yml').write_text(yaml.safe_dump(options, sort_keys=False))
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, '-c', PROGRAM, method, fault, str(iteration)], cwd=folder, env=env,
                          capture_output=True, text=True, timeout=500, start_new_session=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def losses(folder):
    """What training with forked workers logs, over the border of an epoch."""
    return losses_of(''.join(run(folder, 'fork', 'signal', STOP)[1:]))


@pytest.mark.parametrize('method', ['forkserver', 'spawn'])
def test_training_is_the_same_and_signals_end_it(method, folder, losses):
    code, output, errors = run(folder, method, 'signal', STOP)
    assert code == 143 and 'Traceback' not in output + errors, errors
    assert f'basicsr: SIGTERM: training stopped after iteration {STOP}, which is saved' in errors
    found = losses_of(output + errors)
    assert found == losses and [int(number) for number, _ in losses] == [*range(1, STOP)] and STOP > EPOCH + 1
    state = load_file(folder / 'experiments' / f'{method}_signal' / 'training_states' / f'{STOP}.state')
    assert state['iter'] == STOP


@pytest.mark.parametrize('method', ['fork', 'forkserver', 'spawn'])
def test_killed_workers_are_one_error(method, folder):
    code, output, errors = run(folder, method, 'kill', 2)
    assert code == 1 and 'Traceback' not in output + errors, errors
    assert re.findall('basicsr: error: .*', errors) == re.findall(
        r'basicsr: error: Loading data failed: .* Memory may be short; take fewer workers .*', errors) != []
