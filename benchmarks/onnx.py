"""Time of drawing an image by ONNX Runtime, beside PyTorch, and how far the two are from each other.

    python -m benchmarks.onnx --out results/onnx.json
"""
import functools
import tempfile
from pathlib import Path

import torch

from hcflow_arch import HCFlowNet
from hcflow_model.checkpoints.named import DEFAULTS
from hcflow_model.checkpoints.pretrained import load_pretrained
from hcflow_model.inference.onnx_export import export_onnx
from hcflow_model.inference.onnx_net import OnnxNet

from . import common

from helpers import perturb  # isort: skip  (of the tests, whose folder `common` adds)


@torch.no_grad()
def main() -> None:
    args = common.arguments(__doc__, repeats=5)
    nets = {f'{name}, of this package': load_pretrained(name) for name in DEFAULTS.values()}
    nets |= {f'x4 {task}, full size': perturb(common.networks(task, 'cpu')['default'].eval(), 0.003)
             for task in DEFAULTS}  # at the start of training couplings change nothing
    figures = {title: measure(title, net, args) for title, net in nets.items()}
    common.write_json(args, figures)


def measure(title: str, net: HCFlowNet, args) -> dict:
    """Seconds of a decode by each way, and its largest difference from PyTorch."""
    ways = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, half in (('ONNX Runtime', False), ('ONNX Runtime, --half', True)):
            path = Path(folder) / f'{half}.onnx'
            export_onnx(net, path, half=half)
            ways[name] = OnnxNet(path, device=args.device)
    ways = {'PyTorch': net.to(args.device), **ways}
    lq, _ = common.images(args.batch, args.patch, args.device)
    latents = net.draw_latents(lq, 0.8)
    images = {name: way.decode(lq, latents, clamp=False).to(lq.device) for name, way in ways.items()}
    seconds = common.time_in_turns({name: functools.partial(way.decode, lq, latents) for name, way in ways.items()},
                                   args.repeats, args.device)
    rows = {name: {'seconds': seconds[name], 'difference': (images[name] - images['PyTorch']).abs().max().item()}
            for name in ways}
    common.print_table(
        f'{title}, one decode, HR size {args.patch}, batch {args.batch}',
        ['', 'seconds', '/ PyTorch', 'largest difference'],
        [[name, row['seconds'], row['seconds'] / seconds['PyTorch'], f'{row["difference"]:.1e}']
         for name, row in rows.items()])
    return rows


if __name__ == '__main__':
    main()
