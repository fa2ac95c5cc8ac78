"""Trainings that are killed, stopped and resumed, through BasicSR's pipeline.

Run as a program, this file imports everything once and forks a process for every training: starting 40 of them anew
would take minutes.
"""
import gc
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers import REMOVED, SMALL, demo_options, equal

from hcflow_arch.weights.safe_load import load_file

pytestmark = pytest.mark.slow
KILLS = 30
SIGNALS = (signal.SIGTERM, signal.SIGINT)
EPOCH = 9  # iterations: 108 pictures in batches of 12
OPTIONS = {
    **{f'network_g.{key}': value for key, value in {**SMALL, 'num_flow_steps': 1, 'num_cond_steps': 1}.items()},
    'network_g.start': 'paper', 'datasets.train.gt_size': 16, 'datasets.train.batch_size_per_gpu': 12,
    'datasets.train.num_worker_per_gpu': 0, 'datasets.train.dataset_enlarge_ratio': 1,
    'train.total_iter': 100000, 'train.warmup_iter': 5, 'train.ema_decay': 0.9, 'train.pixel_opt': REMOVED,
    'train.nll_opt.loss_weight': 1., 'val.val_freq': 100000,
    'logger.print_freq': 1, 'logger.save_checkpoint_freq': 1, 'logger.use_tb_logger': False,
}


# ---- the program ----

class Nursery:
    """A folder of experiments, trained by forked processes."""

    def __init__(self, root):
        self.root = Path(root)
        self.outputs = 0

    def newest(self, name):
        """Iteration of the newest state; 0 where there is none."""
        folder = self.root / 'experiments' / name / 'training_states'
        return max((int(path.stem) for path in folder.glob('[0-9]*.state')), default=0)

    def start(self, name, total_iter, **changes):
        """Start a training, or go on with it. Returns (process id, file of its output)."""
        from hcflow_model import cli
        path = self.root / f'{name}.yml'
        opt = demo_options({**OPTIONS, 'name': name, 'train.total_iter': total_iter, **changes})
        if 'val.seed' not in changes:
            del opt['datasets']['val'], opt['val']
        path.write_text(yaml.safe_dump(opt, sort_keys=False))
        self.outputs += 1
        output = self.root / f'{self.outputs}.txt'
        output.touch()
        pid = os.fork()
        if pid == 0:
            file = os.open(output, os.O_WRONLY)
            os.dup2(file, 1)
            os.dup2(file, 2)
            sys.stdout = os.fdopen(1, 'w')
            sys.stderr = os.fdopen(2, 'w', buffering=1)
            try:
                code = cli.main(['train', '-opt', str(path), '--auto_resume'])
            except BaseException:
                import traceback
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            os._exit(code)
        return pid, output

    def finish(self, *args, **kwargs):
        """Run a training to its end. Returns (exit code, output)."""
        pid, output = self.start(*args, **kwargs)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.read_text()


def killed_training(nursery, kills):
    """Kill one training again and again, let it end, and train as long without a kill. Returns a record of it."""
    draw, records, startup = random.Random(0), [], 1.
    while len(records) < kills:
        began, before = time.monotonic(), nursery.newest('killed')
        pid, output = nursery.start('killed', 100000)
        if len(records) % 3 == 2:
            time.sleep(draw.uniform(0, startup))  # while it starts
        else:
            while nursery.newest('killed') == before and not os.waitpid(pid, os.WNOHANG)[0]:
                time.sleep(0.005)
            startup = time.monotonic() - began
            time.sleep(draw.uniform(0, 0.15))  # while it trains and saves
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        records.append({'before': before, 'after': nursery.newest('killed'),
                        'resumed': re.findall(r'Resuming training from epoch: \d+, iter: (\d+)', output.read_text()),
                        'errors': re.findall('(?:basicsr: |Traceback).*', output.read_text())})
    end = nursery.newest('killed') + 2
    last = nursery.finish('killed', end)
    whole = nursery.finish('whole', end, **{'logger.save_checkpoint_freq': 1000})
    return {'records': records, 'end': end, 'last': last, 'whole': whole}


def training_with_a_break(nursery):
    """Two epochs with and without a break between them, data loaded by a worker, validation at the border."""
    options = {'datasets.train.num_worker_per_gpu': 1, 'val.val_freq': EPOCH, 'val.seed': None,
               'val.temperatures': [0.8], 'val.num_samples': 1, 'val.save_img': False, 'val.sheets': 0,
               'val.bicubic': False, 'val.metrics': REMOVED, 'logger.save_checkpoint_freq': EPOCH}
    first, second, whole = [nursery.finish(*args, **options) for args in (
        ('broken', EPOCH), ('broken', 2 * EPOCH), ('unbroken', 2 * EPOCH))]
    best = load_file(nursery.root / 'experiments' / 'broken' / 'training_states' / f'{EPOCH}.state')
    return {'first': first, 'second': second, 'whole': whole, 'best': best['best_metric_results']}


