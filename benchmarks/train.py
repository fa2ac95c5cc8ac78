"""Time of a training step, beside BasicSR's RRDBNet and plain autograd.

    python -m benchmarks.train --out results/train.json
"""
from . import common
from .plot import draw_growth


def main() -> None:
    args = common.arguments(__doc__, repeats=3)
    figures = {}
    for task in ('sr', 'rescaling'):
        lq, gt = common.images(args.batch, args.patch, args.device)
        steps = {common.YARDSTICK: common.training_step(common.yardstick(args.device), lq, gt)}
        for name, net in common.networks(task, args.device).items():
            steps[name] = common.training_step(net, lq, gt)
            if args.amp and name == 'default':
                steps['bf16'] = common.training_step(net, lq, gt, amp=True)
        figures[task] = common.time_in_turns(steps, args.repeats, args.device)
        common.ratio_table(f'x4 {task}, one training step, HR patch {args.patch}, batch {args.batch}', steps,
                           figures[task])
    if args.growth:
        figures['growth'] = growth(args)
    common.write_json(args, figures)


def growth(args) -> list[dict]:
    """Seconds of a step (x4 SR, default) against patch and batch, per pixel: constant where cost is linear."""
    net, rows = common.networks('sr', args.device)['default'], []
    for batch, patch in [(1, 64), (1, 96), (1, 128), (1, 160), (1, 256), (2, 64), (4, 64), (8, 64)]:
        step = common.training_step(net, *common.images(batch, patch, args.device))
        seconds = common.time_in_turns({'step': step}, 3, args.device)['step']
        rows.append({'batch': batch, 'patch': patch, 'seconds': seconds})
    common.print_table('x4 sr, growth of one training step', ['patch', 'batch', 'seconds', 'us / HR pixel'], [
        [row['patch'], row['batch'], row['seconds'], 1e6 * row['seconds'] / row['batch'] / row['patch']**2]
        for row in rows])
    if args.out is not None:
        def points(key, value):
            sizes = [(row['batch'] * row['patch']**2, row['seconds']) for row in rows if row[key] == value]
            return [(pixels, [1e6 * seconds / pixels]) for pixels, seconds in sizes]
        curves = {'patch, batch 1': points('batch', 1), 'batch, patch 64': points('patch', 64)}
        draw_growth(args.out.with_suffix('.png'), curves, 'Microseconds of a training step per HR pixel')
    return rows


if __name__ == '__main__':
    main()
