"""What the commands for images share: which files become which, progress, and failures that do not stop the rest."""
import argparse
import mimetypes
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from hcflow_arch import InputError
from hcflow_model.checkpoints.named import DEFAULTS
from hcflow_model.images.files import IMAGE_ENDINGS, WRITABLE, find_images
from hcflow_model.utils.files import WriteError, check_folder, file_name, printable, real_path
from hcflow_model.utils.memory import enough_memory
from hcflow_model.utils.terminal import one_line

if TYPE_CHECKING:
    import numpy as np

PYTORCH_ONLY = ('amp', 'compile', 'keep', 'refine')  # options that an exported network does not have


class Job(NamedTuple):
    """One image to make.

    Attributes:
        source: The file to read.
        target: The file to write, without its extension.
        extension: '.png' and so on; None: chosen for the image.
        problem: Why the source cannot be read, where that is known before. Default: None.
    """
    source: Path
    target: Path
    extension: str | None
    problem: str | None = None

    def path(self, extension: str, number: int | None = None) -> Path:
        """The file to write; `number`: of the sample, where there are several."""
        return self.target.with_name(file_name(self.target.name, ('' if number is None else f'_{number}') + extension))

    def is_finished(self, numbers: Iterable[int | None] = (None,)) -> bool:
        """Whether all files of the job are there: they are renamed when whole, so what is there is whole."""
        extensions = [self.extension] if self.extension else [self.source.suffix.lower(), '.png', '.tif']
        return self.problem is None and all(
            any(os.path.exists(self.path(extension, number)) for extension in extensions) for number in numbers)


def plan(args: argparse.Namespace, allowed: Sequence[str] = ()) -> list[Job]:
    """The jobs that the arguments ask for.

    Args:
        args: Of :func:`_arguments.add_arguments`.
        allowed: The extensions that the command writes; 'auto' is the first. Default: all; 'auto' is the input's.

    Raises:
        InputError: No input, or output that would lie over it.
    """
    source, output = Path(args.input), Path(args.output)
    extension = next(iter(allowed), None) if args.ext == 'auto' else f'.{args.ext}'
    suffix = f'_{args.suffix}' if args.suffix else ''
    if '/' in suffix or '\\' in suffix:
        raise InputError(f'--suffix is {args.suffix!r}; it is a part of a file name, without slashes.')
    if not os.path.exists(source):
        raise InputError(f'Input {source} does not exist, or may not be read.')
    is_one = not os.path.isdir(source)
    if output.suffix.lower() in WRITABLE and not os.path.isdir(output) and is_one:
        return [_job_to_file(args, source, output, allowed)]
    if os.path.isfile(output):
        raise InputError(f'Output {output} is a file; give a folder, or for one image a file name that ends in '
                         f'{", ".join(WRITABLE)}.')
    check_folder(output)
    kind = mimetypes.guess_type(output.name)[0]
    if is_one and not os.path.exists(output) and kind is not None and kind.startswith('image/'):
        raise InputError(f'Output {output}: format {output.suffix!r} cannot be written; allowed are '
                         f'{", ".join(WRITABLE)}.')
    folder = source.parent if is_one else source
    if real_path(output) == real_path(folder):
        raise InputError(f'The output folder is the input folder, {folder}; give another one, so that no image can be '
                         'written over.')
    if is_one:
        return [Job(source, output / f'{source.stem}{suffix}', extension)]
    images, problems = find_images(source)
    images = [path for path in images if real_path(output) not in real_path(path).parents]
    if not images and not problems:
        raise InputError(f'Folder {source} has no images ({", ".join(IMAGE_ENDINGS)}).')
    stems = [path.relative_to(source).with_suffix('') for path in images]
    jobs = {}
    for path, stem in zip(images, stems, strict=True):
        twin = '' if stems.count(stem) == 1 else f'_{path.suffix[1:].lower()}'  # cat.jpg beside cat.png
        job = Job(path, output / stem.with_name(f'{stem.name}{twin}{suffix}'), extension)
        if job.target in jobs:  # cat.jpg beside cat.JPG
            raise InputError(f'{jobs[job.target].source} and {path} would both be written to {job.target}; rename one '
                             'of them.')
        jobs[job.target] = job
    return [*jobs.values(), *(Job(path, output, None, problem) for path, problem in problems.items())]


def _job_to_file(args, source, output, allowed):
    extension = output.suffix.lower()
    check_folder(output.parent)
    if os.path.exists(output) and output.samefile(source):
        raise InputError(f'The output is the input, {source}; give another name, so that it is not written over.')
    if allowed and extension not in allowed:
        raise InputError(f'Output {output}: this command does not write {extension}; give a name that ends in '
                         f'{", ".join(allowed)}.')
    if args.suffix or args.ext not in ('auto', extension[1:]):
        raise InputError(f'Output {output} is a file name; --suffix and {"--format" if allowed else "--ext"} are for '
                         'folders.')
    return Job(source, output.with_suffix(''), output.suffix)


