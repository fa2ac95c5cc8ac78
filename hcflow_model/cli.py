"""The `basicsr` command: BasicSR's training and testing pipelines for option files, with every installed plugin."""
import argparse
import errno
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from contextlib import ExitStack, contextmanager
from importlib import metadata

from hcflow_arch import InputError
from hcflow_arch.basicsr_import import basicsr_version
from hcflow_model.options.read import check_plain, read_option_file
from hcflow_model.pipeline import repairs as basicsr_compat
from hcflow_model.pipeline.stopping import TrainingStopped, signals_stop_training
from hcflow_model.utils.distributed import settle

PLUGIN_GROUP = 'basicsr.plugins'
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, 1 after an error of the input, 2 from argparse, 128 + its number after a
    signal: 130 for Ctrl-C, 143 for SIGTERM."""
    args = _parser().parse_args(argv)
    try:
        if args.version:
            sys.stdout.write(versions())
        else:
            try:
                _run(args)
            finally:
                settle()
    except TrainingStopped as stop:
        _say(stop.message)
        return stop.code
    except KeyboardInterrupt:
        _say('stopped by Ctrl-C')
        return 128 + signal.SIGINT
    except Exception as error:
        message = input_error(error)
        if message is None:
            raise
        return _fail(message)
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(f'basicsr: error: {" ".join(message.split())}\n')
    return 1


def _say(message: str) -> None:
    if os.environ.get('RANK', '0') == '0':  # of many processes one speaks
        sys.stderr.write(f'basicsr: {message}\n')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='basicsr', description='Train and test image restoration networks with BasicSR and its plugins. '
        'Works in the current folder: experiments/, results/ and tb_logger/ are made in it.',
        epilog='example: basicsr train -opt options/train_HCFlow_x4.yml --auto_resume')
    parser.add_argument('--version', action='store_true', help='versions of basicsr, its plugins and torch')
    commands = parser.add_subparsers(dest='command', metavar='{train,test}')
    for name, what in (('train', 'Train the networks of an option file.'), ('test', 'Test a trained network.')):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument('-opt', required=True, metavar='FILE', help='option file (YAML)')
        command.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none', help='job launcher')
        command.add_argument('--auto_resume', action='store_true', help='go on from the newest training state, if any')
        command.add_argument('--debug', action='store_true', help='validate and save every 8 iterations')
        command.add_argument('--local_rank', type=int, default=0, help='set by launchers')
        command.add_argument('--force_yml', nargs='+', metavar='KEY:KEY=VALUE',
                             help='change options of the file, such as train:ema_decay=0.999')
    return parser


def versions() -> str:
    """A line each for basicsr, torch and every plugin."""
    names = ['torch', *sorted({plugin.dist.name for plugin in _plugins() if plugin.dist})]
    return ''.join(f'{name} {version}\n' for name, version in [
        ('basicsr', basicsr_version()), *((name, metadata.version(name)) for name in names)])


def _plugins():
    return metadata.entry_points(group=PLUGIN_GROUP)


def load_plugins(modules: list[str]) -> None:
    """Import every installed plugin, and the modules an option file names, so that they register what they have."""
    for plugin in _plugins():
        try:
            plugin.load()
        except Exception as error:  # somebody else's package must not keep others from running
            sys.stderr.write(f'basicsr: plugin {plugin.name} cannot be imported and is left out: {error!r}\n')
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # modules beside the option file, as for `python -m`
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            reason = error if isinstance(error, ImportError) else f'{type(error).__name__}: {error}'
            raise InputError(f"plugins: '{module}' cannot be imported ({reason}). Install or mend its package, or "
                             'remove it from the list.') from error


def _is_module_name(name: object) -> bool:
    """Whether it is a module's full name: no path, and no leading dots."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split('.'))


