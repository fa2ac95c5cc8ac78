"""`hcflow upscale`: super-resolve images."""
import argparse
import functools
import sys

from hcflow_arch import InputError

from . import _arguments

HELP = 'Super-resolve an image or a folder of images.'
EXAMPLES = """
hcflow upscale -i photo.jpg -o results
hcflow upscale -i lr.png -o results --weights SR_DF2K_X4_HCFlow++
hcflow upscale -i photos -o results --weights experiments/demo_HCFlow_x4 --temperature 0.8 --num_samples 3 --seed 1
hcflow upscale -i photos -o results --self_ensemble
hcflow upscale -i photos -o results --num_samples 16 --keep 2 --by lr_psnr
hcflow upscale -i photo.png -o results --temperature map.png
hcflow upscale -i photos -o results --weights net_g_latest.pth --amp bf16 --compile
hcflow upscale -i large.tif -o results --weights net_g_latest.pth --tile 128 --suffix x4 --ext png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    _arguments.add_arguments(parser)
    _arguments.add_sampling_arguments(parser, '0: the single best guess; up to 1: more texture, every sample another '
                                      '(default: 0.8)')
    parser.add_argument('-n', '--num_samples', type=int, default=1, metavar='N',
                        help='samples of each image, saved as NAME_1.png, NAME_2.png, ... (default: 1)')
    parser.add_argument('--keep', type=int, metavar='M', help='keep the M best of the samples, best first')
    parser.add_argument('--by', choices=['nll', 'lr_psnr'],
                        help='what is best: nll, the likeliest given the input; lr_psnr, nearest to the input when '
                        'downscaled (default: nll)')
    parser.add_argument('--mean', action='store_true', help='save the mean of the samples (of --keep) in their place')
    parser.add_argument('-s', '--outscale', type=float, metavar='X',
                        help="final size, as a multiple of the input's; resized where it is not the network's scale")
    parser.add_argument('--amp', choices=['bf16'],
                        help='mixed precision: faster where the GPU or CPU has bf16, and nearly the same images')
    parser.add_argument('--compile', action='store_true',
                        help='compile the network first, up to a minute: for many images on a GPU (needs a C compiler)')


def run(args: argparse.Namespace) -> int:
    """Upscale all images."""
    if args.num_samples < 1:
        raise InputError(f'--num_samples is {args.num_samples}; it must be a whole number from 1.')
    if args.keep is not None and not 1 <= args.keep <= args.num_samples:
        raise InputError(f'--keep is {args.keep}; it must be a whole number from 1 to --num_samples, which is '
                         f'{args.num_samples}.')
    if args.by is not None and args.keep is None:
        raise InputError(f'--by {args.by} says which samples --keep keeps; give --keep, or leave --by out.')
    kept = args.keep or args.num_samples
    if args.mean and kept == 1:
        raise InputError('--mean is the mean of two or more samples, and one is made; give a larger '
                         f'{"--keep" if args.keep else "--num_samples"}.')
    if args.self_ensemble and args.num_samples > 1:
        raise InputError(f'--self_ensemble makes one image, at temperature 0; leave --num_samples {args.num_samples} '
                         'out.')
    if args.outscale is not None and not 0 < args.outscale <= 64:
        raise InputError(f'--outscale is {args.outscale:g}; it must be a number above 0, up to 64.')
    from . import _batch
    jobs = _batch.plan(args)

    import numpy as np
    import torch
    from tqdm import tqdm

    from hcflow_model.images.files import automatic_extension, check_format, read_image_file, resize, write_image
    from hcflow_model.inference.choice import best, mean_image
    from hcflow_model.inference.draw import check_seed
    from hcflow_model.inference.upscaler import HCFlowUpscaler
    from hcflow_model.utils.devices import SLOW, has_bf16_instructions
    from hcflow_model.utils.files import printable
    from hcflow_model.utils.memory import keep_freed_memory
    arguments = _batch.constructor_arguments(args)
    temperature_of = _batch.temperatures(args)
    check_seed(args.seed, '--seed')
    upscaler = HCFlowUpscaler(_batch.weights(args, 'sr'), **arguments)
    keep_freed_memory(upscaler.device)
    precision = functools.partial(torch.autocast, upscaler.device.type, torch.bfloat16, enabled=args.amp is not None)
    if args.compile:
        upscaler.net.compile_blocks(True)
        with precision():
            upscaler(np.zeros((32, 48, 3), np.uint8))  # now, and for all sizes
    if args.amp and not has_bf16_instructions(upscaler.device):
        sys.stderr.write(f'--amp bf16: {SLOW}\n')
    by = args.by or 'nll'
    numbers = range(1, kept + 1) if kept > 1 and not args.mean else (None,)

    def process(job, progress):
        file = read_image_file(job.source)
        size = [round((args.outscale or upscaler.scale) * length) for length in file.pixels.shape[:2]]
        extension = job.extension or automatic_extension(job.source, file.pixels, size)
        check_format(job.path(extension), file.pixels, size)  # before the work
        upscaler.progress = progress
        with precision():
            if args.self_ensemble:
                samples = [upscaler(file.pixels, temperature_of(job), self_ensemble=True)]
            else:
                samples = upscaler.samples(file.pixels, args.num_samples, temperature_of(job), args.seed)
            if args.keep:
                values = upscaler.scores(file.pixels, samples, by)
                places = best(values, by)[:kept]
                samples = [samples[place] for place in places]
                tqdm.write(f'{printable(job.source)}: sample ' + ', '.join(
                    f'{place + 1} ({by} {values[place]:.4f})' for place in places))
        if args.mean:
            samples = [mean_image(samples)]
        for number, sample in zip(numbers, samples, strict=True):
            write_image(job.path(extension, number), resize(sample, size), file.profile)

    return _batch.run_jobs(jobs, process, args.overwrite, numbers)
