"""How long commands take to answer, beside `python -c "import torch"`, each in a process of its own, in turns.

    python -m benchmarks.start --repeats 7
    python -m benchmarks.start --tree ../before     # another checkout
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hcflow_arch import HCFlowNet

from .common import print_table

ROOT = Path(__file__).resolve().parents[1]
YARDSTICK = 'import torch'
SIZES = {'num_flow_steps': 1, 'num_cond_steps': 1, 'hidden_channels': 4, 'num_feat': 4, 'num_block': [1, 1],
         'num_grow_ch': 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=5, help='turns; medians are shown')
    parser.add_argument('--tree', type=Path, default=ROOT, help='checkout that is measured (default: this one)')
    args = parser.parse_args()
    picture = ROOT / 'tests' / 'data' / 'val_lq_x4' / 'cat.png'
    commands = {
        YARDSTICK: ['-c', 'import torch'],
        'import hcflow_arch': ['-c', 'import hcflow_arch'],
        'hcflow --help': ['-m', 'hcflow_model.commands', '--help'],
        'hcflow upscale --help': ['-m', 'hcflow_model.commands', 'upscale', '--help'],
        'hcflow upscale, wrong arguments': ['-m', 'hcflow_model.commands', 'upscale'],
        'basicsr --help': ['-m', 'hcflow_model.cli', '--help'],
        'basicsr train, without -opt': ['-m', 'hcflow_model.cli', 'train'],
        'from hcflow_model import HCFlowUpscaler': ['-c', 'from hcflow_model import HCFlowUpscaler'],
        'hcflow info, smallest network': ['-m', 'hcflow_model.commands', 'info', 'net.pth'],
        'hcflow upscale, smallest network': ['-m', 'hcflow_model.commands', 'upscale', '-i', str(picture), '-o', 'out',
                                             '-w', 'net.pth', '--overwrite', '--device', 'cpu'],
    }
    with tempfile.TemporaryDirectory() as folder:
        net = HCFlowNet(4, **SIZES)
        for norm in net.actnorms():
            norm.mark_initialized()
        torch.save({'params': net.state_dict(), 'network_g': {'type': 'HCFlowNet', **net.arguments}},
                   Path(folder) / 'net.pth')
        times = {name: [] for name in commands}
        for turn in range(args.repeats + 1):
            for name, arguments in commands.items():
                seconds = measure(arguments, folder, args.tree.resolve())
                if turn > 0:  # the first finds cold files
                    times[name].append(seconds)
    medians = {name: [statistics.median(column) for column in zip(*values, strict=True)]
               for name, values in times.items()}
    print_table(f'seconds of {args.repeats} turns', ['command', 'wall', 'CPU', 'CPU / import torch'], [
        [name, wall, cpu, cpu / medians[YARDSTICK][1]] for name, (wall, cpu) in medians.items()])


def measure(arguments: list[str], folder: str, tree: Path) -> tuple[float, float]:
    """Seconds of a Python process by the clock, and of CPUs, which depend less on what else is running."""
    environment = {**os.environ, 'PYTHONPATH': str(tree), 'OMP_NUM_THREADS': '1'}
    start, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True)
    after = os.times()
    return (time.perf_counter() - start,
            after.children_user + after.children_system - before.children_user - before.children_system)


if __name__ == '__main__':
    main()
