"""How close the 1x1 matrices of a flow are to losing their inverse."""
import math

import torch

from .layers import InvertibleConv1x1

# Layers run in float32, of relative precision 6e-8. A matrix of condition 1e4 turns that into 6e-4 in its inverse, a
# sixth of an 8-bit step: a few of them in a chain, and decode no longer restores what encode was given.
MAX_CONDITION = 1e4


def largest_condition_number(net: torch.nn.Module) -> float:
    """The largest of :func:`condition_numbers`; 1 without matrices. Reading it makes a GPU wait."""
    return max(condition_numbers(net).values(), default=1.)


@torch.no_grad()
def condition_numbers(net: torch.nn.Module) -> dict[str, float]:
    """Of each 1x1 matrix: largest over smallest singular value. Matrices of equal size are one call in float64.

    Args:
        net: HCFlowNet, or any module with InvertibleConv1x1 in it.

    Returns:
        {name of the layer: number}; inf where a matrix is singular or not finite.
    """
    weights = {name: module.weight for name, module in net.named_modules() if isinstance(module, InvertibleConv1x1)}
    sizes = {}
    for name, weight in weights.items():
        sizes.setdefault(len(weight), []).append(name)
    numbers = {}
    for names in sizes.values():
        matrices = torch.stack([weights[name] for name in names]).double().cpu()  # small: decomposed faster by a CPU
        finite = matrices.isfinite().flatten(1).all(1)
        values = torch.linalg.svdvals(matrices.where(finite[:, None, None], torch.zeros(())))
        conditions = (values[:, 0] / values[:, -1]).where(values[:, -1] > 0, torch.tensor(math.inf))
        numbers.update(zip(names, conditions.tolist(), strict=True))
    return {name: numbers[name] for name in weights}
