"""How fast the network learns from either start, on the bundled photographs: table and curves.

    python -m benchmarks.learning --task sr --steps 800 --seeds 3 --out results/learning

Both starts train the same network with equal data, seeds and steps (super-resolution by likelihood alone, rescaling by
the paper's three losses), each with its own learning rate (`--search` shows how they were chosen). Beside
super-resolution a plain CNN, BasicSR's MSRResNet with as many parameters and an L1 loss, trains for the same time.
"""
import argparse
import json
import random
import time
from pathlib import Path

import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import cv2
import numpy as np
import torch
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img

from benchmarks.plot import draw_curves
from hcflow_model import LatentLoss, calculate_lr_psnr
from hcflow_model.images.bicubic import bicubic_resize, round8

DATA = Path(__file__).parents[1] / 'tests' / 'data'
NETWORKS = {
    'sr': {'type': 'HCFlowNet', 'num_flow_steps': 4, 'num_cond_steps': 4, 'hidden_channels': 24, 'num_feat': 16,
           'num_block': [1, 1], 'num_grow_ch': 8},
    'rescaling': {'type': 'HCFlowNet', 'task': 'rescaling', 'num_flow_steps': 4, 'num_cond_steps': 2,
                  'hidden_channels': 24, 'num_subnet_grow_ch': 12, 'num_feat': 16, 'num_block': [1, 1],
                  'num_grow_ch': 8},
}
PLAIN = {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 40, 'num_block': 9, 'upscale': 4}
# the best of 2.5e-4, 5e-4, 1e-3 and 2e-3 after 100 steps with seed 0 (--search), by nll or restored PSNR
LEARNING_RATES = {'sr': {'paper': 5e-4, 'wavelet': 5e-4}, 'rescaling': {'paper': 2e-3, 'wavelet': 1e-3}}
WARMUP = 20
PLAIN_LEARNING_RATE = 1e-3
METRICS = {'sr': ('psnr_y t0', 'psnr_y t0.8', 'nll', 'lr_psnr t0.8'),
           'rescaling': ('psnr_y t1', 'psnr_y t0', 'lq_psnr_y')}


def datasets(patch: int) -> tuple:
    """The bundled training patches and held-out pairs, through BasicSR's loaders."""
    common = {'type': 'PairedImageDataset', 'scale': 4, 'gt_size': patch, 'use_hflip': True, 'use_rot': True}
    train = build_dataset({**common, 'name': 'train', 'phase': 'train', 'io_backend': {'type': 'lmdb'},
                           'dataroot_gt': str(DATA / 'train_gt.lmdb'), 'dataroot_lq': str(DATA / 'train_lq_x4.lmdb')})
    val = build_dataset({**common, 'name': 'val', 'phase': 'val', 'io_backend': {'type': 'disk'},
                         'dataroot_gt': str(DATA / 'val_gt'), 'dataroot_lq': str(DATA / 'val_lq_x4')})
    return train, [(item['lq'][None], item['gt'][None]) for item in val]


def batch(train, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """lq (size, 3, patch / 4, patch / 4), gt (size, 3, patch, patch)."""
    items = [train[random.randrange(len(train))] for _ in range(size)]
    return tuple(torch.stack([item[key] for item in items]) for key in ('lq', 'gt'))


def psnr_y(sr: torch.Tensor, gt: torch.Tensor) -> float:
    """PSNR of 8-bit images on Y, crop border 4."""
    return calculate_psnr(tensor2img(sr), tensor2img(gt), crop_border=4, test_y_channel=True)


@torch.no_grad()
def evaluate(net, pairs) -> list[float]:
    """Averages of the METRICS of the network's task over the held-out pictures."""
    net.eval()
    rows = [_measure_sr(net, lq, gt) if net.task == 'sr' else _measure_rescaling(net, lq, gt) for lq, gt in pairs]
    net.train()
    return np.mean(rows, axis=0).tolist()


def _measure_sr(net, lq, gt):
    generator = torch.Generator().manual_seed(0)
    sample = net(lq, temperature=0.8, generator=generator)
    noise = torch.rand(gt.shape, generator=generator)
    return [psnr_y(net(lq, temperature=0), gt), psnr_y(sample, gt),
            net(lq, gt=gt, dequantization_noise=noise).nll.item(),
            calculate_lr_psnr(tensor2img(sample), tensor2img(lq), scale=4)]


def _measure_rescaling(net, lq, gt):
    small = round8(net.encode(gt).lq)
    restored = [net(small, temperature=t, generator=torch.Generator().manual_seed(0)) for t in (1, 0)]
    return [*(psnr_y(image, gt) for image in restored),
            calculate_psnr(tensor2img(small), tensor2img(lq), crop_border=0, test_y_channel=True)]


def loss_of(net, lq, gt) -> torch.Tensor:
    """The paper's loss of the network's task."""
    if net.task == 'sr':
        return net(lq, gt=gt).nll.mean()
    code = net(None, gt=gt)
    restored = net(round8(code.lq), temperature=1)
    return 0.05 * (code.lq - lq).pow(2).mean() + LatentLoss(1e-5)(code.latents) + (restored - gt).abs().mean()


def train_flow(task: str, start: str, seed: int, marks: list[int], learning_rate: float, batch_size: int, train,
               pairs) -> dict:
    """Train a network. Returns {'seconds': training time, step: METRICS}."""
    random.seed(seed)
    torch.manual_seed(seed)
    net = build_network({**NETWORKS[task], 'start': start}).train()
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, learning_rate, betas=(0.9, 0.99))
    curve, seconds = {}, 0.
    for step in range(1, marks[-1] + 1):
        began = time.perf_counter()
        lq, gt = batch(train, batch_size)
        optimizer.param_groups[0]['lr'] = learning_rate * min(1, step / WARMUP)
        loss = loss_of(net, lq, gt)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(parameters, 5)
        torch.nn.utils.clip_grad_norm_(parameters, 100)
        optimizer.step()
        seconds += time.perf_counter() - began
        if step in marks:
            curve[step] = evaluate(net, pairs)
            print(f'  {start:8s} seed {seed} step {step:5d} {seconds:7.1f} s  ' + '  '.join(
                f'{name} {value:.2f}' for name, value in zip(METRICS[task], curve[step], strict=True)), flush=True)
    return {'seconds': seconds, **curve}


