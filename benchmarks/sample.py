"""Time of drawing images, beside BasicSR's RRDBNet and plain autograd.

    python -m benchmarks.sample --out results/sample.json
"""
import torch

from . import common
from .plot import draw_growth

TEMPERATURES, NUM_SAMPLES = (0., 0.9), 3


def validation(net, lq):
    """A function that draws what a validation of temperatures 0 and 0.9 with 3 samples needs: 1 + 3 images."""
    def run():
        features = net.coarsest_features(lq)
        for temperature in TEMPERATURES:
            for _ in range(NUM_SAMPLES if temperature else 1):
                net.decode(lq, temperature=temperature, features=features)
    return run


def in_bf16(function, device: torch.device):
    """A function that runs `function` as with `val.amp`."""
    def run():
        with common.mixed_precision(device):
            return function()
    return run


@torch.no_grad()
def main() -> None:
    args = common.arguments(__doc__, repeats=7)
    lq, _ = common.images(args.batch, args.patch, args.device)
    rrdbnet = common.yardstick(args.device)
    figures = {}
    for task, temperature in (('sr', 0.9), ('rescaling', 1.)):
        nets = common.networks(task, args.device)
        functions = {common.YARDSTICK: lambda: rrdbnet(lq)}
        for name in ('plain', 'default'):
            functions[name] = lambda net=nets[name], t=temperature: net.decode(lq, temperature=t)
        if args.amp:
            functions['bf16'] = in_bf16(functions['default'], lq.device)
        figures[task] = common.time_in_turns(functions, args.repeats, args.device)
        common.ratio_table(f'x4 {task}, one decode, HR size {args.patch}, batch {args.batch}', functions,
                           figures[task])
        if task == 'sr':
            net = nets['default']
            figures['validation'] = common.time_in_turns({
                'six decodes': lambda net=net: [net.decode(lq, temperature=0.9) for _ in range(6)],
                'validation': validation(net, lq)}, 3, args.device)
            single, many = figures['validation'].values()
            print(f'\nvalidation at temperatures 0 and 0.9 with 3 samples: {many:.3f} s, '
                  f'{many / single:.3f} of six decodes')
    if args.growth:
        figures['growth'] = growth(args)
    common.write_json(args, figures)


def growth(args) -> list[dict]:
    """Seconds of a decode (x4 SR) against the size of the HR image, up to 1024x1024."""
    net, rows = common.networks('sr', args.device)['default'], []
    for size in (128, 256, 512, 1024):
        lq, _ = common.images(1, size, args.device)
        seconds = common.time_in_turns({'decode': lambda lq=lq: net.decode(lq)}, 1, args.device)['decode']
        rows.append({'size': size, 'seconds': seconds})
    common.print_table('x4 sr, growth of one decode', ['HR size', 'seconds', 'us / HR pixel'],
                       [[row['size'], row['seconds'], 1e6 * row['seconds'] / row['size']**2] for row in rows])
    if args.out is not None:
        curves = {'decode': [(row['size']**2, [1e6 * row['seconds'] / row['size']**2]) for row in rows]}
        draw_growth(args.out.with_suffix('.png'), curves, 'Microseconds of a decode per HR pixel')
    return rows


if __name__ == '__main__':
    main()
