"""`hcflow restore`: the original size again of what `hcflow downscale` made small."""
import argparse
import sys

from hcflow_arch.errors import InputError

from . import _arguments

HELP = 'Restore images that hcflow downscale made small, or any small images.'
EXAMPLES = """
hcflow restore -i small -o restored
hcflow restore -i small -o restored --weights Rescaling_DF2K_X4_HCFlow
hcflow restore -i thumbnails -o restored --scale 4
hcflow restore -i small/photo.png -o photo_restored.png --weights experiments/demo_HCFlow_rescaling_x4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    _arguments.add_arguments(parser)
    parser.add_argument('--scale', type=int, metavar='S', help="the network's; images that do not name their original "
                        'size become exactly S times as large, which is otherwise said of each')
    _arguments.add_sampling_arguments(parser, "of the latents (default: the network's)", '. Mostly worse here: '
                                      'detail is hidden in the small image in one direction')


def run(args: argparse.Namespace) -> int:
    """Restore all images to the size, depth and channels that their files name."""
    from . import _batch
    jobs = _batch.plan(args)

    from tqdm import tqdm

    from hcflow_model.checkpoints.named import bundled
    from hcflow_model.images.files import as_depth, automatic_extension, check_format, read_image_file, write_image
    from hcflow_model.images.original import Sidecar, digest
    from hcflow_model.inference.draw import check_seed
    from hcflow_model.inference.upscaler import HCFlowRescaler
    from hcflow_model.utils.files import printable
    from hcflow_model.utils.memory import keep_freed_memory
    arguments = _batch.constructor_arguments(args)
    temperature_of = _batch.temperatures(args)
    check_seed(args.seed, '--seed')
    if args.weights is None:
        names = bundled('rescaling')
        sys.stderr.write(f'network: {" or ".join(names)} of this package, whichever made the image (--weights takes '
                         'others)\n')
    else:
        names = [args.weights]
    rescalers = [HCFlowRescaler(name, **arguments) for name in names]
    scale = rescalers[0].scale
    keep_freed_memory(rescalers[0].device)
    if args.scale not in (None, scale):
        raise InputError(f'--scale is {args.scale}, network {names[0]} has scale {scale}; leave --scale out, or take '
                         'another network.')
    by_network = {digest(rescaler.net): rescaler for rescaler in rescalers}

    def process(job, progress):
        file = read_image_file(job.source)
        sidecar = Sidecar.from_text(file.text, job.source, file.pixels, scale)
        if sidecar is None:
            rescaler, pixels, dtype = rescalers[0], file.pixels, file.pixels.dtype
            size = [scale * length for length in pixels.shape[:2]]
            if args.scale is None:
                tqdm.write(f'{printable(job.source)} does not name its original size (was it made by hcflow downscale, '
                           f'and not saved again by another program?); it becomes {scale} times as large '
                           f'(--scale {scale} leaves out this note).')
        elif sidecar.network not in by_network:
            raise InputError(f'{job.source} was made small by another network than {" or ".join(names)}, which would '
                             'restore it wrongly; give the one that made it by --weights.')
        else:
            rescaler = by_network[sidecar.network]
            pixels, dtype, size = sidecar.as_kind(file.pixels), sidecar.type, sidecar[:2]
        extension = job.extension or automatic_extension(job.source, as_depth(pixels[:1, :1], dtype), size)
        check_format(job.path(extension), pixels, size)
        rescaler.progress = progress
        hr = rescaler.restore(pixels, size, temperature_of(job), args.seed, args.self_ensemble)
        write_image(job.path(extension), as_depth(hr, dtype), file.profile)

    return _batch.run_jobs(jobs, process, args.overwrite)
