"""The `hcflow` command: what people do with images and checkpoints, a module of this package for each subcommand.

Such a module has

* `HELP`: what it does, in one line,
* `EXAMPLES`: command lines, one on each line,
* `add_arguments(parser)`: its arguments,
* `run(args) -> int | None`: does it; the exit code, None being 0.

What takes long to import, PyTorch above all, is imported in `run`: `--help` and wrong arguments answer at once.
"""
import argparse
import importlib
import pkgutil
import sys

from hcflow_arch import __version__
from hcflow_model.utils.errors import input_error
from hcflow_model.utils.terminal import one_line, with_output
from hcflow_model.utils.threads import wait_asleep_beside_others


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, 1 after an error of the input, 2 from argparse, 130 after Ctrl-C, 141 if
    the reader of its output is gone."""
    return with_output('hcflow', lambda: _main(argv))


def _main(argv):
    parser, modules = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    try:
        if hasattr(args, 'device'):
            wait_asleep_beside_others()
        if getattr(args, 'plugins', None):
            _import_plugins(args.plugins)
        return modules[args.command].run(args) or 0
    except KeyboardInterrupt:
        sys.stderr.write('hcflow: stopped; files that were finished are whole, and the same command makes the others\n')
        return 130
    except Exception as error:
        message = input_error(error)
        if message is None:
            raise
        sys.stderr.write(f'hcflow: error: {one_line(message)}\n')
        return 1


def _import_plugins(names):
    """A checkpoint's or experiment's own list is imported only if the user names its file."""
    from hcflow_model.options.read import read_option_file
    from hcflow_model.utils.plugins import load_plugins
    for name in names:
        load_plugins(read_option_file(name).get('plugins') if name.endswith(('.yml', '.yaml')) else [name])


def _parser() -> tuple[argparse.ArgumentParser, dict]:
    parser = argparse.ArgumentParser(
        prog='hcflow', description='Super-resolve, rescale and explore images with HCFlow, and prepare data for its '
        'training by the basicsr command.')
    parser.add_argument('--version', action='version', version=f'hcflow {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    modules = {}
    for name in sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith('_')):
        module = importlib.import_module(f'{__name__}.{name}')
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog='examples:\n' + ''.join(f'  {line}\n' for line in module.EXAMPLES.strip().splitlines()))
        module.add_arguments(command)
        modules[name] = module
    return parser, modules
