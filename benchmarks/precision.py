"""The price of mixed precision: nll and samples of a trained network in bfloat16 beside those in float32.

    python -m benchmarks.precision --weights experiments/demo_HCFlow_x4

Feature nets and subnets run in bfloat16, the flow itself in float32, as with `train.amp` and `val.amp`. Means over the
bundled held-out pictures.
"""
import argparse
import time
from pathlib import Path

import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import numpy as np
import torch

from benchmarks.common import print_table, write_json
from benchmarks.learning import datasets
from hcflow_model.checkpoints.pretrained import load_pretrained

TEMPERATURES = (0., 0.9)


@torch.no_grad()
def measure(net, lq: torch.Tensor, gt: torch.Tensor, bf16: bool) -> tuple[float, list[torch.Tensor]]:
    """nll in bits per HR pixel, and an unrounded sample at each temperature, with the same noise every time."""
    with torch.autocast(lq.device.type, dtype=torch.bfloat16, enabled=bf16):
        noise = torch.rand(gt.shape, generator=torch.Generator().manual_seed(0)).to(gt.device)
        nll = net(lq, gt=gt, dequantization_noise=noise).nll.item()
        return nll, [net(lq, temperature=temperature, generator=torch.Generator().manual_seed(0)).float().cpu()
                     for temperature in TEMPERATURES]


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of two images in [0, 1], in dB."""
    return -10 * torch.log10((a - b).square().mean()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, required=True, help='checkpoint of x4 super-resolution, or experiment')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    parser.add_argument('--out', type=Path, help='write the figures and versions as JSON to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = load_pretrained(args.weights, 'sr', device=args.device)
    rows = []
    for lq, gt in datasets(64)[1]:
        lq, gt = lq.to(args.device), gt.to(args.device)
        seconds, results = [], []
        for bf16 in (False, True):
            start = time.perf_counter()
            results.append(measure(net, lq, gt, bf16))  # its figures leave the device: all is done when it returns
            seconds.append(time.perf_counter() - start)
        (nll, samples), (nll_bf16, samples_bf16) = results
        rows.append([nll, 1e3 * (nll_bf16 - nll), *map(psnr, samples_bf16, samples), seconds[1] / seconds[0]])
    names = ['nll', 'nll bf16 - float32, 1e-3', *(f'dB of samples, t{t:g}' for t in TEMPERATURES), 'time / float32']
    means = np.mean(rows, axis=0).tolist()
    print_table(f'{args.weights}: bf16 beside float32', names, [means])
    write_json(args, dict(zip(names, means, strict=True)))


if __name__ == '__main__':
    main()
