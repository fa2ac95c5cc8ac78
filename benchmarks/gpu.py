"""Training and sampling at full size on a GPU, plain float32 beside every option, in one run.

    python -m benchmarks.gpu --out results/gpu.json
"""
import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from hcflow_model.inference.cuda_graph import CudaGraph

from . import common


class Row(NamedTuple):
    """Options of a row.

    Attributes:
        net: 'plain' (plain autograd) or what `network_g.memory` is.
        channels_last: `network_g.channels_last`.
        amp: Mixed precision in bf16.
        cuda_graph: One call starts all kernels.
        compile: `network_g.compile`, for sampling.
        tf32: PyTorch's convolutions may round what they read to 10 bits of mantissa: its default.
    """
    net: str = 'default'
    channels_last: bool = True
    amp: bool = False
    cuda_graph: bool = False
    compile: bool = False
    tf32: bool = True


ROWS = {
    'plain': Row('plain', channels_last=False),
    'default': Row(),
    'bf16': Row(amp=True),
    'graph, bf16': Row(amp=True, cuda_graph=True),
    'graph': Row(cuda_graph=True),
    'low': Row('low'),
    'graph, bf16, low': Row('low', amp=True, cuda_graph=True),
    'graph, bf16, compile': Row(amp=True, cuda_graph=True, compile=True),
    'default, planes': Row(channels_last=False),
    'plain, no TF32': Row('plain', channels_last=False, tf32=False),
}


def seconds_of(function, repeats: int) -> float:
    """Median by the GPU's clock, of calls that are queued one by one."""
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def kernels_of(function) -> dict[str, float]:
    """How many kernels and copies one call starts on the GPU, and how long they keep it busy, in ms."""
    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        function()
        torch.cuda.synchronize()
    times = [event.time_range.elapsed_us() for event in prof.events()
             if event.device_type == torch.autograd.DeviceType.CUDA]
    return {'kernels': len(times), 'busy_ms': sum(times) / 1000}


def measure(function, images: int, repeats: int, cuda_graph: bool) -> dict[str, float]:
    """Images per second, most memory held in MiB, kernels of one call and how long they keep the GPU busy."""
    for _ in range(2):  # warms up: cuDNN tries its algorithms
        function()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call = CudaGraph(function) if cuda_graph else function
    seconds = seconds_of(call, repeats)
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {'images_per_s': images / seconds, 'peak_mib': peak, **kernels_of(call)}


def measure_row(nets, args, row: Row) -> dict[str, dict[str, float]]:
    """{'training': ..., 'sampling 1': ..., 'sampling 16': ...}."""
    torch.backends.cudnn.allow_tf32 = row.tf32
    net = nets[row.net]
    net.lay_out(row.channels_last)
    if row.net != 'plain':
        net.compile_blocks(row.compile)
    lq, gt = common.images(args.batch, args.patch, args.device)
    torch.backends.cudnn.benchmark = True  # as BasicSR trains
    step = common.training_step(net, lq, gt, row.amp)
    figures = {'training': measure(step, args.batch, args.repeats, row.cuda_graph)}
    net.zero_grad()
    torch.backends.cudnn.benchmark = False  # as images of any size are drawn
    for batch in (1, args.batch):
        lq = torch.rand(batch, 3, args.lq, args.lq, device=args.device)

        @torch.no_grad()
        def decode(lq=lq):
            with common.mixed_precision(lq.device, row.amp):
                return net.decode(lq, temperature=0.9)
        figures[f'sampling {batch}'] = measure(decode, batch, args.repeats, row.cuda_graph)
    return figures


def report(figures: dict, base: str = 'plain') -> None:
    """A table of all rows, with ratios to the base."""
    columns = list(next(iter(figures.values())))
    whats = ('images / s', f'/ {base}', 'MiB', 'kernels', 'busy ms')
    header = [''] + [f'{name}: {what}' for name in columns for what in whats]
    rows = []
    for name, row in figures.items():
        cells = [name]
        for column in columns:
            got = row[column]
            ratio = got['images_per_s'] / figures[base][column]['images_per_s']
            cells += [f'{got["images_per_s"]:.2f}', f'{ratio:.2f}', round(got['peak_mib']), got['kernels'],
                      round(got['busy_ms'])]
        rows.append(cells)
    common.print_table(f'x4 sr on {torch.cuda.get_device_name()}, PyTorch {torch.__version__}', header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda:0')
    parser.add_argument('--batch', type=int, default=16, help='of training, and of the larger sampling')
    parser.add_argument('--patch', type=int, default=160, help='side of the HR patches in training')
    parser.add_argument('--lq', type=int, default=128, help='side of the LR images in sampling')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--rows', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--out', type=Path, help='write the figures and versions as JSON to this file')
    args = parser.parse_args()
    torch.cuda.set_device(args.device)  # where graphs are recorded
    torch.manual_seed(0)
    nets = common.networks('sr', args.device)
    figures = {}
    for name in args.rows:
        figures[name] = measure_row(nets, args, ROWS[name])
        print(name, {key: {k: round(v, 2) for k, v in value.items()} for key, value in figures[name].items()},
              flush=True)
    report(figures, 'plain' if 'plain' in figures else args.rows[0])
    common.write_json(args, figures)


if __name__ == '__main__':
    main()
