"""How close the 1x1 matrices of a flow are to losing their inverse."""
import math

import torch

from .flow_layers import InvertibleConv1x1

# Layers run in float32, of relative precision 6e-8. A matrix of condition 1e4 turns that into 6e-4 in its inverse, a
# sixth of an 8-bit step: a few of them in a chain, and decode no longer restores what encode was given.
MAX_CONDITION = 1e4


@torch.no_grad()
def largest_condition_number(net: torch.nn.Module) -> float:
    """Of all 1x1 matrices: largest over smallest singular value. Matrices of equal size are one call in float64.

    Args:
        net: HCFlowNet, or any module with InvertibleConv1x1 in it.

    Returns:
        The number; inf where a matrix is singular or not finite; 1 without matrices. Reading it makes a GPU wait.
    """
    sizes = {}
    for module in net.modules():
        if isinstance(module, InvertibleConv1x1):
            sizes.setdefault(len(module.weight), []).append(module.weight)
    largest = 1.
    for weights in sizes.values():
        matrices = torch.stack(weights).double().cpu()  # small: decomposed faster by a CPU
        if not matrices.isfinite().all():
            return math.inf
        values = torch.linalg.svdvals(matrices)
        largest = max(largest, (values[:, 0] / values[:, -1]).max().item())
    return largest
