"""`hcflow info`: what a checkpoint holds."""
import argparse
import json
import math
import sys

from . import _arguments

HELP = 'Show what a checkpoint holds: task, sizes, iteration, EMA, and whether its weights are sound.'
EXAMPLES = """
hcflow info experiments/train_HCFlow_x4
hcflow info SR_DF2K_X4_HCFlow.pth
hcflow info experiments/train_HCFlow_x4/models/net_g_5000.pth --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT',
                        help="a checkpoint, ours or a released one, or an experiment's folder (its newest)")
    _arguments.add_param_key(parser)
    parser.add_argument('--json', action='store_true', help='print JSON; numbers that are not finite become null')


def run(args: argparse.Namespace) -> None:
    """Print the table, or JSON."""
    from hcflow_model.checkpoints.info import checkpoint_info, info_table
    info = checkpoint_info(args.checkpoint, args.param_key)
    if not args.json:
        sys.stdout.write(info_table(info))
        return
    info = {key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in info.items()}
    sys.stdout.write(json.dumps(info, indent=2, allow_nan=False) + '\n')
