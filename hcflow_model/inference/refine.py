"""Refining a small image: gradient descent on its pixels, for what the frozen network restores of it.

Image by image, as in collaborative downscaling (Xu et al., arXiv 2211.10643).
"""
import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from hcflow_arch import HCFlowNet, InputError

from .tiling import Tile

RATE = 1 / 255  # of Adam: about one grey level in a step
DECAY = 10  # steps: the rate falls as 1 / sqrt(1 + step / DECAY), whatever the number of steps
WEIGHT = 0.05


def check_refine(steps: int, weight: float, name: str = 'refine') -> None:
    """Refuse what is no number of steps from 0, or no weight from 0; `name`: how messages call the steps."""
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or not 0 <= steps <= 100_000:
        raise InputError(f'{name} is {steps!r}; it must be a whole number of steps from 0.')
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real) or not 0 <= weight < float('inf'):
        raise InputError(f'{name}_weight is {weight!r}; it must be a number from 0; {WEIGHT} is usual.')


def refine(net: HCFlowNet, small: torch.Tensor, tiles: Sequence[Tile], read: Callable[[range, range], torch.Tensor],
           steps: int, weight: float = WEIGHT, top: int | None = None,
           store: Callable[[torch.Tensor], torch.Tensor] | None = None,
           report: Callable[[], None] = lambda: None) -> torch.Tensor:
    """The small image of which the network restores most, of those that descent from its own small image meets.

    Minimized is the mean square error of what is restored at temperature 0, plus `weight` times that of the small image
    to the network's own. Gradients pass rounding (and `store`) straight through. Kept is the image with the least error
    of what is restored, both in the pixels that are saved. So more steps are never worse, nor are any than none.

    Args:
        net: Rescaling network, in eval mode. Its weights stay as they are.
        small: Its own small image, rounded, (1, C, h, w) in [0, 1]; C is 3, or 1 for grey images.
        tiles: In which it is restored; all of it.
        read: Returns the original's pixels of a tile's own rows and columns of the small image, (1, C, H, W); less
            than scale * (h, w) where the original ends.
        steps: From 0.
        weight: From 0. Default: 0.05.
        top: Value that stands for 1 in saved pixels, 255 or 65535. Default: None, they are floats, not rounded.
        store: What a file that loses detail gives back of a small image. Default: None, the same.
        report: Called after each tile of each step.

    Returns:
        As `small`.
    """
    def window(image, tile):
        rows, columns = tile.outer_rows, tile.outer_columns
        return image[:, :, rows.start:rows.stop, columns.start:columns.stop]

    def saved(image):
        return image if top is None else (image * top).round() / top

    best, least = small, float('inf')
    with torch.inference_mode(False), _frozen(net):
        value = small.clone().requires_grad_()
        optimizer = torch.optim.Adam([value], RATE, eps=1e-12)  # gradients of a mean over pixels are small
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + step / DECAY)**-0.5)
        for step in range(steps + 1):
            with torch.no_grad():
                image = saved(value.clamp_(0, 1).detach().clone())
                read_again = image if store is None else store(image)
            is_last, error, value.grad = step == steps, 0., torch.zeros_like(value)
            for tile in tiles:
                with torch.set_grad_enabled(not is_last):
                    pixels = window(read_again, tile).clone().requires_grad_(not is_last)
                    restored = tile.crop(net.decode(pixels.expand(-1, 3, -1, -1), temperature=0), net.scale).float()
                    if small.shape[1] == 1:
                        restored = restored.mean(1, keepdim=True)
                    target = read(tile.rows, tile.columns)
                    restored = restored[:, :, :target.shape[2], :target.shape[3]]
                    if not is_last:
                        loss = (restored - target).square().sum() / net.scale**2
                        window(value.grad, tile).add_(torch.autograd.grad(loss, pixels)[0])
                error += (saved(restored.detach()) - target).square().sum().item()
                report()
            if error < least:
                best, least = image, error
            value.grad += 2 * weight * (value.detach() - small)
            optimizer.step()
            schedule.step()
    return best


@contextmanager
def _frozen(net: torch.nn.Module) -> Iterator[None]:
    """Within it the weights take no gradients."""
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
