"""`hcflow page`: upscaling and rescaling in the browser."""
import argparse
import importlib.util

from hcflow_arch import InputError

from . import _arguments

HELP = 'Open a local page: drop a picture, see samples and figures (needs the extra page).'
EXAMPLES = """
hcflow page
hcflow page --weights SR_DF2K_X4_HCFlow++ --port 8000 --open
hcflow page --weights experiments/demo_HCFlow_x4 experiments/demo_HCFlow_rescaling_x4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the subcommand."""
    parser.add_argument('-w', '--weights', nargs='+', default=[], metavar='W',
                        help='checkpoints, names of networks or folders of experiments: one for super-resolution, one '
                        'for rescaling, or both (default: the small networks of this package)')
    parser.add_argument('--port', type=int, default=7860, help='where the page is served (default: %(default)s)')
    parser.add_argument('--host', default='127.0.0.1', metavar='ADDRESS',
                        help='0.0.0.0: also for other machines, without a password (default: %(default)s, this machine '
                        'alone)')
    parser.add_argument('--open', action='store_true', help='open the page in the browser, too')
    parser.add_argument('--max_upload', type=int, default=32, metavar='MB',
                        help='largest file that is taken (default: %(default)s)')
    _arguments.add_tile_arguments(parser)
    _arguments.add_param_key(parser)
    _arguments.add_device(parser)


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if not 1 <= args.port <= 65535:
        raise InputError(f'--port is {args.port}; it must be a whole number from 1 to 65535.')
    if args.max_upload < 1:
        raise InputError(f'--max_upload is {args.max_upload}; it must be a whole number of MB from 1.')
    if importlib.util.find_spec('gradio') is None:
        raise InputError("hcflow page needs Gradio, which is not installed. Install the extra page: pip install "
                         "'hcflow[page]', or in a clone of the repository pip install '.[page]'.")
    from hcflow_model.page.server import listen, networks, serve
    from hcflow_model.utils.memory import keep_freed_memory

    from . import _batch
    with listen(args.host, args.port) as listening:  # before the networks, which take long
        images = networks(args.weights, **_batch.constructor_arguments(args))
        keep_freed_memory(images['sr'].device)
        serve(images, listening, args.host, args.max_upload, args.open)
