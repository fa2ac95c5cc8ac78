"""Trading time for memory in training."""
import torch
from torch.utils.checkpoint import checkpoint


def recomputed(function, *args):
    """`function(*args)`, of which only the arguments are kept; backward runs it again to get what it needs.

    Right under DistributedDataParallel, autocast and repeated use. The function must draw no random numbers, and must
    do the same both times: what starts from data is started by the first run.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