def train_plain(seed: int, seconds: float, train, pairs) -> float:
    """PSNR-Y of MSRResNet after so many seconds of L1 training."""
    random.seed(seed)
    torch.manual_seed(seed)
    net = build_network(PLAIN).train()
    optimizer = torch.optim.Adam(net.parameters(), PLAIN_LEARNING_RATE, betas=(0.9, 0.99))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        lq, gt = batch(train, 8)
        loss = (net(lq) - gt).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        return float(np.mean([psnr_y(net(lq), gt) for lq, gt in pairs]))


def table(results: dict, marks: list[int], metrics: tuple[str, ...]) -> str:
    """Mean and spread (standard deviation over seeds) of every metric at every mark."""
    lines = [f'{"start":8s}  {"step":>5s}  ' + '  '.join(f'{name:>16s}' for name in metrics)]
    for start, runs in results.items():
        for step in marks:
            values = np.array([run[step] for run in runs])
            spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(len(metrics))
            cells = [f'{mean:8.2f} +- {std:4.2f}' for mean, std in zip(values.mean(axis=0), spread, strict=True)]
            lines.append(f'{start:8s}  {step:5d}  ' + '  '.join(f'{cell:>16s}' for cell in cells))
    return '\n'.join(lines)


def _mean_std(values) -> str:
    return f'{np.mean(values):.2f} +- {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}'


def main() -> None:
    global WARMUP
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--task', choices=NETWORKS, default='sr')
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--full', action='store_true',
                        help="the paper's network with batches of 2 patches of 96 pixels, at its learning rate")
    parser.add_argument('--warmup', type=int, default=WARMUP, help='steps of linear warm-up of the learning rate')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--search', action='store_true', help='try learning rates for both starts, then stop')
    parser.add_argument('--out', type=Path, default=Path('results/learning'))
    args = parser.parse_args()
    WARMUP = args.warmup
    torch.set_num_threads(args.threads)
    rates, metrics = LEARNING_RATES[args.task], METRICS[args.task]
    if args.full:
        NETWORKS[args.task] = {'type': 'HCFlowNet', 'task': args.task}
        rates = dict.fromkeys(rates, 2.5e-4)
    train, pairs = datasets(96 if args.full else 64)
    batch_size = 2 if args.full else 8
    if args.search:
        for start in rates:
            for learning_rate in (2.5e-4, 5e-4, 1e-3, 2e-3):
                print(f'{start}, learning rate {learning_rate:g}')
                train_flow(args.task, start, 0, [50, 100], learning_rate, batch_size, train, pairs)
        return
    marks = [step for step in (10, 25, 50, 100, 200, 400, 800, 1600, 3200) if step < args.steps] + [args.steps]
    results = {start: [
        train_flow(args.task, start, seed, marks, rate, batch_size, train, pairs) for seed in range(args.seeds)]
               for start, rate in rates.items()}
    text = table(results, marks, metrics)
    if args.task == 'sr' and not args.full:
        seconds = float(np.mean([run['seconds'] for run in results['wavelet']]))
        plain = [train_plain(seed, seconds, train, pairs) for seed in range(args.seeds)]
        text += f'\nMSRResNet with L1 for the same {seconds:.0f} s: psnr_y {_mean_std(plain)}'
    text += f'\nbicubic up: psnr_y {np.mean([psnr_y(bicubic_resize(lq, 4), gt) for lq, gt in pairs]):.2f}'
    print(text)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f'{args.task}.txt').write_text(text + '\n')
    (args.out / f'{args.task}.json').write_text(json.dumps({'results': results, 'rates': rates}))
    for index, name in enumerate(metrics):
        curves = {start: [(step, [run[step][index] for run in runs]) for step in marks]
                  for start, runs in results.items()}
        limits = (-8, 30) if name == 'nll' else None  # the first values of the paper's start are in the thousands
        path = args.out / f'{args.task}_{name.replace(" ", "_")}.png'
        cv2.imwrite(str(path), draw_curves(curves, name, limits))


if __name__ == '__main__':
    main()