def weights(args: argparse.Namespace, task: str) -> str:
    """--weights; without it the network of this package for a task, which a line on stderr names."""
    if args.weights is not None:
        return args.weights
    sys.stderr.write(f'network: {DEFAULTS[task]}, the small one of this package (--weights takes others)\n')
    return DEFAULTS[task]


def constructor_arguments(args: argparse.Namespace) -> dict:
    """The arguments `tile`, `overlap`, `device` and `param_key` of HCFlowUpscaler and HCFlowRescaler."""
    from hcflow_model.inference.tiling import DEFAULT_OVERLAP, check_tile
    wanted = [name for name in PYTORCH_ONLY if getattr(args, name, None)]
    if 'keep' in wanted and args.by == 'lr_psnr':
        wanted.remove('keep')
    if wanted and str(args.weights).endswith('.onnx'):
        raise InputError(f'--{wanted[0]} needs PyTorch, and {args.weights} runs in ONNX Runtime; leave it out, or give '
                         'the checkpoint that was exported.')
    tile = args.tile or None
    check_tile('--tile', tile)
    overlap = DEFAULT_OVERLAP if args.tile_pad is None else args.tile_pad
    if overlap < 0:
        raise InputError(f'--tile_pad is {overlap}; it must be a whole number of LR pixels from 0.')
    return {'tile': tile, 'overlap': overlap, 'device': args.device, 'param_key': args.param_key}


def temperatures(args: argparse.Namespace) -> Callable[[Job], 'float | np.ndarray | None']:
    """What --temperature says of a job: a number, a map, or None where it is not given.

    Raises:
        InputError: A number that is not allowed, or a map that does not exist; of a job: no map of its name.
    """
    from hcflow_arch.checks import check_temperature
    from hcflow_model.images.files import read_image
    given, number = args.temperature, None
    if given is not None:
        try:
            number = float(given)
        except ValueError:
            if not os.path.exists(given):
                raise InputError(f'--temperature is {given!r}; it must be a number from 0 (usual values are 0 to 1), '
                                 'or a file or folder of maps, and none has this name.') from None
        else:
            check_temperature('--temperature', number)
        if args.self_ensemble and number != 0:
            raise InputError(f'--temperature {given}: --self_ensemble is at temperature 0; leave one of them out.')
    if given is None or number is not None:
        return lambda job: number
    if not os.path.isdir(given):
        map_ = read_image(given)
        return lambda job: map_
    start = args.input if os.path.isdir(args.input) else os.path.dirname(args.input)
    return lambda job: read_image(Path(given, os.path.relpath(job.source, start)).with_suffix('.png'))


def run_jobs(jobs: list[Job], process: Callable[[Job, Callable[[float], None]], None], overwrite: bool,
             numbers: Iterable[int | None] = (None,)) -> int:
    """Do all jobs with a progress bar; one that fails is named and does not stop the others.

    Args:
        jobs: What :func:`plan` returned.
        process: Does a job; it is called with the job and a function that takes the finished share of it, from 0 to 1.
        overwrite: Also do finished jobs.
        numbers: Of the samples that a finished job has. Default: a single one without number.

    Returns:
        Exit code: 1 where a job failed.
    """
    waiting = [job for job in jobs if overwrite or not job.is_finished(numbers)]
    failures = []
    bar = '{desc}{percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} images [{elapsed}<{remaining}]'
    with tqdm(total=len(waiting), bar_format=bar, disable=not waiting) as pbar:
        for position, job in enumerate(waiting):
            pbar.set_description(printable(job.source.name))

            def progress(share, position=position):
                pbar.n = position + share
                pbar.update(0)

            try:
                if job.problem is not None:
                    raise InputError(job.problem)
                with enough_memory():
                    process(job, progress)
            except WriteError:  # the next image would fare no better
                raise
            except InputError as error:
                failures.append((job.source, str(error)))
            progress(1.)
    done, skipped = len(waiting) - len(failures), len(jobs) - len(waiting)
    sys.stdout.write(f'{done} done' + (f', {skipped} there already (--overwrite makes them again)' if skipped else '')
                     + (f', {len(failures)} failed:' if failures else '') + '\n')
    for path, message in failures:
        line = one_line(message if str(path) in message else f'{path}: {message}')
        sys.stderr.write(f'{line}\n')
    return 1 if failures else 0
