"""Starting values of the flow. They change no layer, name or shape, so every checkpoint loads into either."""
import torch

from .errors import InputError
from .flow_layers import InvertibleConv1x1
from .squeeze_layers import SpaceToDepth

STARTS = ('paper', 'wavelet')


@torch.no_grad()
def apply_start(net: torch.nn.Module, start: str) -> None:
    """Set the starting values of an HCFlowNet.

    'paper': random orthogonal 1x1 matrices, actnorms started from the first batch, as layers are made.
    'wavelet': the untrained network downsamples by averaging. In the main path the first 1x1 matrix of each level
    is the averaging Haar transform of the squeezed pixels, and actnorms start as the identity without data, so the
    LR path is not standardized; all other 1x1 matrices are the identity. Subnets and conditional steps keep the data
    start.

    Args:
        net: HCFlowNet.
        start: One of STARTS.

    Raises:
        InputError: Unknown start.
    """
    if start not in STARTS:
        raise InputError(f'network_g.start is {start!r}; allowed are {STARTS}.')
    if start == 'paper':
        return
    for conv in (module for module in net.modules() if isinstance(module, InvertibleConv1x1)):
        torch.nn.init.eye_(conv.weight)
    for level in net.levels:
        if isinstance(level.main[0], SpaceToDepth):
            weight = level.main[1].conv1x1.weight
            weight.copy_(averaging_haar(weight.shape[0] // 4))
        for step in level.main[1:]:
            step.actnorm.mark_initialized()


def averaging_haar(num_channels: int) -> torch.Tensor:
    """The Haar transform of HaarSqueeze as a matrix on the channels of space-to-depth, (4C, 4C), entries +-1/4.

    Band-major rows: the first C are the 2x2 means. (The orthonormal +-1/2 would not start as an average.)
    """
    signs = torch.tensor([[1., 1., 1., 1.], [1., -1., 1., -1.], [1., 1., -1., -1.], [1., -1., -1., 1.]])
    matrix = torch.zeros(4, num_channels, num_channels, 4)
    for channel in range(num_channels):
        matrix[:, channel, channel] = signs / 4
    return matrix.reshape(4 * num_channels, 4 * num_channels)
