"""Which part of the wavelet start does what: each left out in turn, super-resolution by likelihood alone.

    python -m benchmarks.ablation --steps 100 --seeds 2
"""
import argparse
from contextlib import ExitStack
from unittest.mock import patch

import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import numpy as np
import torch

from benchmarks import learning
from hcflow_arch import hcflow_arch as network_module
from hcflow_arch.flow import initialization as starts


def identity_matrices(steps) -> None:
    """In place of reversals of the channels."""
    for step in steps:
        torch.nn.init.eye_(step.conv1x1.weight)


NO_REVERSAL = patch.object(starts, '_reverse_channels', identity_matrices)
NO_FIT = patch.object(network_module, 'fit_start', lambda *args: None)
NO_WARMUP = patch.object(learning, 'WARMUP', 1)
VARIANTS = {'all of it': (), 'no reversal': (NO_REVERSAL,), 'no fitted prior': (NO_FIT,),
            'neither': (NO_REVERSAL, NO_FIT), 'no warm-up': (NO_WARMUP,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--seeds', type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    train, pairs = learning.datasets(64)
    marks = [step for step in (10, 50) if step < args.steps] + [args.steps]
    lines = [f'{"variant":16s}  {"step":>5s}  ' + '  '.join(f'{name:>13s}' for name in learning.METRICS['sr'])]
    for name, patches in VARIANTS.items():
        with ExitStack() as stack:
            for change in patches:
                stack.enter_context(change)
            rate = learning.LEARNING_RATES['sr']['wavelet']
            runs = [learning.train_flow('sr', 'wavelet', seed, marks, rate, 8, train, pairs)
                    for seed in range(args.seeds)]
        for step in marks:
            values = np.mean([run[step] for run in runs], axis=0)
            lines.append(f'{name:16s}  {step:5d}  ' + '  '.join(f'{value:13.2f}' for value in values))
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
