"""Several folders or LMDBs as one dataset, in training with shares: `dataroot_gt: [a.lmdb, b]`, `shares: [3, 1]`."""
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from hcflow_arch import InputError
from hcflow_model.utils.registries import is_known

ROOTS = ('dataroot_gt', 'dataroot_lq')
OF_A_ROOT = (*ROOTS, 'meta_info_file', 'meta_info', 'filename_tmpl')  # may be lists, with a value for each folder
MAX_IMAGES = 10 ** 8  # of an epoch: their order is a list in memory


def blocks_of(name: str, dataset_opt: Mapping) -> list[dict]:
    """The blocks of a dataset's folders, for datasets of BasicSR and ours.

    Each folder is read as what it is: as an LMDB if its name ends in .lmdb, else as files.

    Args:
        name: Place of the block, such as 'datasets.train', for messages.
        dataset_opt: A block of `datasets`.

    Returns:
        One block for each folder; empty if it has no list of folders.

    Raises:
        InputError: Lists that do not belong together, or shares that cannot be.
    """
    lists = {key: dataset_opt[key] for key in OF_A_ROOT if isinstance(dataset_opt.get(key), (list, tuple))}
    shares = dataset_opt.get('shares')
    if not is_known(dataset_opt['type'], DATASET_REGISTRY) or not lists and shares is None:
        return []
    roots = [key for key in ROOTS if dataset_opt.get(key) is not None]
    for key in roots:
        if key not in lists or not lists[key] or not all(isinstance(root, str) for root in lists[key]):
            raise InputError(f"'{name}.{key}' is {dataset_opt[key]!r}; beside shares or a list it must be a list of "
                             'folders.')
    counts = {key: len(values) for key, values in lists.items()}
    if shares is not None:
        counts['shares'] = len(shares)
    if not roots or len(set(counts.values())) > 1:
        raise InputError(f"'{name}': " + ', '.join(f'{key} has {count}' for key, count in counts.items()) +
                         '; its lists must have a value for each folder (~: none).')
    if shares is not None and not all(isinstance(share, (int, float)) and not isinstance(share, bool) and share > 0
                                      for share in shares):
        raise InputError(f"'{name}.shares' is {shares!r}; it must be a list of numbers above 0.")
    if shares is not None and dataset_opt.get('phase') != 'train':
        raise InputError(f"'{name}.shares' has no effect: validation and tests take every image once. Remove it.")
    blocks = []
    for number in range(counts[roots[0]]):
        block = {key: value for key, value in dataset_opt.items() if key not in ('shares', *lists)}
        block.update({key: values[number] for key, values in lists.items() if values[number] is not None})
        kind = 'lmdb' if block[roots[0]].endswith('.lmdb') else 'disk'
        blocks.append({**block, 'io_backend': {**(block.get('io_backend') or {}), 'type': kind}})
    return blocks


class Mixture(Dataset):
    """One dataset of several.

    With shares, an epoch has as many images of each part as its share says, exactly but for rounding, and all images of
    each part at least once. So those of some parts come several times; within a part, no image comes more than once
    more than another. The order is that of the sampler, so that a resumed training goes on exactly.

    Args:
        datasets (Sequence[Dataset]): The parts.
        opt (dict): The block of the whole.
        shares (Sequence[float] | None): Share of each part, in any unit. Default: every image once.

    Raises:
        InputError: An epoch would have too many images.
    """

    def __init__(self, datasets: Sequence[Dataset], opt: Mapping, shares: Sequence[float] | None = None):
        self.datasets, self.opt = datasets, opt
        counts = [len(dataset) for dataset in datasets]
        if shares is not None:
            longest = max(count / share for count, share in zip(counts, shares, strict=True))
            counts = [round(longest * share) for share in shares]
        self.ends = list(accumulate(counts))
        if len(self) > MAX_IMAGES:
            raise InputError(f'Dataset {opt["name"]}: by its shares {list(shares)}, an epoch has {len(self)} images, '
                             'so that each comes at least once. Take shares nearer to the numbers of images.')
        if shares is None and all(isinstance(getattr(dataset, 'paths', None), list) for dataset in datasets):
            self.paths = [path for dataset in datasets for path in dataset.paths]  # validation names images by them

    def __len__(self):
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict:
        """An item of a part, by its place in the epoch before shuffling."""
        part = bisect_right(self.ends, index)
        dataset = self.datasets[part]
        return dataset[(index - (self.ends[part - 1] if part else 0)) % len(dataset)]
