"""`hcflow restore`: the original size again of what `hcflow downscale` made small."""
import argparse

from hcflow_arch.errors import InputError

from . import _arguments

HELP = 'Restore images that hcflow downscale made small, or any small images.'
EXAMPLES = """
hcflow restore -i small -o restored --weights Rescaling_DF2K_X4_HCFlow.pth
hcflow restore -i thumbnails -o restored --scale 4 --weights Rescaling_DF2K_X4_HCFlow.pth
hcflow restore -i small/photo.png -o photo_restored.png --weights experiments/demo_HCFlow_rescaling_x4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    _arguments.add_arguments(parser)
    parser.add_argument('--scale', type=int, metavar='S', help="the network's; images that do not name their original "
                        'size become exactly S times as large, which is otherwise said of each')
    parser.add_argument('--temperature', type=float, metavar='T', help="of the latents (default: the network's, 1)")
    parser.add_argument('--seed', type=int, default=0, metavar='S', help='of the noise (default: 0)')


def run(args: argparse.Namespace) -> int:
    """Restore all images to the size, depth and channels that their files name."""
    from . import _batch
    jobs = _batch.plan(args)

    from tqdm import tqdm

    from hcflow_arch.checks import check_temperature
    from hcflow_model.images.files import as_depth, automatic_extension, check_format, read_image_file, write_image
    from hcflow_model.images.original import Sidecar, digest
    from hcflow_model.inference.draw import check_seed
    from hcflow_model.inference.upscaler import HCFlowRescaler
    from hcflow_model.utils.files import printable
    from hcflow_model.utils.memory import keep_freed_memory
    arguments = _batch.constructor_arguments(args)
    if args.temperature is not None:
        check_temperature('--temperature', args.temperature)
    check_seed(args.seed, '--seed')
    rescaler = HCFlowRescaler(args.weights, **arguments)
    keep_freed_memory(rescaler.device)
    if args.scale not in (None, rescaler.scale):
        raise InputError(f'--scale is {args.scale}, network {args.weights} has scale {rescaler.scale}; leave --scale '
                         'out, or take another network.')
    network = digest(rescaler.net)

    def process(job, progress):
        file = read_image_file(job.source)
        sidecar = Sidecar.from_text(file.text, job.source, file.pixels, rescaler.scale)
        if sidecar is None:
            pixels, dtype = file.pixels, file.pixels.dtype
            size = [rescaler.scale * length for length in pixels.shape[:2]]
            if args.scale is None:
                tqdm.write(f'{printable(job.source)} does not name its original size (was it made by hcflow downscale, '
                           f'and not saved again by another program?); it becomes {rescaler.scale} times as large '
                           f'(--scale {rescaler.scale} leaves out this note).')
        else:
            pixels, dtype, size = sidecar.as_kind(file.pixels), sidecar.type, sidecar[:2]
            if sidecar.network != network:
                tqdm.write(f'{printable(job.source)} was made small by another network than {args.weights}; it may '
                           'look wrong.')
        extension = job.extension or automatic_extension(job.source, as_depth(pixels[:1, :1], dtype), size)
        check_format(job.path(extension), pixels, size)
        rescaler.progress = progress
        hr = rescaler.restore(pixels, size, args.temperature, args.seed)
        write_image(job.path(extension), as_depth(hr, dtype), file.profile)

    return _batch.run_jobs(jobs, process, args.overwrite)
