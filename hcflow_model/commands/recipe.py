"""`hcflow recipe`: the option files that come with the package."""
import argparse
import sys
from pathlib import Path

from hcflow_arch.errors import InputError

HELP = 'List the option files that come with the package, or write one.'
EXAMPLES = """
hcflow recipe
hcflow recipe train_HCFlow_x4_fast -o my_x4.yml
hcflow recipe test_HCFlow_x4_woGT > my_images.yml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('name', nargs='?', metavar='NAME', help='the one to write (default: list all)')
    parser.add_argument('-o', '--output', metavar='FILE', help='where to (default: the output of the command)')
    parser.add_argument('--overwrite', action='store_true', help='replace a file that is there')


def run(args: argparse.Namespace) -> None:
    """Print the table, or write a recipe as it is."""
    from hcflow_model.options.recipes import about, read_recipe, recipe_files
    from hcflow_model.utils.files import write_bytes
    from hcflow_model.utils.tables import aligned
    if args.name is None:
        lines = [[name, about(name)] for name in recipe_files()]
        sys.stdout.write(f'{aligned([["recipe", "what"], *lines], num_texts=2)}\n\n'
                         'hcflow recipe NAME -o FILE writes one, hcflow prepare … --recipe NAME --options FILE one for '
                         'its data.\n')
        return
    text = read_recipe(args.name)
    if args.output is None:
        sys.stdout.write(text)
    elif Path(args.output).exists() and not args.overwrite:
        raise InputError(f'-o {args.output} exists; give another name, or --overwrite.')
    else:
        write_bytes(Path(args.output), text.encode())
