"""`hcflow downscale`: make small images that `hcflow restore` makes large again."""
import argparse

from hcflow_arch.errors import InputError

from . import _arguments

HELP = 'Downscale images by a rescaling network; hcflow restore makes them large again.'
EXAMPLES = """
hcflow downscale -i photos -o small
hcflow downscale -i photos -o small --format jpg --quality 90 --weights experiments/train_HCFlow_rescaling_x4_jpeg
hcflow downscale -i photos -o small --weights Rescaling_DF2K_X4_HCFlow
hcflow downscale -i photo.jpg -o small/photo.png --weights experiments/demo_HCFlow_rescaling_x4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    _arguments.add_arguments(parser, formats=False)
    parser.add_argument('--format', dest='ext', choices=('png', 'jpg', 'webp'), default='auto',
                        help='of the small images; all three keep what restoring needs. jpg and webp have 8 bits and '
                        'lose detail, which networks trained with train.compression allow for (default: png)')
    parser.add_argument('--quality', type=int, metavar='Q', help='of jpg and webp, from 1 to 100 (default: 95)')


def run(args: argparse.Namespace) -> int:
    """Downscale all images to files that carry what restoring needs."""
    from . import _batch
    jobs = _batch.plan(args, ('.png', '.jpg', '.jpeg', '.webp'))
    if args.quality is not None and not 1 <= args.quality <= 100:
        raise InputError(f'--quality is {args.quality}; it must be a whole number from 1 to 100.')
    if args.quality is not None and any(job.extension == '.png' for job in jobs):
        raise InputError('--quality is for jpg and webp, PNG loses nothing; give --format jpg or --format webp.')
    quality = 95 if args.quality is None else args.quality

    from hcflow_model.images.files import check_format, read_image_file, write_image
    from hcflow_model.images.original import Sidecar
    from hcflow_model.inference.upscaler import HCFlowRescaler
    from hcflow_model.utils.memory import keep_freed_memory
    rescaler = HCFlowRescaler(_batch.weights(args, 'rescaling'), **_batch.constructor_arguments(args))
    keep_freed_memory(rescaler.device)

    def process(job, progress):
        file = read_image_file(job.source)
        rescaler.progress = progress
        path = job.path(job.extension)
        check_format(path, file.pixels, [-(-length // rescaler.scale) for length in file.pixels.shape[:2]])
        lr = rescaler.downscale(file.pixels)
        write_image(path, lr, file.profile, Sidecar.of(file.pixels, rescaler.net).as_text(), quality)

    return _batch.run_jobs(jobs, process, args.overwrite)
