"""How many kernels the network starts: what a GPU waits for where starting a kernel takes longer than running it.

    python -m benchmarks.kernels --out results/kernels.json

Counts PyTorch's operations, without views, allocations and metadata, in the paper's x4 network with few channels: the
number of operations depends on its layers, not on channels. No GPU is needed. A GPU may start several kernels for an
operation: a convolution whose input is not contiguous first copies it.
"""
import argparse
import collections
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hcflow_arch import HCFlowNet
from hcflow_arch.discriminator_arch import HCFlowVGGDiscriminator

from . import common

NO_KERNEL = {'empty', 'empty_like', 'empty_strided', 'new_empty', 'new_empty_strided', '_unsafe_view', 'lift_fresh',
             'is_same_size'}
FEW = {'num_feat': 4, 'num_grow_ch': 2, 'hidden_channels': 4}  # channels
MOST = 16  # kinds in the table


class Kernels(TorchDispatchMode):
    """Counts operations that start a kernel while it is on.

    Attributes:
        counts: {operation: number}.
    """

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if func.namespace != 'prim' and not func.is_view and name not in NO_KERNEL:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def kernels(function) -> collections.Counter:
    """{operation: number} of the kernels that a function starts."""
    with Kernels() as counter:
        function()
    return counter.counts


def decode_step(net, lq: torch.Tensor):
    """A function that draws an image without gradients."""
    @torch.no_grad()
    def step():
        net.decode(lq, net.draw_latents(lq, 0.9))
    return step


def gan_iteration(net, lq: torch.Tensor, gt: torch.Tensor):
    """A function that runs what an iteration of HCFlow++ does, the perceptual loss and optimizers apart."""
    net_d = HCFlowVGGDiscriminator(num_feat=2, input_size=gt.shape[2]).to(gt.device)
    nll_step = common.training_step(net, lq, gt)

    def iteration():
        nll_step()
        net.zero_grad()
        (net(lq, latents=net.draw_latents(lq, 0)) - gt).abs().mean().backward()
        net.zero_grad()
        fake = net(lq, latents=net.draw_latents(lq, 0.9))
        F.softplus(-net_d.requires_grad_(False)(fake)).mean().backward()
        net_d.requires_grad_(True).zero_grad()
        (F.softplus(-net_d(gt)).mean() + F.softplus(net_d(fake.detach())).mean()).backward()
    return iteration


def measure(device: str = 'cpu', batch: int = 1, patch: int = 64, channels_last: bool = False,
            forms: tuple[str, ...] = ('plain', 'default', 'low')) -> dict[str, collections.Counter]:
    """{'nll step, plain': {operation: number}, ...}."""
    lq, gt = common.images(batch, patch, device)
    figures = {}
    for form in forms:
        memory = 'low' if form == 'low' else 'default'
        net = HCFlowNet(common.SCALE, memory=memory, channels_last=channels_last, **FEW).to(device)
        for norm in net.actnorms():
            norm.mark_initialized()
        net = common.plain(net) if form == 'plain' else net
        steps = {'nll step': common.training_step(net, lq, gt), 'decode': decode_step(net, lq),
                 'GAN iteration': gan_iteration(net, lq, gt)}
        for name, step in steps.items():
            if (name, form) != ('decode', 'low'):  # the same as default
                step()  # what is kept from now on
                figures[f'{name}, {form}'] = kernels(step)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--patch', type=int, default=64, help='side of the HR patches in pixels')
    parser.add_argument('--channels_last', action='store_true', help='our features and weights channels last')
    parser.add_argument('--out', type=Path, help='write the figures and versions as JSON to this file')
    args = parser.parse_args()
    figures = measure(args.device, args.batch, args.patch, args.channels_last)
    totals = sum(figures.values(), collections.Counter())
    kinds = [kind for kind, _ in totals.most_common(MOST)]
    rows = [[kind, *(counts[kind] for counts in figures.values())] for kind in kinds]
    rows.append(['others', *(sum(counts.values()) - sum(counts[kind] for kind in kinds)
                             for counts in figures.values())])
    rows.append(['all', *(sum(counts.values()) for counts in figures.values())])
    common.print_table(f'x4 sr, operations that start a kernel, HR patch {args.patch}, batch {args.batch}',
                       ['', *figures], rows)
    common.write_json(args, figures)


if __name__ == '__main__':
    main()
