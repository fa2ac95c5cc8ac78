"""Checks of what a network is made from."""
from collections.abc import Sequence

from .errors import InputError

MAX_COUNT = 4096  # of steps, blocks and channels: a slip of the finger must not fill the memory


def check_counts(**counts: int) -> None:
    """Refuse arguments `network_g.NAME` that are no whole numbers from 1 to MAX_COUNT."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
            raise InputError(f'network_g.{name} is {value!r}; it must be a whole number from 1 to {MAX_COUNT}.')


def check_num_block(num_block: Sequence[int]) -> None:
    """Refuse what are not two numbers of RRDBs."""
    if isinstance(num_block, str) or not isinstance(num_block, Sequence) or len(num_block) != 2:
        raise InputError(f'network_g.num_block is {num_block!r}; it takes two numbers of RRDBs, such as [7, 7].')
    check_counts(**{f'num_block[{i}]': number for i, number in enumerate(num_block)})