def _run(args: argparse.Namespace) -> None:
    if args.command is None:
        _parser().print_help()
        return
    opt = basicsr_compat.apply_force_yml(args.force_yml or [], read_option_file(args.opt))
    check_plain(opt)
    plugins = opt.get('plugins') or []
    if not isinstance(plugins, list) or not all(_is_module_name(module) for module in plugins):
        raise InputError(f'plugins is {plugins!r}; it must be a list of module names, such as [realesrgan.archs].')
    load_plugins(plugins)
    basicsr_compat.repair_pipelines()
    from hcflow_model.data.errors import repair_datasets
    from hcflow_model.models.hcflow_model import HCFlowModel
    from hcflow_model.options.check import check_checkpoints_exist, check_options, check_structure
    from hcflow_model.pipeline.run_folders import check_not_in_archive, run_folders
    check_structure(opt, args.command == 'train')

    import basicsr.test
    import basicsr.train
    from basicsr.utils.registry import MODEL_REGISTRY

    from hcflow_model.models.resumable_model import ResumableModel
    pipeline_module = {'train': basicsr.train, 'test': basicsr.test}[args.command]
    basicsr_parse_options = basicsr.utils.options.parse_options

    with ExitStack() as stack:
        def parse_options(root_path, is_train=True):
            opt, basicsr_args = basicsr_parse_options(root_path, is_train)
            opt['option_file'] = args.opt
            opt['force_yml'] = args.force_yml
            check_options(opt)
            check_checkpoints_exist(opt)
            if not (opt['auto_resume'] or opt['path'].get('resume_state')):
                check_not_in_archive(opt)
            model = MODEL_REGISTRY.get(opt['model_type'])
            repair_datasets(whole_pairs=not issubclass(model, HCFlowModel))
            if is_train and issubclass(model, ResumableModel):
                stack.enter_context(signals_stop_training())  # other models would never look
            return opt, basicsr_args

        stack.callback(_end_workers)
        pipeline_module.parse_options = parse_options
        sys.argv = ['basicsr', *_basicsr_flags(args)]  # BasicSR parses sys.argv itself
        stack.enter_context(_followed_epochs())
        stack.enter_context(run_folders(args.opt))
        getattr(pipeline_module, f'{args.command}_pipeline')(os.getcwd())


def _end_workers():
    """End what still loads data: it ignores SIGTERM, for which Python would wait without end when it exits."""
    children = multiprocessing.active_children()
    if not children:
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error
    for child in children:
        child.kill()
        child.join()
    signal.signal(signal.SIGCHLD, before)


@contextmanager
def _followed_epochs():
    """While BasicSR trains, its sampler is ours."""
    import basicsr.train

    from hcflow_model.pipeline.sampler import EpochSampler
    before, basicsr.train.EnlargedSampler = basicsr.train.EnlargedSampler, EpochSampler
    try:
        yield
    finally:
        basicsr.train.EnlargedSampler, EpochSampler.newest = before, None


def _basicsr_flags(args: argparse.Namespace) -> list[str]:
    flags = ['-opt', args.opt, '--launcher', args.launcher, '--local_rank', str(args.local_rank)]
    flags += [flag for flag, on in (('--auto_resume', args.auto_resume), ('--debug', args.debug)) if on]
    return flags + (['--force_yml', *args.force_yml] if args.force_yml else [])


def input_error(error: Exception) -> str | None:
    """One line for an exception over the user's input; None for every other one, a bug that keeps its traceback.

    BasicSR's datasets know no InputError, so whatever they raise counts as one.
    """
    lines = str(error).strip().split('\n')
    if lines[0].startswith('DataLoader worker (pid'):  # the system killed it
        return f'Loading data failed: {lines[0]} Memory may be short; take fewer workers (num_worker_per_gpu).'
    if 'DataLoader worker process' in lines[0]:  # the text is a traceback whose last line says what happened
        return f'Loading data failed: {lines[-1].strip().removeprefix("hcflow_arch.errors.InputError: ")}'
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        if error.errno == errno.EACCES:
            return f'Cannot open {error.filename or "a file"}: {error.strerror}. Give yourself access to it.'
        return (f'Cannot write {error.filename or "a file"}: {error.strerror}. Free some space or make the folder '
                'writable; what was saved before is whole.')
    frames = traceback.extract_tb(error.__traceback__)
    if any('/basicsr/data/' in frame.filename.replace(os.sep, '/') for frame in frames):
        return f'Loading data failed: {type(error).__name__}: {error}'
    return None


if __name__ == '__main__':
    sys.exit(main())
