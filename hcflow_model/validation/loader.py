"""Images to validate, shared among the processes; an image that cannot be read is reported, and the others go on."""
from collections import Counter
from collections.abc import Callable, Sequence
from os import path as osp

from torch.utils.data import DataLoader, Dataset

from hcflow_arch import InputError
from hcflow_arch.checks import fit_to_scale
from hcflow_model.data.errors import read_item
from hcflow_model.images.files import image_size
from hcflow_model.metrics.measure import Metrics
from hcflow_model.utils.files import printable

MODCROP = 24  # LR images of test sets are made of HR images that were cropped to multiples of 12 or 24


class ImagesOfRank(Dataset):
    """Every `world_size`-th image of a dataset, so that all processes together have each image once.

    Args:
        dataset (Dataset): All images.
        collate_fn (Callable): Makes a batch of a list of items.
        rank (int): The first image. Default: 0.
        world_size (int): Distance of two images. Default: 1.
    """

    def __init__(self, dataset, collate_fn, rank=0, world_size=1):
        self.dataset, self.collate_fn = dataset, collate_fn
        self.indices = range(rank, len(dataset), world_size)
        self.names = _names_of(dataset)

    def __getitem__(self, position: int) -> tuple[int, dict | None, str | None]:
        """Get (index in the whole dataset, batch of one, None), or (index, None, what is wrong with the image)."""
        index = self.indices[position]
        item, problem = _item_or_problem(self.dataset, index)
        return index, None if problem else self.collate_fn([item]), problem

    def __len__(self):
        return len(self.indices)

    def name(self, index: int, item: dict | None = None) -> str:
        """How files, logs and reports call an image: by the LR file, or else the HR file.

        Args:
            index: Of the image in the whole dataset.
            item: What was read, for datasets without a list of paths. Default: None, nothing could be read.
        """
        if self.names and (item is None or _path_of(item) == _path_of(self.dataset.paths[index])):
            return self.names[index]
        return f'item {index}' if item is None else unique_names([_path_of(item)])[0]


def _names_of(dataset):
    """Of BasicSR's datasets, and others with a list of paths; of those without: none."""
    items = getattr(dataset, 'paths', None)
    paths = [_path_of(item) for item in items] if isinstance(items, (list, tuple)) else []
    fits = len(paths) == len(dataset) and all(isinstance(path, str) for path in paths)
    return unique_names(paths) if fits else []


def _path_of(item):
    return item.get('lq_path', item.get('gt_path')) if isinstance(item, dict) else item


def unique_names(paths: Sequence[str]) -> list[str]:
    """Names of files without folder and ending; with the ending, or a number, where two would be called the same.

    Bytes that are no UTF-8 are written out.
    """
    parts = [osp.splitext(osp.basename(printable(path))) for path in paths]
    seen = Counter(stem for stem, _ in parts)
    names = [f'{stem}_{ending[1:]}' if seen[stem] > 1 and ending else stem for stem, ending in parts]
    seen = Counter(names)
    return [f'{name}_{number}' if seen[name] > 1 else name for number, name in enumerate(names, 1)]


def check_cropped_pair(item: dict, scale: int | None) -> None:
    """Refuse a pair whose HR file is much larger than its LR image says; BasicSR has cropped it without a word.

    Args:
        item (dict): As PairedImageDataset gives it in validation; others pass.
        scale (int | None): Of the dataset; None: not checked.

    Raises:
        InputError: They show different pictures, or belong to another scale.
    """
    if scale is None or not {'lq', 'gt', 'gt_path'} <= item.keys() or not osp.isfile(item['gt_path']):
        return
    height, width = image_size(item['gt_path']) or (0, 0)  # 0: not known
    lq_height, lq_width = item['lq'].shape[-2:]
    if max(height - lq_height * scale, width - lq_width * scale) >= MODCROP:
        raise InputError(f'gt is {height}x{width} and lq {lq_height}x{lq_width}; at scale {scale} this LR image '
                         f'belongs to an HR image of {lq_height * scale}x{lq_width * scale}. Check scale and the '
                         f'pairs ({item["gt_path"]}).')


def check_validation_set(dataset: Dataset, check_batch: Callable[[dict], None], opt: dict) -> None:
    """Refuse a set of which no image can be used, before a training that would validate nothing.

    Args:
        dataset: Its images are read until one can be used, usually the first.
        check_batch: Raises InputError for an item without what the model needs.
        opt: All options.

    Raises:
        InputError: No image can be used, or none of `val.metrics` computed.
    """
    problem = 'it has no images.'
    metrics = Metrics((opt.get('val') or {}).get('metrics'), set())
    for item, problem in (_item_or_problem(dataset, index, check_batch) for index in range(len(dataset))):
        if problem is None:
            if 'gt' not in item and metrics.opt and all('img2' in inputs for inputs in metrics.inputs().values()):
                raise InputError(f'Dataset {dataset.opt["name"]} gives no ground truth, which all of val.metrics need; '
                                 'use a dataset with gt, such as PairedImageDataset, or remove the metrics.')
            return
    raise InputError(f'Dataset {dataset.opt["name"]}: none of its {len(dataset)} images can be used. The last: '
                     f'{problem}')


def _item_or_problem(dataset, index, check_batch=None):
    try:
        item = read_item(dataset, index)
        check_cropped_pair(item, dataset.opt.get('scale'))
        if check_batch is not None:
            check_batch(item)
            if dataset.opt.get('scale') and {'lq', 'gt'} <= item.keys():
                fit_to_scale(item['gt'][None], dataset.opt['scale'], item['lq'][None])  # refuses sizes that do not fit
        return item, None
    except InputError as error:
        return None, str(error)


def images_of_rank(dataloader: DataLoader, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of this process's images of `dataloader`, one by one, as :class:`ImagesOfRank` gives them.

    The images of other processes are not read. Workers and pinned memory are those of `dataloader`.
    """
    images = ImagesOfRank(dataloader.dataset, dataloader.collate_fn, rank, world_size)
    return DataLoader(images, batch_size=None, num_workers=dataloader.num_workers, pin_memory=dataloader.pin_memory)
