"""Errors while an image is read name its file; BasicSR's datasets raise whatever the missing image led to."""
import os
from collections.abc import Mapping

import cv2
import numpy as np
import torch
from basicsr.utils import FileClient
from torch.utils.data import Dataset

from hcflow_arch import InputError
from hcflow_model.utils.errors import error_text, said_by

MAX_VALUE = 16  # of images in [0, 1]: those that overshoot pass, those in [0, 255] do not


class NamedErrors(Dataset):
    """A dataset whose errors are one line that names the files.

    Args:
        dataset (Dataset): Any of BasicSR's; all else is as it has it.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __getattr__(self, name):
        if name == 'dataset':  # asked for while a worker unpickles it
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return read_item(self.dataset, index)


def read_item(dataset: Dataset, index: int) -> dict:
    """An item of a dataset of BasicSR or of a plugin.

    Raises:
        InputError: Its files cannot be used. Every other exception is a bug of the dataset.
    """
    try:
        return dataset[index]
    except InputError:
        raise
    except Exception as error:  # a file that is broken can make a dataset raise anything
        problem = describe_data_error(dataset, index, error)
        if problem is None:
            raise
        raise InputError(problem) from error


def describe_data_error(dataset: Dataset, index: int, error: Exception) -> str | None:
    """What is wrong with the files of one item.

    Args:
        dataset: A dataset of BasicSR: `paths` holds a path, or a dict of `lq_path` and `gt_path`, for every index.
        index: The item.
        error: What reading it raised.

    Returns:
        The message, with the file at fault if one of them cannot be read, else with all of them and their sizes. None
        where nothing is wrong with them: a bug of the dataset.
    """
    paths = getattr(dataset, 'paths', None)
    item = paths[index] if isinstance(paths, (list, tuple)) and index < len(paths) else index
    if isinstance(item, dict):
        files = {key.removesuffix('_path'): path for key, path in item.items()}
    else:
        files = {'lq' if hasattr(dataset, 'lq_folder') else 'gt': item} if isinstance(item, str) else {}
    sizes = []
    for key, path in files.items():
        size = _size_or_problem(dataset, key, path)
        if isinstance(size, str):
            return size
        sizes.append(f'{path} ({key}, {size[0]}x{size[1]})' if size else path)
    if not is_over_data(error, type(dataset)):
        return None
    what = ' and '.join(sizes) or f'item {item} of dataset {getattr(dataset, "opt", {}).get("name")}'
    return f'Image {what}: {error_text(error)}'


def batch_problem(batch: Mapping, dataset: str | None, every_device: bool = False) -> str | None:
    """What is wrong with the values of a batch's images; it names the first such image. None if nothing is.

    Args:
        batch: As a loader gives it: gt and lq, (N, C, H, W), and maybe their files, gt_path and lq_path.
        dataset: Its name.
        every_device: Also look at images on a GPU, for which the CPU has to wait.
    """
    for key in ('gt', 'lq'):
        images = batch.get(key)
        if not torch.is_tensor(images) or not (every_device or images.device.type == 'cpu'):
            continue
        peaks = images.detach().abs().flatten(1).amax(dim=1)
        bad = (~(peaks <= MAX_VALUE)).nonzero().flatten().tolist()  # NaN is not below anything
        if not bad:
            continue
        image, paths = images[bad[0]], batch.get(f'{key}_path') or batch.get('gt_path') or batch.get('lq_path')
        name = paths[bad[0]] if paths else f'{bad[0] + 1} of a batch'
        what = (f'values from {image.min():.4g} to {image.max():.4g}; images are in [0, 1]. Divide 8-bit values by 255'
                if image.isfinite().all() else 'values that are NaN or infinite; mend it or take it out')
        return f'Image {name} ({key}) of dataset {dataset} has {what}.'
    return None


def is_over_data(error: Exception, kind: type) -> bool:
    """Whether a dataset (of class `kind`) that cannot be made or read says what is wrong with its files or options."""
    if isinstance(error, OSError):
        return error.filename is not None
    return isinstance(error, MemoryError) or said_by(error, 'basicsr', kind.__module__.partition('.')[0])


def _size_or_problem(dataset, key, path):
    """(height, width) of an image, a sentence on why it cannot be read, or None where the file cannot be told."""
    client = getattr(dataset, 'file_client', None) or FileClient('disk')
    try:
        content = client.get(path, key) or b''
    except OSError as error:
        return f'Image {path} cannot be read: {error.strerror}.'
    except InputError as error:
        return str(error)
    except (KeyError, AssertionError):  # a dataset that calls its LMDB otherwise
        return None
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        folder = getattr(dataset, f'{key}_folder', None)
        where = f' (in {folder})' if folder and not os.path.isabs(path) and not os.path.exists(path) else ''
        return (f'Image {path}{where} is broken or no image ({len(content)} bytes); replace it or take it out.')
    return image.shape[:2]
