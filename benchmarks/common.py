"""What the benchmarks of time and memory share: networks, steps, alternating timing, tables, JSON."""
import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import hcflow_arch  # isort: skip  (first: makes `import basicsr` work)
import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hcflow_arch import HCFlowNet
from hcflow_model.utils.memory import keep_freed_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tests'))
from plain import plain  # noqa: E402  (the plain path is kept with the tests)

YARDSTICK = 'RRDBNet'
SCALE = 4


def arguments(description: str, **defaults) -> argparse.Namespace:
    """Command line: options that all benchmarks have, with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--patch', type=int, default=160, help='side of the HR patches in pixels')
    parser.add_argument('--repeats', type=int, default=defaults['repeats'], help='timed turns; medians are reported')
    parser.add_argument('--amp', action='store_true',
                        help='time bf16, too: default in mixed precision (needs a device with bf16 instructions)')
    parser.add_argument('--give_back', action='store_true',
                        help='freed memory goes back to the system, as where a program does not keep it on a CPU')
    parser.add_argument('--growth', action='store_true', help='also patches of 64 to 256 and batches of 1 to 8')
    parser.add_argument('--out', type=Path, help='write the figures and versions as JSON to this file')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.give_back:
        keep_freed_memory(torch.device(args.device))  # as the commands do
    torch.manual_seed(0)
    return args


def networks(task: str, device: str) -> dict[str, HCFlowNet]:
    """The paper's network by plain autograd and in both memory modes, with equal weights, actnorms started."""
    default = HCFlowNet(SCALE, task).to(device)
    for norm in default.actnorms():
        norm.mark_initialized()
    low = HCFlowNet(SCALE, task, memory='low').to(device)
    low.load_state_dict(default.state_dict())
    return {'plain': plain(default), 'default': default, 'low': low}


def yardstick(device: str) -> RRDBNet:
    """BasicSR's network of 23 RRDBs."""
    return RRDBNet(3, 3, num_feat=64, num_block=23, num_grow_ch=32).to(device)


def images(batch: int, patch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(LR, HR) of random values: neither time nor memory depends on them."""
    return torch.rand(batch, 3, patch // SCALE, patch // SCALE, device=device), torch.rand(
        batch, 3, patch, patch, device=device)


def training_loss(net, lq: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """nll (super-resolution), the paper's three losses (rescaling), L1 (yardstick)."""
    if isinstance(net, RRDBNet):
        return (net(lq) - gt).abs().mean()
    code = net(lq, gt)
    if net.task == 'sr':
        return code.nll.mean()
    rounded = code.lq + ((code.lq * 255).round() / 255 - code.lq).detach()
    latent = sum(z.square().sum() for z in code.latents) / sum(z.numel() for z in code.latents)
    return (0.05 * (code.lq - lq).square().mean() + 1e-5 * latent
            + (net(rounded, temperature=1.) - gt).abs().mean())


def training_step(net, lq: torch.Tensor, gt: torch.Tensor, amp: bool = False):
    """A function that runs one step, the optimizer apart; `amp`: in bfloat16, as with `train.amp`."""
    def step():
        net.zero_grad()
        with mixed_precision(lq.device, amp):
            loss = training_loss(net, lq, gt)
        loss.backward()
    return step


def mixed_precision(device: torch.device, enabled: bool = True) -> torch.autocast:
    """What `train.amp` and `val.amp` switch on."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def kept_bytes(net, patch: int, device: str = 'cpu', batch: int = 1) -> int:
    """Bytes that training keeps for backward per image: each storage once, parameters left out.

    Those of `batch` + 1 images minus those of `batch`, so what does not grow with the batch is left out, too.
    """
    def measure(num_images):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = training_loss(net, *images(num_images, patch, device))
        assert loss.requires_grad  # alive until here, and with it all that is kept: no storage is counted twice
        return sum(storages.values())
    return measure(batch + 1) - measure(batch)


def time_in_turns(functions: dict, repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function, run in turns (A B C A B C ...) so that a busy machine slows all alike."""
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            _synchronize(device)
            start = time.perf_counter()
            function()
            _synchronize(device)
            if turn > 0:  # the first turn only warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _synchronize(device):
    if str(device).startswith('cuda'):
        torch.cuda.synchronize()


def print_table(title: str, header: list[str], rows: list[list]) -> None:
    """Print an aligned table."""
    cells = [header] + [[f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    print(f'\n{title}')
    for row in cells:
        print('  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths, strict=True))))


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of convolutions and matrix products while it is on, in 1e9.

    By PyTorch's table of operations, which takes no account of groups backward; its FlopCounterMode also follows
    modules by hooks, which `memory: low` does not allow.
    """

    def __init__(self):
        super().__init__()
        self.count = 0.

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        operation = func._overloadpacket
        if operation == torch.ops.aten.convolution_backward:
            grad, _, weight, *_, wanted = args
            self.count += sum(wanted[:2]) * grad[:, 0].numel() * weight.numel() / 1e9
        elif operation in flop_registry:
            self.count += flop_registry[operation](*args, **(kwargs or {}), out_val=out) / 2e9
        return out


def multiplications(function) -> float:
    """Those that a function runs, in 1e9."""
    with Multiplications() as counter:
        function()
    return counter.count


def ratio_table(title: str, functions: dict, seconds: dict[str, float]) -> None:
    """Print seconds beside their ratio to the yardstick and to the plain path, and multiplications beside theirs."""
    counts = {name: multiplications(function) for name, function in functions.items()}
    print_table(title, ['', 'seconds', f'/ {YARDSTICK}', '/ plain', 'GMAC', f'/ {YARDSTICK}'],
                [[name, value, value / seconds[YARDSTICK], value / seconds['plain'], counts[name],
                  counts[name] / counts[YARDSTICK]] for name, value in seconds.items()])


def write_json(args: argparse.Namespace, figures: dict) -> None:
    """Write figures, settings and versions to --out, where given."""
    if args.out is None:
        return
    name = torch.cuda.get_device_name() if args.device.startswith('cuda') else platform.processor() or 'CPU'
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    versions = {'python': platform.python_version(), 'torch': torch.__version__, 'hcflow': hcflow_arch.__version__}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({'settings': settings, 'device': name, 'versions': versions, 'figures': figures},
                                   indent=2) + '\n')
