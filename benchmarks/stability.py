"""Whether the wavelet start trains on: thousands of steps of the demo's network and losses on the bundled photographs.

    python -m benchmarks.stability --steps 3000

Prints PSNR and nll of the held-out pictures, the largest condition number of the 1x1 matrices, how many losses were not
finite so far, and the share of pixels of samples at temperature 0.9 that lie on the limits 0 and 1 (of the ground truth
in brackets): a flow that explodes clamps.
"""
import argparse
import random
import time
from pathlib import Path

import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import torch
from basicsr.archs import build_network

from benchmarks.learning import METRICS, batch, datasets, evaluate
from hcflow_arch.flow.condition_numbers import largest_condition_number
from hcflow_model.options.read import read_option_file

DEMO = Path(__file__).parents[1] / 'options' / 'demo_train_HCFlow_x4.yml'


@torch.no_grad()
def share_on_limits(images: list[torch.Tensor]) -> float:
    """Share of values that are 0 or 1, or not finite."""
    values = torch.cat([image.flatten() for image in images])
    return (~((values > 0) & (values < 1))).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=3000)
    parser.add_argument('--every', type=int, default=250)
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--patch', type=int, default=32)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random.seed(0)
    torch.manual_seed(0)
    opt = read_option_file(str(DEMO))
    net = build_network(opt['network_g']).train()
    train_opt, (train, pairs) = opt['train'], datasets(args.patch)
    optimizer = torch.optim.Adam(net.parameters(), train_opt['optim_g']['lr'], betas=(0.9, 0.99))
    bad, began, limits_gt = 0, time.perf_counter(), share_on_limits([gt for _, gt in pairs])
    for step in range(1, args.steps + 1):
        lq, gt = batch(train, args.batch)
        warmup, decay = min(1, step / train_opt['warmup_iter']), 0.4 if step > 0.6 * args.steps else 1
        optimizer.param_groups[0]['lr'] = train_opt['optim_g']['lr'] * warmup * decay
        for name in ('nll', 'pixel'):  # one after another, as the model does
            loss = net(lq, gt=gt).nll.mean() if name == 'nll' else (net(lq, temperature=0) - gt).abs().mean()
            optimizer.zero_grad()
            (train_opt[f'{name}_opt']['loss_weight'] * loss).backward()
            bad += not torch.isfinite(loss)
            torch.nn.utils.clip_grad_value_(net.parameters(), train_opt['grad_clip_value'])
            torch.nn.utils.clip_grad_norm_(net.parameters(), train_opt['grad_clip_norm'])
            optimizer.step()
        if step % args.every == 0 or step == 1:
            values = '  '.join(f'{name} {value:7.2f}' for name, value in
                               zip(METRICS['sr'], evaluate(net, pairs), strict=True))
            net.eval()
            with torch.no_grad():
                samples = [net(lq, temperature=0.9, generator=torch.Generator().manual_seed(0)) for lq, _ in pairs]
            net.train()
            print(f'step {step:5d} {time.perf_counter() - began:7.1f} s  {values}  condition '
                  f'{largest_condition_number(net):6.1f}  not finite {bad}  on limits {share_on_limits(samples):.4f} '
                  f'({limits_gt:.4f})', flush=True)


if __name__ == '__main__':
    main()
