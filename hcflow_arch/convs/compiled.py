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

    A convolution of a concatenation is the sum of convolutions of its parts. So every part is convolved once, by the
    weights of all that read it, and nothing is concatenated; matrix units also prefer many outputs to 32.

    Args:
        x: (N, C, H, W).
        weights: (G, C, 3, 3), (G, C + G, 3, 3), ..., the last with any number of outputs.
        biases: Theirs.
        slope: Of the LeakyReLU.
    """
    starts = [0, *(weight.shape[1] for weight in weights)]  # the first channel of x and of each output
    ends = list(itertools.accumulate(weight.shape[0] for weight in weights))
    sums = []  # what x and each output add to all later outputs
    for i, bias in enumerate([None, *biases]):
        if i > 0:  # output i - 1: its places in all the sums so far
            x = sum(part[:, first:first + len(bias)] for part, first in zip(sums, _offsets(ends, i), strict=True))
            x = x + bias.view(1, -1, 1, 1)
        if i == len(weights):
            return x
        part = F.leaky_relu(x, slope) if i > 0 else x
        readers = torch.cat([weight[:, starts[i]:starts[i + 1]] for weight in weights[i:]])
        sums.append(F.conv2d(part, readers, padding=1))


def _offsets(ends, i):
    """Where output i - 1 begins in each of the sums: the k-th holds the outputs from k on."""
    begins = [0, *ends]
    return [begins[i - 1] - begins[k] for k in range(i)]


def compiled(x: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor],
             slope: float) -> torch.Tensor:
    """:func:`handed_on` by torch.compile.

    Raises:
        InputError: It cannot be compiled here.
    """
    try:
        return _compile()(x, weights, biases, slope)
    except RuntimeError as error:
        of_dynamo = isinstance(error, torch._dynamo.exc.TorchDynamoException) or 'compile' in str(error)
        if not of_dynamo or is_recording(x.device):
            raise  # of what was compiled, such as too little memory; or for who records, and can do without
        reason = ' '.join(str(error).split())[:200]
        raise InputError('torch.compile fails here, which needs a C compiler and on a GPU Triton. Leave out --compile, '
                         f'or set network_g.compile: false ({reason}).') from error


@functools.cache
def _compile():
    return torch.compile(handed_on)  # once for the first size, once more for all others
