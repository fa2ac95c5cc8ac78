"""Dense convolutions without gradients, compiled for a GPU: sums, biases and LeakyReLU become one kernel."""
import functools
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hcflow_arch.errors import InputError

from .modes import is_recording


def handed_on(x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor],
              slope: float) -> torch.Tensor:
    """Densely connected conv3x3, each reading the input and all earlier outputs, LeakyReLU after all but the last.

    The convolution of a concatenation is the sum of the convolutions of its parts. So each part is convolved once, with
    the weights of all convolutions that read it, and nothing is concatenated. Matrix units also prefer many outputs to
    32.

    Args:
        x: (N, C, H, W).
        weights: (G, C, 3, 3), (G, C + G, 3, 3), ..., the last with any number of outputs.
        biases: Biases of the convolutions.
        slope: Negative slope of the LeakyReLU.
    """
    starts = [0, *(weight.shape[1] for weight in weights)]  # first channel of x and of each output
    ends = list(itertools.accumulate(weight.shape[0] for weight in weights))
    sums = []  # what x and each output add to all later outputs
    for i, bias in enumerate([None, *biases]):
        if i > 0:  # output i - 1: its channels in all sums so far
            x = sum(part[:, first:first + len(bias)] for part, first in zip(sums, _offsets(ends, i), strict=True))
            x = x + bias.view(1, -1, 1, 1)
        if i == len(weights):
            return x
        part = F.leaky_relu(x, slope) if i > 0 else x
        readers = torch.cat([weight[:, starts[i]:starts[i + 1]] for weight in weights[i:]])
        sums.append(F.conv2d(part, readers, padding=1))


def _offsets(ends, i):
    """First channel of output i - 1 in each sum; sum k holds the outputs from k on."""
    begins = [0, *ends]
    return [begins[i - 1] - begins[k] for k in range(i)]


def compiled(x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor],
             slope: float) -> torch.Tensor:
    """:func:`handed_on`, compiled by torch.compile.

    Raises:
        InputError: This machine cannot compile it.
    """
    try:
        return _compile()(x, weights, biases, slope)
    except RuntimeError as error:
        of_dynamo = isinstance(error, torch._dynamo.exc.TorchDynamoException) or 'compile' in str(error)
        if not of_dynamo or is_recording(x.device):
            raise  # an error of the compiled code, such as out of memory; or the caller records and can do without
        reason = ' '.join(str(error).split())[:200]
        raise InputError('torch.compile fails here, which needs a C compiler and on a GPU Triton. Leave out --compile, '
                         f'or set network_g.compile: false ({reason}).') from error


@functools.cache
def _compile():
    return torch.compile(handed_on)  # compiles for the first size, and once more for all others
