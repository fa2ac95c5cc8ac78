"""`hcflow export`: a network as ONNX, for programs that have no PyTorch."""
import argparse
import sys
from pathlib import Path

from . import _arguments

HELP = 'Write a network as ONNX; hcflow upscale, downscale and restore run such files, and so do programs of others.'
EXAMPLES = """
hcflow export -o x4.onnx
hcflow export --weights SR_DF2K_X4_HCFlow++ -o plusplus.onnx --half
hcflow export --weights experiments/demo_HCFlow_rescaling_x4 -o rescaling.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('-o', '--output', required=True, metavar='NAME.onnx',
                        help='file to write; of a rescaling network NAME.onnx restores and NAME_downscale.onnx '
                        'downscales')
    _arguments.add_weights(parser)
    parser.add_argument('--half', action='store_true',
                        help='feature nets and subnets in float16: half the size, faster on GPUs, and nearly the same '
                        'images')
    parser.add_argument('--opset', type=int, default=18, metavar='N',
                        help="version of ONNX's operators, from 17 (default: 18)")
    parser.add_argument('--overwrite', action='store_true', help='replace files that are there')


def run(args: argparse.Namespace) -> None:
    """Export, and say how far the files are from PyTorch."""
    from hcflow_model.utils.files import check_folder, printable
    check_folder(Path(args.output).absolute().parent)

    from hcflow_model.checkpoints.pretrained import load_pretrained
    from hcflow_model.inference.onnx_export import check_export, export_onnx

    from . import _batch
    check_export(Path(args.output), args.opset)
    net = load_pretrained(_batch.weights(args, 'sr'), param_key=args.param_key)
    for path, difference in export_onnx(net, args.output, args.opset, args.half, args.overwrite):
        sys.stdout.write(f'{printable(path)}: {path.stat().st_size / 1e6:.1f} MB, differs from PyTorch by '
                         f'{difference:.1g} at most\n')
