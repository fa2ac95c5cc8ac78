"""A training that is killed at random, by SIGKILL and SIGTERM, and goes on by --auto_resume until it is done.

    python -m benchmarks.soak --iters 2000 --kills 20

Trains a tiny HCFlow on the bundled photographs by the installed `basicsr` command, and prints what came of it.
"""
import argparse
import os
import random
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / 'options' / 'demo_train_HCFlow_x4.yml'
COMMAND = Path(sysconfig.get_path('scripts'), 'basicsr')
NETWORK = {'num_flow_steps': 1, 'num_cond_steps': 1, 'hidden_channels': 8, 'num_subnet_grow_ch': 4, 'num_feat': 6,
           'num_block': [1, 1], 'num_grow_ch': 4}
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


def write_options(folder: Path, iters: int, save_every: int) -> Path:
    """The demo's options for a tiny network, with a line of the log for every iteration."""
    opt = yaml.safe_load(DEMO.read_text().replace('tests/data/', f'{ROOT}/tests/data/'))
    opt['name'] = 'soak'
    opt['network_g'].update(NETWORK)
    opt['datasets']['train'].update(gt_size=16, batch_size_per_gpu=4, dataset_enlarge_ratio=20)
    opt['train'].update(total_iter=iters, ema_decay=0.99)
    del opt['train']['pixel_opt']
    opt['train']['scheduler']['milestones'] = [iters // 2, 3 * iters // 4]
    opt['val'].update(val_freq=iters // 4, save_img=False, num_samples=1)
    opt['logger'].update(print_freq=1, save_checkpoint_freq=save_every, use_tb_logger=False)
    path = folder / 'soak.yml'
    path.write_text(yaml.safe_dump(opt, sort_keys=False))
    return path


def losses_of(log: str) -> dict[int, dict[str, float]]:
    """{iteration: {loss: value}} of a training log."""
    return {int(number.replace(',', '')): {name: float(value) for name, value in re.findall(r'(\w+): (\S+)', text)}
            for number, text in re.findall(r'iter: *([\d,]+), lr.*?\)\] (?:\[.*?\] )?(.*)', log)}


def tail(path: Path, size: int = 4000) -> str:
    """The last bytes of a growing log."""
    with open(path, 'rb') as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors='replace')


def newest_state(folder: Path) -> int:
    states = (folder / 'experiments' / 'soak' / 'training_states').glob('*.state')
    return max((int(path.stem) for path in states if path.stem.isdigit()), default=0)


def run(folder: Path, options: Path, number: int, kill_at: int | None, signum: int | None, draw: random.Random) -> dict:
    """Train until the end, or until a signal soon after iteration `kill_at`. Returns what happened."""
    output = folder / f'run_{number}.txt'
    with open(output, 'w') as file:
        process = subprocess.Popen([COMMAND, 'train', '-opt', options, '--auto_resume'], cwd=folder, stdout=file,
                                   stderr=subprocess.STDOUT)
        killed = False
        while process.poll() is None:
            time.sleep(0.2)
            if kill_at is not None and not killed and max(losses_of(tail(output)), default=0) >= kill_at:
                time.sleep(draw.uniform(0, 0.5))
                process.send_signal(signum)
                killed = True
    log = output.read_text()
    losses = losses_of(log)
    resumed = re.search(r'Resuming training from epoch: \d+, iter: (\d+)', log)
    return {'code': process.returncode, 'losses': losses, 'resumed': int(resumed.group(1)) if resumed else 0,
            'reached': max(losses, default=0), 'saved': newest_state(folder), 'log': log,
            'warnings': log.count('basicsr: warning')}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iters', type=int, default=2000)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--save_every', type=int, default=20, help='iterations between saves')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, help='where to train, an empty folder (default: one that is removed)')
    args = parser.parse_args()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return soak(args, folder.resolve())


def soak(args: argparse.Namespace, folder: Path) -> int:
    options = write_options(folder, args.iters, args.save_every)
    draw, began = random.Random(args.seed), time.monotonic()
    lost, losses, failures, number, unusable, last = {s: [] for s in SIGNALS}, {}, [], 0, 0, 0
    done = set()
    targets = sorted(draw.sample(range(2, args.iters - 1), args.kills))
    signals = [SIGNALS[i % 2] for i in range(args.kills)]
    draw.shuffle(signals)
    while True:
        number += 1
        kill_at, signum = (targets.pop(0), signals.pop()) if targets else (None, None)
        result = run(folder, options, number, kill_at, signum, draw)
        losses.update(result['losses'])
        done.update(result['losses'])
        unusable += result['warnings']
        if result['resumed'] != last:
            failures.append(f'run {number} went on from {result["resumed"]}, saved was {last}')
        last = result['saved']
        ended = {-signal.SIGKILL: signal.SIGKILL, 128 + signal.SIGTERM: signal.SIGTERM}.get(result['code'])
        if ended is not None:
            lost[ended].append(max(0, result['reached'] - last))
            if ended == signal.SIGTERM:
                done.add(last)  # saved, but training ended before it was logged
            print(f'run {number:3d}: {signal.Signals(ended).name} after iteration {result["reached"]}, saved {last}',
                  flush=True)
        elif result['code'] == 0 and kill_at is None:
            break
        else:
            failures.append(f'run {number} ended with code {result["code"]}: {result["log"][-300:]}')
            if len(failures) > 3 or kill_at is None:
                break
    every = [count for counts in lost.values() for count in counts]
    nonfinite = [values.get('l_nonfinite', 0) for values in losses.values()]
    final = [losses[i] for i in sorted(losses)[-50:]]
    print(f'{len(done)} of {args.iters} iterations in {time.monotonic() - began:.0f} s, {number} runs')
    print(f'survived {len(every)} kills: ' + ', '.join(
        f'{len(counts)} {signal.Signals(s).name}, {sum(counts)} iterations lost, at most {max(counts, default=0)}'
        for s, counts in lost.items()) + f' (saved every {args.save_every})')
    print(f'updates that were not finite: {max(nonfinite, default=0):.0f}; states that could not be used: {unusable}')
    print(f'l_g_nll of the first iteration {losses[min(losses)]["l_g_nll"]:.4g}, mean of the last 50 '
          f'{sum(values["l_g_nll"] for values in final) / len(final):.4g}')
    for failure in failures:
        print(f'FAILED: {failure}')
    return 1 if failures or done != set(range(1, args.iters + 1)) else 0


if __name__ == '__main__':
    sys.exit(main())
