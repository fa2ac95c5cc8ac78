"""Time of one residual dense block of the feature nets, by layout, precision and compilation, and how it convolves.

    python -m benchmarks.block --device cuda
"""
import math

import torch

from hcflow_arch.convs import winograd
from hcflow_arch.convs.layout import layout_like
from hcflow_arch.features.rrdb import ResidualDenseBlock

from . import common

NUM_FEAT, NUM_GROW_CH = 64, 32


def variants(args) -> dict:
    """{name: (forward without gradients, forward and backward)}, functions; compiled blocks have no gradients."""
    functions = {}
    for dtype in (torch.float32, torch.bfloat16) if args.amp else (torch.float32,):
        for layout in (torch.contiguous_format, torch.channels_last):
            name = f'{str(dtype).removeprefix("torch.")}, {"planes" if layout == torch.contiguous_format else "last"}'
            block = ResidualDenseBlock(NUM_FEAT, NUM_GROW_CH).to(args.device, dtype, memory_format=layout)
            x = torch.randn(args.batch, NUM_FEAT, args.patch, args.patch, device=args.device, dtype=dtype)
            x = x.contiguous(memory_format=layout_like(block.conv1.weight)).requires_grad_()
            functions[name] = pair = forward(block, x, False), step(block, x)
            if winograd.WinogradConvs.pays(x, [conv.weight for conv in block.children()]):
                functions[f'{name}, direct'] = tuple(map(direct, pair))
            functions[f'{name}, compiled'] = forward(block, x, True), None
    return functions


def forward(block, x, compiled):
    @torch.no_grad()
    def run():
        block.compiled = compiled
        block(x)
    return run


def step(block, x):
    def run():
        block.zero_grad()
        block(x).sum().backward()
    return run


def direct(function):
    """A function that runs `function` without Winograd's convolution."""
    def run():
        least, winograd.MIN_MULTIPLICATIONS = winograd.MIN_MULTIPLICATIONS, math.inf
        function()
        winograd.MIN_MULTIPLICATIONS = least
    return run


def main() -> None:
    args = common.arguments(__doc__, repeats=9)
    functions = variants(args)
    seconds = [common.time_in_turns({name: pair[i] for name, pair in functions.items() if pair[i]}, args.repeats,
                                    args.device) for i in range(2)]
    common.print_table(f'a dense block of {NUM_FEAT} features at {args.patch}x{args.patch}, batch {args.batch}',
                       ['', 'forward, ms', 'with backward, ms'],
                       [[name, *(1e3 * times[name] if name in times else '-' for times in seconds)]
                        for name in functions])
    common.write_json(args, {'forward': seconds[0], 'with backward': seconds[1]})


if __name__ == '__main__':
    main()
