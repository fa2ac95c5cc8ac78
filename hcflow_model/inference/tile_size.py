"""Estimates the memory of an image and tiles it if it does not fit."""
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from hcflow_arch import HCFlowNet, InputError
from hcflow_model.utils.memory import is_out_of_memory, return_freed_memory

from .onnx_net import OnnxNet
from .tiling import DEFAULT_TILE, MIN_TILE

LOGGER = logging.getLogger('basicsr')  # BasicSR's, which need not be there
CGROUP = Path('/sys/fs/cgroup')  # version 2
SHARE = 0.6  # of the free memory that an image may take by the estimate
GRADIENTS = 6  # times the memory of decoding


def in_tiles_that_fit(net: HCFlowNet, size: tuple[int, int], tile: int | None,
                      run: Callable[[int | None], None], gradients: bool = False) -> None:
    """Call `run(tile)`. Without a given size, try the whole image if it fits, else tiles, and smaller ones on failure.

    Args:
        net: The network.
        size: (height, width) of the LR image.
        tile: Given tile size; None: as large as possible.
        run: Processes the image in tiles of that size (None: whole). Each call starts anew.
        gradients: Whether it computes gradients of pixels. Default: False.

    Raises:
        InputError: The smallest tiles, or those of the given size, do not fit.
    """
    chosen = tile
    if tile is None:
        needed, free = memory_needed(net, *size), free_memory(device_of(net))
        needed *= GRADIENTS if gradients else 1
        if free is not None and needed > SHARE * free and max(size) > DEFAULT_TILE:
            chosen = DEFAULT_TILE
            _say(size, chosen, f' (about {needed / 2**30:.3g} GiB of {free / 2**30:.3g} GiB)')
    while True:
        try:
            return run(chosen)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if tile is not None or chosen == MIN_TILE:
            raise InputError(f'Memory is not enough for tiles of {chosen} LR pixels; take smaller tiles (from '
                             f'{MIN_TILE}), or close other programs.')
        smaller = min(DEFAULT_TILE, (chosen or max(size)) // 2)
        chosen = max(MIN_TILE, smaller)
        _say(size, chosen, '')


def _say(size, tile, why):
    LOGGER.warning(f'An LR image of {size[0]}x{size[1]} does not fit into memory whole{why}: it goes '
                   f'through the network in tiles of {tile}.')


def memory_needed(net: HCFlowNet, height: int, width: int) -> int:
    """Estimate of the bytes that decoding an LR image needs beside the network.

    Counted is the widest place of the finest level, features of all levels and what convolutions make of them, and
    the HR image some times over; the two factors were fitted to what runs on a CPU took.
    """
    if isinstance(net, OnnxNet):
        return net.facts.bytes_per_pixel * height * width
    finest = net.levels[0]
    context = sum(level.prior[-1].head.weight.shape[1] for level in net.levels)
    widest = max(parameter.shape[0] + parameter.shape[1] for parameter in finest.parameters() if parameter.dim() == 4)
    return 4 * (3 * context // 2 + 7 * widest // 2 + 60) * height * width * (net.scale // 2)**2


def device_of(net: HCFlowNet) -> torch.device:
    """Where a network takes its images; one that ONNX Runtime runs, on the CPU."""
    return next((parameter.device for parameter in net.parameters()), torch.device('cpu'))


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where that cannot be told."""
    if device.type == 'cuda':
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, to be used again
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type != 'cpu':
        return None
    return_freed_memory()
    limits = []
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        limits += [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
        limit, used = (int((CGROUP / name).read_text()) for name in ('memory.max', 'memory.current'))
        limits.append(limit - used)  # of a container
        cached = dict(line.split() for line in (CGROUP / 'memory.stat').read_text().splitlines())['inactive_file']
        limits[-1] += int(cached)  # what is cached of files makes room by itself
    except (OSError, ValueError, KeyError):  # another system, or 'max'
        pass
    return min(limits, default=None)
