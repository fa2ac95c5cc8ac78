"""How close the 1x1 matrices of a flow are to being singular."""
import math

import torch

from .layers import InvertibleConv1x1

# Layers run in float32 with a relative precision of 6e-8. A matrix with condition number 1e4 turns that into 6e-4 in
# the inverse, a sixth of an 8-bit step. With a few of them in a chain, decode no longer inverts encode.
MAX_CONDITION = 1e4


def largest_condition_number(net: torch.nn.Module) -> float:
    """The largest of :func:`condition_numbers`; 1 without matrices. Synchronizes with a GPU."""
    return max(condition_numbers(net).values(), default=1.)


@torch.no_grad()
def condition_numbers(net: torch.nn.Module) -> dict[str, float]:
    """Largest divided by smallest singular value of each 1x1 matrix, in float64.

    Args:
        net: HCFlowNet, or any module with InvertibleConv1x1 in it.

    Returns:
        {name of the layer: number}; inf if a matrix is singular or not finite.
    """
    weights = {name: module.weight for name, module in net.named_modules() if isinstance(module, InvertibleConv1x1)}
    sizes = {}
    for name, weight in weights.items():
        sizes.setdefault(len(weight), []).append(name)
    numbers = {}
    for names in sizes.values():
        matrices = torch.stack([weights[name] for name in names]).cpu().double()  # small matrices are faster on a CPU
        finite = matrices.isfinite().flatten(1).all(1)
        values = torch.linalg.svdvals(matrices.where(finite[:, None, None], torch.zeros(())))
        conditions = (values[:, 0] / values[:, -1]).where(values[:, -1] > 0, torch.tensor(math.inf))
        numbers.update(zip(names, conditions.tolist(), strict=True))
    return {name: numbers[name] for name in weights}
