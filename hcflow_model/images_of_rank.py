"""Images to validate, shared among the ranks; one that cannot be read is told of, and the others go on."""
from os import path as osp

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hcflow_arch import InputError

from .data_errors import describe_data_error

MODCROP = 24  # LR images of test sets are made of HR images that were cropped to multiples of 12 or 24
EXIF_ORIENTATION = 0x0112


class ImagesOfRank(Dataset):
    """Every `world_size`-th image of a dataset, so that the ranks together have each image once.

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
            item = self.dataset[index]
            check_cropped_pair(item, self.dataset.opt.get('scale'))
            return index, self.collate_fn([item]), None
        except InputError as error:
            return index, None, str(error)
        except Exception as error:  # whatever a dataset raises: the others go on
            return index, None, describe_data_error(self.dataset, index, error)

    def __len__(self):
        return len(self.indices)

    def name(self, index: int) -> str:
        """How files, logs and reports call an image that cannot be read."""
        try:
            item = self.dataset.paths[index]
        except AttributeError:  # no dataset of BasicSR
            return f'item {index}'
        return image_name(item if isinstance(item, dict) else {'lq_path': item})


def image_name(item: dict) -> str:
    """The name of the LR file, or else of the HR file, without folder and ending."""
    return osp.splitext(osp.basename(item.get('lq_path', item.get('gt_path'))))[0]


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
    try:
        with Image.open(item['gt_path']) as image:
            width, height = image.size
            if image.getexif().get(EXIF_ORIENTATION, 1) >= 5:  # OpenCV turns it
                width, height = height, width
    except OSError:  # OpenCV reads formats that PIL does not
        return
    lq_height, lq_width = item['lq'].shape[-2:]
    if max(height - lq_height * scale, width - lq_width * scale) >= MODCROP:
        raise InputError(f'gt is {height}x{width} and lq {lq_height}x{lq_width}; at scale {scale} this LR image '
                         f'belongs to an HR image of {lq_height * scale}x{lq_width * scale}. Check scale and the '
                         f'pairs ({item["gt_path"]}).')


def images_of_rank(dataloader: DataLoader, rank: int = 0, world_size: int = 1) -> DataLoader:
    """A loader of this rank's images of `dataloader`, one by one, as :class:`ImagesOfRank` gives them.

    The images of other ranks are not read. Workers and pinned memory are those of `dataloader`.
    """
    images = ImagesOfRank(dataloader.dataset, dataloader.collate_fn, rank, world_size)
    return DataLoader(images, batch_size=None, num_workers=dataloader.num_workers, pin_memory=dataloader.pin_memory)
