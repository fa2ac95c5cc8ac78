"""`hcflow downscale`: make small images that `hcflow restore` makes large again."""
import argparse
import functools

from hcflow_arch.errors import InputError

from . import _arguments

HELP = 'Downscale images by a rescaling network; hcflow restore makes them large again.'
EXAMPLES = """
hcflow downscale -i photos -o small
hcflow downscale -i photos -o small --format jpg --quality 90 --weights experiments/train_HCFlow_rescaling_x4_jpeg
hcflow downscale -i photos -o small --refine 20
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
    parser.add_argument('--refine', type=int, default=0, metavar='N',
                        help='N steps of gradient descent on the small image, for what the network restores of it; '
                        'the image that restores best is kept. A step takes about 4 times as long as restoring '
                        '(default: 0)')
    parser.add_argument('--refine_weight', type=float, metavar='W',
                        help="with --refine: weight of staying near the network's own small image (default: 0.05)")


def run(args: argparse.Namespace) -> int:
    """Downscale all images to files that carry what restoring needs."""
    from . import _batch
    jobs = _batch.plan(args, ('.png', '.jpg', '.jpeg', '.webp'))
    if args.quality is not None and not 1 <= args.quality <= 100:
        raise InputError(f'--quality is {args.quality}; it must be a whole number from 1 to 100.')
    if args.quality is not None and any(job.extension == '.png' for job in jobs):
        raise InputError('--quality is for jpg and webp, PNG loses nothing; give --format jpg or --format webp.')
    if args.refine_weight is not None and not args.refine:
        raise InputError(f'--refine_weight {args.refine_weight:g} is for the steps of --refine; give --refine N, or '
                         'leave it out.')
    quality = 95 if args.quality is None else args.quality

    from hcflow_model.images.files import check_format, read_image_file, through_file, write_image
    from hcflow_model.images.original import Sidecar
    from hcflow_model.inference.refine import WEIGHT, check_refine
    from hcflow_model.inference.upscaler import HCFlowRescaler
    from hcflow_model.utils.memory import keep_freed_memory
    refine_weight = WEIGHT if args.refine_weight is None else args.refine_weight
    check_refine(args.refine, refine_weight, '--refine')
    rescaler = HCFlowRescaler(_batch.weights(args, 'rescaling'), **_batch.constructor_arguments(args))
    keep_freed_memory(rescaler.device)

    def process(job, progress):
        file = read_image_file(job.source)
        rescaler.progress = progress
        path = job.path(job.extension)
        check_format(path, file.pixels, [-(-length // rescaler.scale) for length in file.pixels.shape[:2]])
        store = None if job.extension == '.png' else functools.partial(through_file, job.extension, quality=quality)
        lr = rescaler.downscale(file.pixels, args.refine, refine_weight, store)
        write_image(path, lr, file.profile, Sidecar.of(file.pixels, rescaler.net).as_text(), quality)

    return _batch.run_jobs(jobs, process, args.overwrite)