def stopped_training(nursery, signum):
    """Send a signal to a training that saves nothing by itself, then let it go on for two iterations."""
    name = signal.Signals(signum).name
    pid, output = nursery.start(name, 100000, **{'logger.save_checkpoint_freq': 100000,
                                                 'datasets.train.num_worker_per_gpu': 1})
    while 'iter:       2,' not in output.read_text():
        time.sleep(0.01)
    os.kill(pid, signum)
    stopped = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.read_text()
    newest = nursery.newest(name)
    return {'stopped': stopped, 'newest': newest, 'resumed': nursery.finish(name, newest + 2)}


def main(root):
    torch.set_num_threads(1)
    os.chdir(root)
    import basicsr.train  # noqa: F401  (imported here, once)

    import hcflow_model.cli  # noqa: F401
    gc.collect()
    gc.freeze()  # else every child would copy the pages of all objects when it collects
    nursery = Nursery(root)
    results = {'kills': killed_training(nursery, KILLS), 'break': training_with_a_break(nursery),
               **{signal.Signals(signum).name: stopped_training(nursery, signum) for signum in SIGNALS}}
    (nursery.root / 'results.json').write_text(json.dumps(results))


# ---- the tests ----

@pytest.fixture(scope='module')
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp('trainings')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, str(root)], check=True, env=env)
    return root, json.loads((root / 'results.json').read_text())


def test_thirty_kills_lose_nothing_that_was_saved(results):
    root, found = results
    records = found['kills']['records']
    assert len(records) == KILLS
    for record in records:
        assert record['after'] >= record['before'] and not record['errors']
        if record['resumed']:
            assert record['resumed'] == [str(record['before'])]
    assert sum(record['after'] > record['before'] for record in records) >= KILLS // 2
    states = root / 'experiments' / 'killed' / 'training_states'
    assert not list(states.glob('*.unusable'))
    assert {int(path.stem) for path in states.glob('*.state')} == set(range(1, found['kills']['end'] + 1))


def test_killed_training_ends_with_the_weights_of_one_that_never_was(results):
    root, found = results
    for code, output in (found['kills']['last'], found['kills']['whole']):
        assert code == 0, output
    killed, whole = (load_file(root / 'experiments' / name / 'models' / 'net_g_latest.pth')
                     for name in ('killed', 'whole'))
    assert killed['iter'] == whole['iter'] == found['kills']['end']
    for key in ('params', 'params_ema'):
        assert equal(killed[key], whole[key])


def losses_of(output):
    return re.findall(r'iter: +(\d+), .*?(l_g_nll: .*?) condition', output)


def test_training_with_a_break_between_epochs_has_the_same_losses(results):
    first, second, whole = (results[1]['break'][name] for name in ('first', 'second', 'whole'))
    assert first[0] == second[0] == whole[0] == 0, second[1]
    assert f'Resuming training from epoch: 0, iter: {EPOCH}.' in second[1]
    assert f'[epoch:  1, iter:{EPOCH + 1:8d}' in whole[1]  # it is the border
    assert len(losses_of(whole[1])) == 2 * EPOCH
    assert losses_of(first[1]) + losses_of(second[1]) == losses_of(whole[1])
    root = results[0] / 'experiments'
    broken, unbroken = (load_file(root / name / 'models' / 'net_g_latest.pth') for name in ('broken', 'unbroken'))
    assert equal(broken['params'], unbroken['params']) and equal(broken['params_ema'], unbroken['params_ema'])


def test_best_values_of_the_iteration_of_a_state_are_in_it(results):
    best, = results[1]['break']['best'].values()
    assert best['nll']['iter'] == EPOCH


@pytest.mark.parametrize(('signum', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_finishes_the_iteration_and_saves(signum, code, results):
    root, found = results
    name = signal.Signals(signum).name
    found = found[name]
    got, output = found['stopped']
    assert got == code, output
    newest = found['newest']
    assert newest >= 2 and output.count('Saving models') == 1 and 'Traceback' not in output
    last = output.rstrip().splitlines()[-1]
    assert last.startswith(f'basicsr: {name}: training stopped after iteration {newest}, which is saved')
    assert (root / 'experiments' / name / 'models' / f'net_g_{newest}.pth').exists()
    assert found['resumed'][0] == 0 and f'iter: {newest}.' in found['resumed'][1]


if __name__ == '__main__':
    main(sys.argv[1])
