"""hcflow explore: pictures and figures of the solution space of one LR image."""
import sys

from . import _arguments

HELP = 'Look at the solution space of an LR image: samples, their spread, likelihood and latents, walks and edits.'
EXAMPLES = """
hcflow explore -i lr.png -o explored
hcflow explore -i lr.png --gt hr.png --weights net_g_latest.pth -o explored --temperatures 0 0.8 --num_samples 8
hcflow explore -i lr.png --weights SR_DF2K_X4_HCFlow.pth -o explored --interpolate 12 --animation webp
hcflow explore -i lr.png --weights net_g_latest.pth -o explored --edit edited_hr.png
"""


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument('-i', '--input', required=True, metavar='FILE', help='LR image; alpha is left out')
    parser.add_argument('-o', '--output', required=True, metavar='FOLDER',
                        help='takes NAME_sheet.png, every sample and NAME_explore.json')
    parser.add_argument('--gt', metavar='FILE', help='HR image: errors, likelihood and its latents are added')
    parser.add_argument('--temperatures', type=float, nargs='+', default=[0, 0.5, 0.8, 1.0], metavar='T',
                        help='sampling temperatures (default: 0 0.5 0.8 1); sample 1 has the same noise at all of them')
    parser.add_argument('-n', '--num_samples', type=int, default=4, metavar='N',
                        help='samples at each temperature above 0; the sheet shows up to four (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the noise (default: %(default)s)')
    parser.add_argument('--crop', type=int, nargs=4, metavar=('X', 'Y', 'WIDTH', 'HEIGHT'),
                        help='look at a part only, in LR pixels from the left upper corner')
    parser.add_argument('--interpolate', type=int, metavar='N',
                        help='walk in N steps between samples 1 and 2 of the highest temperature: NAME_walk.png and an '
                        'animation')
    parser.add_argument('--animation', choices=['gif', 'png', 'webp'], default='gif',
                        help='format of the animation: gif has 256 colours, png and webp are exact (default: gif)')
    parser.add_argument('--edit', metavar='FILE',
                        help='edited HR image: its latents, kept and normalized to each temperature, are decoded for '
                        'the LR image of -i and for its own (NAME_edit.png, NAME_edit_*.png)')
    parser.add_argument('--overwrite', action='store_true', help='replace what an earlier run wrote')
    _arguments.add_network_arguments(parser)


def run(args) -> int:
    """Explore one image; docs/explore.md explains the results."""
    from hcflow_model.exploration.job import ExplorationJob
    from hcflow_model.utils.files import printable
    from hcflow_model.utils.memory import enough_memory

    from . import _batch
    args.weights = _batch.weights(args, 'sr')
    with enough_memory():
        job = ExplorationJob(args)
        text = job.explore()
    sys.stdout.write(f'{text}\n\nwritten: {len(job.files)} files to {printable(args.output)}, '
                     f'{printable(job.sheet_path)} among them\n')
    return 0
