"""Runs BasicSR's training or testing; all that stands in for a piece of BasicSR does so for that time alone."""
import argparse
import functools
import multiprocessing
import os
import signal
import sys
from contextlib import ExitStack

import basicsr.data
import basicsr.test
import basicsr.train
from basicsr.models.base_model import BaseModel
from basicsr.utils import FileClient
from basicsr.utils.registry import MODEL_REGISTRY

from hcflow_arch.weights.safe_load import weights_only
from hcflow_model.checkpoints.named import use_named
from hcflow_model.checkpoints.training_state import restore
from hcflow_model.options.check import check_checkpoints_exist, check_options, check_structure
from hcflow_model.utils.distributed import settle, together
from hcflow_model.utils.plugins import load_plugins
from hcflow_model.utils.terminal import OptionalStream

from .datasets import PrefetchGenerator, build_dataloader, dataset_builder
from .parsing import complete_options, options_parser
from .repairs import backends, get_root_logger, imwrite, name_checkpoint, replaced, worker_init_fn
from .resume_state import build_model, load_resume_state, saved_on_error
from .run_folders import RunFolders, check_not_in_archive, locked
from .sampler import EpochSampler
from .stopping import signals_stop_training


def run(args: argparse.Namespace, opt: dict, text: str) -> None:
    """Train or test, as the command line says.

    Args:
        args: `command`, 'train' or 'test', and BasicSR's arguments of these names: opt, launcher, auto_resume, debug,
            local_rank, force_yml.
        opt: What is in the option file, changed as `force_yml` says.
        text: The option file itself, of which the experiment keeps a copy.

    Raises:
        InputError: What the user can mend.
        TrainingStopped: By a signal, after everything was saved.
    """
    is_train = args.command == 'train'
    load_plugins(opt.get('plugins'))
    check_structure(opt, is_train)
    complete_options(opt, args, os.getcwd())
    check_options(opt)
    use_named(opt)
    check_checkpoints_exist(opt)
    if not (opt['auto_resume'] or opt['path'].get('resume_state')):
        check_not_in_archive(opt)
    model = MODEL_REGISTRY.get(opt['model_type'])
    folders = RunFolders(text, renames=getattr(model, 'renames_files', False))
    connect = options_parser(opt, args)

    def lock():
        if opt['rank'] == 0:
            stack.enter_context(locked(opt['path']['experiments_root' if is_train else 'results_root']))

    def parse_options(root_path, is_train=True):
        parsed = connect(root_path, is_train)
        together(opt, lock)
        if is_train and getattr(model, 'stops_when_asked', False):
            stack.enter_context(signals_stop_training())  # other models would never look
        return parsed

    check = getattr(model, 'check_validation_set', None) if is_train else None
    build_dataset = dataset_builder(whole_pairs=not getattr(model, 'skips_broken_pairs', False),
                                    check=check and functools.partial(check, opt=opt))
    if 'forkserver' in multiprocessing.get_all_start_methods():  # its workers import nothing anew
        multiprocessing.set_forkserver_preload([worker_init_fn.__module__])
    with ExitStack() as stack:
        stack.callback(settle)
        stack.callback(OptionalStream(sys.stdout).flush)
        stack.callback(_end_training)
        stack.enter_context(weights_only())
        stack.enter_context(replaced([
            (sys, 'stdout', OptionalStream(sys.stdout)),
            (sys, 'stderr', OptionalStream(sys.stderr)),
            (basicsr.train, 'parse_options', parse_options),
            (basicsr.test, 'parse_options', parse_options),
            (basicsr.train, 'get_root_logger', get_root_logger),
            (basicsr.test, 'get_root_logger', get_root_logger),
            (basicsr.train, 'load_resume_state', load_resume_state),
            (basicsr.train, 'build_model', build_model),
            (BaseModel, 'resume_training', restore),
            (basicsr.train, 'mkdir_and_rename', folders.archive),
            (basicsr.utils.misc, 'mkdir_and_rename', folders.archive),
            (basicsr.train, 'copy_opt_file', folders.copy_option_file),
            (basicsr.train, 'build_dataset', build_dataset),
            (basicsr.test, 'build_dataset', build_dataset),
            (basicsr.train, 'build_dataloader', build_dataloader),
            (basicsr.train, 'EnlargedSampler', EpochSampler),
            (basicsr.data, 'worker_init_fn', worker_init_fn),
            (basicsr.data.prefetch_dataloader, 'PrefetchGenerator', PrefetchGenerator),
            (FileClient, '_backends', backends()),
            (BaseModel, 'load_network', name_checkpoint(BaseModel.load_network)),
            *((module, 'imwrite', imwrite) for name, module in sys.modules.items()
              if name.startswith('basicsr.models.') and hasattr(module, 'imwrite')),
        ]))
        stack.enter_context(folders.put_back_on_error())
        stack.enter_context(saved_on_error())
        (basicsr.train.train_pipeline if is_train else basicsr.test.test_pipeline)(os.getcwd())


def _end_training():
    """End what still loads data: it ignores SIGTERM, for which Python would wait without end when it exits."""
    EpochSampler.newest = None
    children = multiprocessing.active_children()
    if not children:
        return
    if hasattr(signal, 'SIGCHLD'):
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error
    for child in children:
        child.kill()
        child.join()
    if hasattr(signal, 'SIGCHLD'):
        signal.signal(signal.SIGCHLD, before)
