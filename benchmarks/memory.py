"""Memory of training: bytes kept for backward per image, and the batches that fit.

    python -m benchmarks.memory --out results/memory.json
"""
import torch

from . import common
from .plot import draw_growth

AUTHORS_MIB = {'sr': 1298, 'rescaling': 703}  # the authors' code, measured in the same way at HR patch 160
CARDS_GB = (8, 12, 24, 80)
RESERVED = 0.15  # of a card, for the CUDA context, workspaces and what one layer needs while it runs


def main() -> None:
    args = common.arguments(__doc__, repeats=1)
    figures = {}
    for task in ('sr', 'rescaling'):
        nets = common.networks(task, args.device)
        kept = {name: common.kept_bytes(net, args.patch, args.device, args.batch) / 2**20 for name, net in nets.items()}
        # weights, gradients, two moments of Adam and the moving average
        fixed = 5 * sum(p.numel() * p.element_size() for p in nets['default'].parameters()) / 2**20
        figures[task] = {'kept_mib_per_image': kept, 'fixed_mib': fixed}
        rows = []
        for name, mib in kept.items():
            authors = mib / AUTHORS_MIB[task] if args.patch == 160 else '-'
            batches = [int(((1 - RESERVED) * card * 1e9 / 2**20 - fixed) // mib) for card in CARDS_GB]
            figures[task][f'batches_{name}'] = batches
            rows.append([name, mib, authors, mib / kept['plain'], *batches])
        title = f'x4 {task}, kept for backward, HR patch {args.patch}; weights and optimizer {fixed:.0f} MiB'
        common.print_table(title, ['', 'MiB / image', "/ authors'", '/ plain', *(f'{card} GB' for card in CARDS_GB)],
                           rows)
        if args.device.startswith('cuda'):
            figures[task]['peak_mib'] = peaks(nets, args)
    if args.growth:
        figures['growth'] = growth(args)
    common.write_json(args, figures)


def peaks(nets, args) -> dict[str, float]:
    """Most memory that PyTorch held in one training step, MiB."""
    peak = {}
    for name, net in nets.items():
        torch.cuda.reset_peak_memory_stats()
        common.training_step(net, *common.images(args.batch, args.patch, args.device))()
        net.zero_grad()
        peak[name] = torch.cuda.max_memory_allocated() / 2**20
    common.print_table(f'max_memory_allocated, batch {args.batch}', ['', 'MiB'], [[k, v] for k, v in peak.items()])
    return peak


def growth(args) -> list[dict]:
    """MiB kept per image (x4 SR) against the patch; against the batch it is constant by definition."""
    nets, rows = common.networks('sr', args.device), []
    for patch in (64, 96, 128, 160, 192, 256):
        rows.append({'patch': patch, **{name: common.kept_bytes(nets[name], patch, args.device) / 2**20
                                        for name in ('default', 'low')}})
    common.print_table('x4 sr, growth of MiB per image', ['patch', 'default', 'low', 'default: bytes / HR pixel'],
                       [[row['patch'], row['default'], row['low'], round(row['default'] * 2**20 / row['patch']**2)]
                        for row in rows])
    if args.out is not None:
        curves = {name: [(row['patch']**2, [row[name] * 2**10 / row['patch']**2]) for row in rows]
                  for name in ('default', 'low')}
        draw_growth(args.out.with_suffix('.png'), curves, 'KiB kept for backward per HR pixel')
    return rows


if __name__ == '__main__':
    main()
