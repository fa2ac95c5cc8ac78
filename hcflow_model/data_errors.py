"""Images that cannot be read: which file it is and what is wrong with it, and how the others go on."""
from os import path as osp

from basicsr.utils import imfrombytes
from torch.utils.data import DataLoader, Dataset

from hcflow_arch import InputError


def paths_of_item(dataset: Dataset, index: int) -> dict[str, str]:
    """{'lq': file or LMDB key, 'gt': ...} of an item, of BasicSR's datasets and ours; {} where it cannot be told."""
    try:
        item = dataset.paths[index]
    except (AttributeError, IndexError, KeyError, TypeError):
        return {}
    if isinstance(item, dict):
        return {key.removesuffix('_path'): path for key, path in item.items()}
    return {'lq' if hasattr(dataset, 'lq_folder') else 'gt': str(item)}


def describe_data_error(dataset: Dataset, index: int, error: Exception) -> str:
    """One sentence for what a dataset raised: the file and what is wrong with it.

    BasicSR's datasets fail in the middle of decoding (NoneType has no astype), so the files are looked at again.

    Args:
        dataset: That raised, one of BasicSR's or ours.
        index: Of the item.
        error: What `dataset[index]` raised.
    """
    paths = paths_of_item(dataset, index)
    if isinstance(error, InputError) and (not paths or any(path in str(error) for path in paths.values())):
        return str(error)
    for key, path in paths.items():
        fault = _fault_of_file(dataset, key, path)
        if fault is not None:
            return f'{path} {fault}.'
    what = ' with '.join(paths.values()) or f'Item {index}'
    return f'{what} cannot be used: {type(error).__name__}: {" ".join(str(error).split())}'


def _fault_of_file(dataset, key, path):
    """What is wrong with one file, None where it is a whole image."""
    lmdb = 'db_paths' in (getattr(dataset, 'io_backend_opt', None) or {})
    where = f'(in {dataset.opt.get(f"dataroot_{key}")}) ' if lmdb else ''
    try:
        if lmdb:
            if dataset.file_client is None:
                return None  # it was the LMDB itself that could not be opened
            content = dataset.file_client.get(path, key)
        else:
            with open(path, 'rb') as file:
                content = file.read()
    except OSError as error:
        return f'cannot be read: {error.strerror or error}'
    except Exception as error:  # lmdb's, which has a class for each trouble
        return f'{where}cannot be read: {type(error).__name__}: {error}'
    if content is None:
        return f'{where}is missing'
    if not len(content):
        return f'{where}is empty'
    return f'{where}is broken or no image' if _decode(content) is None else None


def _decode(content):
    try:
        return imfrombytes(content)
    except Exception:  # OpenCV's for what it calls no image
        return None


class ImagesOfRank(Dataset):
    """Every so-manieth image of a dataset, so that the ranks together have each image once.

    Args:
        dataset (Dataset): All images.
        collate_fn (Callable): Makes a batch of a list of items.
        rank (int): The first image. Default: 0.
        world_size (int): Distance of two images. Default: 1.
    """

    def __init__(self, dataset, collate_fn, rank=0, world_size=1):
        self.dataset, self.collate_fn = dataset, collate_fn
        self.indices = range(rank, len(dataset), world_size)

    def __getitem__(self, position: int) -> tuple[int, dict | None, str | None]:
        """Get (index in the whole dataset, batch of one, None), or (index, None, what is wrong with the image)."""
        index = self.indices[position]
        try:
            return index, self.collate_fn([self.dataset[index]]), None
        except Exception as error:  # whatever a dataset raises: the others go on
            return index, None, describe_data_error(self.dataset, index, error)

    def __len__(self):
        return len(self.indices)

    def name(self, index: int) -> str:
        """How files, logs and reports call an image: its file name without folder and ending."""
        paths = paths_of_item(self.dataset, index)
        path = paths.get('lq', paths.get('gt', f'item {index}'))
        return osp.splitext(osp.basename(path))[0]


def images_of_rank(dataloader: DataLoader, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of this rank's images of `dataloader`, one by one, as :class:`ImagesOfRank` gives them.

    The images of other ranks are not read. Workers and pinned memory are those of `dataloader`.
    """
    images = ImagesOfRank(dataloader.dataset, dataloader.collate_fn, rank, world_size)
    return DataLoader(images, batch_size=None, num_workers=dataloader.num_workers, pin_memory=dataloader.pin_memory)
