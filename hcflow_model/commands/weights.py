"""`hcflow weights`: the networks that are known by name."""
import argparse
import sys

HELP = 'List the networks that --weights takes by name, and where they are; or fetch some.'
EXAMPLES = """
hcflow weights
hcflow weights SR_DF2K_X4_HCFlow++ Rescaling_DF2K_X4_HCFlow
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('names', nargs='*', metavar='NAME',
                        help='fetch these now, such as for a machine that has no connection later (default: list all)')


def run(args: argparse.Namespace) -> None:
    """Print the table, or the files of the names."""
    from hcflow_model.checkpoints.named import NAMED, cache_folder, find_named, release, weights_path
    from hcflow_model.utils.tables import aligned
    if args.names:
        for name in args.names:
            sys.stdout.write(f'{weights_path(name)}\n')
        return
    lines = [[name, named.about, str(find_named(name) or 'fetched when used')]
             for name, named in NAMED.items()]
    sys.stdout.write(f'{aligned([["name", "what", "where"], *lines], num_texts=3)}\n\n'
                     'Looked for in the current folder, experiments/pretrained_models and the cache folder '
                     f'{cache_folder()} (set by HCFLOW_HOME);\nfetched from {release()}.\n')
