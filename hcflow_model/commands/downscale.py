"""`hcflow downscale`: make small images that `hcflow restore` makes large again."""
import argparse

from . import _arguments

HELP = 'Downscale images by a rescaling network; hcflow restore makes them large again.'
EXAMPLES = """
hcflow downscale -i photos -o small --weights Rescaling_DF2K_X4_HCFlow.pth
hcflow downscale -i photo.jpg -o small/photo.png --weights experiments/demo_HCFlow_rescaling_x4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    _arguments.add_arguments(parser, formats=False)


def run(args: argparse.Namespace) -> int:
    """Downscale all images to PNG files that carry what restoring needs."""
    from . import _batch
    jobs = _batch.plan(args, '.png')

    from hcflow_model.images.files import read_image_file, write_image
    from hcflow_model.images.original import Sidecar
    from hcflow_model.inference.upscaler import HCFlowRescaler
    from hcflow_model.utils.memory import keep_freed_memory
    rescaler = HCFlowRescaler(args.weights, **_batch.constructor_arguments(args))
    keep_freed_memory(rescaler.device)

    def process(job, progress):
        file = read_image_file(job.source)
        rescaler.progress = progress
        lr = rescaler.downscale(file.pixels)
        write_image(job.path('.png'), lr, file.profile, Sidecar.of(file.pixels, rescaler.net).as_text())

    return _batch.run_jobs(jobs, process, args.overwrite)
