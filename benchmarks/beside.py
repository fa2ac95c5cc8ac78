"""Time of a training step alone and beside busy processes, by how long OpenMP's threads spin before they sleep.

    python -m benchmarks.beside --threads 2 --busy 1

libgomp's threads wait for each other after every operation. While they spin, another process that wants their core
keeps the thread away that they wait for. GOMP_SPINCOUNT counts rounds of spinning; `~` is libgomp's own choice.
"""
import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .common import print_table
from .start import ROOT

STEP = """
import sys, time
import torch
from benchmarks import common
threads, patch, steps = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(0)
step = common.training_step(common.networks('sr', 'cpu')['default'], *common.images(1, patch, 'cpu'))
for _ in sys.stdin:  # a line for each turn
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    print((time.perf_counter() - start) / steps, flush=True)
"""
BUSY = 'while True: pass'
SETTINGS = ('~', '0', '1000', '3000', '10000', '30000', '100000')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--busy', type=int, default=1, help='processes that never rest')
    parser.add_argument('--patch', type=int, default=64, help='side of the HR patch in pixels')
    parser.add_argument('--steps', type=int, default=5, help='timed steps of a turn')
    parser.add_argument('--repeats', type=int, default=3, help='turns; medians are shown')
    parser.add_argument('--settings', nargs='+', default=SETTINGS, metavar='N')
    args = parser.parse_args()
    children = {setting: start(args, setting) for setting in args.settings}
    times = {(setting, busy): [] for busy in (0, args.busy) for setting in args.settings}
    for _ in range(args.repeats + 1):
        for busy in (0, args.busy):
            with busy_processes(busy):
                for setting, child in children.items():
                    child.stdin.write('\n')
                    child.stdin.flush()
                    times[setting, busy].append(float(child.stdout.readline()))
    for child in children.values():
        child.communicate()
    times = {key: values[1:] for key, values in times.items()}  # the first turn warms up
    print_table(f'seconds of a training step, {args.threads} threads, HR patch {args.patch}',
                ['GOMP_SPINCOUNT', 'alone', f'beside {args.busy}', 'ratio'],
                [[setting, alone := statistics.median(times[setting, 0]),
                  beside := statistics.median(times[setting, args.busy]), beside / alone]
                 for setting in args.settings])


def start(args: argparse.Namespace, setting: str) -> subprocess.Popen:
    """A process that times steps whenever it gets a line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('OMP_', 'GOMP_'))}
    if setting != '~':
        environment['GOMP_SPINCOUNT'] = setting
    return subprocess.Popen([sys.executable, '-c', STEP, str(args.threads), str(args.patch), str(args.steps)], cwd=ROOT,
                            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within it `count` processes never rest."""
    others = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == '__main__':
    main()
