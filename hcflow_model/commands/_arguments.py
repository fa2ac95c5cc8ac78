"""Arguments that several subcommands have. As all that `--help` needs, this module imports neither torch nor OpenCV."""
import argparse

FORMATS = ('auto', 'png', 'jpg', 'webp', 'tif', 'bmp')


def add_arguments(parser: argparse.ArgumentParser, formats: bool = True) -> None:
    """The arguments that all these commands have; `formats`: also --ext."""
    parser.add_argument('-i', '--input', required=True, metavar='IN', help='image, or folder (with its subfolders)')
    parser.add_argument('-o', '--output', required=True, metavar='OUT',
                        help='folder to write to, which is made and keeps the subfolders; for one image also a file')
    add_tile_arguments(parser)
    parser.add_argument('--suffix', default='', help='added to the names of the images, as in NAME_SUFFIX.png')
    if formats:
        parser.add_argument('--ext', choices=FORMATS, default='auto',
                            help="format of the images; auto: the input's, where that keeps depth and transparency, "
                            'else png, and tif for floats. jpg, webp and bmp have 8 bits (default: auto)')
    parser.add_argument('--overwrite', action='store_true', help='also make images that are there already')
    add_network_arguments(parser, ', an ONNX file of hcflow export')


def add_sampling_arguments(parser: argparse.ArgumentParser, temperature: str, ensemble: str = '') -> None:
    """What images are drawn from; `temperature`: what its help says; `ensemble`: what that of --self_ensemble adds."""
    parser.add_argument('--temperature', metavar='T',
                        help=f'{temperature}. Or a map of it: a grey image as large as the input or the output, black '
                        'for 0 and white for 1; or a folder with a map of the same name (.png) for each image')
    parser.add_argument('--seed', type=int, default=0, metavar='S',
                        help='of the noise; the same seed gives the same images (default: 0)')
    parser.add_argument('--self_ensemble', action='store_true',
                        help='the mean over the eight flips and turns of the image, at temperature 0; takes 8 times as '
                        f'long{ensemble}')


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """How large images are cut."""
    parser.add_argument('-t', '--tile', type=int, default=0, metavar='PIXELS',
                        help='largest side of tiles in LR pixels, from 16; 0: the whole image where it fits into '
                        'memory, else tiles (default: 0)')
    parser.add_argument('--tile_pad', type=int, metavar='PIXELS',
                        help='margin of tiles in LR pixels; more is nearer to the whole image (default: 16)')


def add_network_arguments(parser: argparse.ArgumentParser, others: str = '') -> None:
    """Which network, which of its weights, and where they run; also of `hcflow explore`. As below."""
    add_weights(parser, others)
    add_device(parser)


def add_weights(parser: argparse.ArgumentParser, others: str = '') -> None:
    """--weights, and which of them; `others`: what it takes besides checkpoints."""
    parser.add_argument('-w', '--weights', metavar='W',
                        help='checkpoint, ours (.pth, .safetensors) or a released one, the name of one (hcflow weights '
                        f'lists them){others}, or the folder of an experiment (default: the small network of this '
                        'package)')
    add_param_key(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument('--device', metavar='NAME', default='auto',
                        help='auto (cuda if there is a GPU, else cpu), cpu, cuda, cuda:1 or mps (default: auto)')


def add_param_key(parser: argparse.ArgumentParser) -> None:
    """--param_key and --plugins, of all commands that read a checkpoint."""
    parser.add_argument('--param_key', choices=['params_ema', 'params'], default='params_ema',
                        help='weights of the checkpoint: averaged (EMA), or the last of training (default: params_ema, '
                        'where there is none params)')
    parser.add_argument('--plugins', nargs='+', default=[], metavar='MODULE',
                        help='modules to import first, whose architecture is the feature net of the checkpoint; an '
                        'option file (.yml) stands for the plugins that it lists. They run: name only what you trust')
