"""Errors while an image is read name its file; BasicSR's datasets raise whatever the missing image led to."""
import os

import cv2
import numpy as np
from basicsr.utils import FileClient
from torch.utils.data import Dataset

from hcflow_arch import InputError


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
        try:
            return self.dataset[index]
        except InputError:
            raise
        except Exception as error:
            raise InputError(describe_data_error(self.dataset, index, error)) from error


def describe_data_error(dataset: Dataset, index: int, error: Exception) -> str:
    """What is wrong with the files of one item.

    Args:
        dataset: A dataset of BasicSR: `paths` holds a path, or a dict of `lq_path` and `gt_path`, for every index.
        index: The item.
        error: What reading it raised.

    Returns:
        The message, with the file at fault if one of them cannot be read, else with all of them and their sizes.
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
    what = ' and '.join(sizes) or f'item {item} of dataset {getattr(dataset, "opt", {}).get("name")}'
    return f'Image {what}: {_text_of(error)}'


def _text_of(error):
    if isinstance(error, OSError):
        return str(error)  # with the file's name
    text = ''.join(str(part) for part in error.args)  # BasicSR hands over pieces of a sentence
    if isinstance(error, ValueError) and text:
        return text
    return f'{text} ({type(error).__name__})' if text else type(error).__name__  # "x" alone would say nothing


def _size_or_problem(dataset, key, path):
    """(height, width) of an image, a sentence on why it cannot be read, or None where the file cannot be told."""
    client = getattr(dataset, 'file_client', None) or FileClient('disk')
    try:
        content = client.get(path, key)
    except OSError as error:
        return f'Image {path} cannot be read: {error.strerror}.'
    except InputError as error:
        return str(error)
    except KeyError:  # a dataset that calls its LMDB otherwise
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
