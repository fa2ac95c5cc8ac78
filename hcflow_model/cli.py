"""The `basicsr` command: BasicSR's training and testing pipelines for option files, with every installed plugin."""
import argparse
import os
import signal
import sys
from importlib import metadata

from hcflow_arch.basicsr_import import basicsr_version
from hcflow_model.options.read import parse_option_text, read_option_text
from hcflow_model.pipeline.stopping import TrainingStopped
from hcflow_model.utils.errors import input_error
from hcflow_model.utils.plugins import installed_plugins
from hcflow_model.utils.terminal import one_line, say, with_output
from hcflow_model.utils.threads import wait_asleep_beside_others


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, 1 after an error of the input, 2 from argparse, 128 + its number after a
    signal that stops training: 130 for Ctrl-C, 143 for SIGTERM and so on."""
    return with_output('basicsr', lambda: _main(argv))


def _main(argv):
    parser = _parser()
    args = parser.parse_args(argv)
    if args.version or args.command is None:
        sys.stdout.write(versions() if args.version else parser.format_help())
        return 0
    try:
        text = read_option_text(args.opt)
        opt = parse_option_text(text, args.opt, args.force_yml or [])
        wait_asleep_beside_others()
        from hcflow_model.pipeline.run import run  # here: --help and wrong arguments do not wait for it
        run(args, opt, text)
    except TrainingStopped as stop:
        _say_once(stop.message)
        return stop.code
    except KeyboardInterrupt:
        _say_once('stopped by Ctrl-C')
        return 128 + signal.SIGINT
    except Exception as error:  # a bug is raised again
        message = input_error(error)
        if message is None:
            raise
        say(f'basicsr: error: {one_line(message)}')
        return 1
    return 0


def _say_once(text):
    if os.environ.get('RANK', '0') == '0':  # of many processes one speaks
        say(f'basicsr: {text}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='basicsr', description='Train and test image restoration networks with BasicSR and its plugins. '
        'Works in the current folder: experiments/, results/ and tb_logger/ are made in it.',
        epilog='example: basicsr train -opt options/train_HCFlow_x4.yml --auto_resume')
    parser.add_argument('--version', action='store_true', help='versions of basicsr, its plugins and torch')
    _add_local_rank(parser)
    commands = parser.add_subparsers(dest='command', metavar='{train,test}')
    for name, what in (('train', 'Train the networks of an option file.'), ('test', 'Test a trained network.')):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument('-opt', required=True, metavar='FILE', help='option file (YAML)')
        command.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
        command.add_argument('--auto_resume', action='store_true', help='go on from the newest training state, if any')
        command.add_argument('--debug', action='store_true', help='validate and save every 8 iterations')
        _add_local_rank(command)
        command.add_argument('--force_yml', nargs='+', metavar='KEY:KEY=VALUE',
                             help='change options of the file, such as train:ema_decay=0.999')
    return parser


def _add_local_rank(parser):
    """torch.distributed.launch hands it over before everything else. Processes take their places from the environment.
    """
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def versions() -> str:
    """A line each for basicsr, torch and every plugin."""
    names = ['torch', *sorted({plugin.dist.name for plugin in installed_plugins() if plugin.dist})]
    return ''.join(f'{name} {version}\n' for name, version in [
        ('basicsr', basicsr_version()), *((name, metadata.version(name)) for name in names)])


if __name__ == '__main__':
    sys.exit(main())
