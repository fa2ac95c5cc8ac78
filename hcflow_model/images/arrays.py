"""NumPy images to and from the network's tensors, by windows, so that large images are never floats as a whole."""
from typing import NamedTuple

import cv2
import numpy as np
import torch

from hcflow_arch import InputError

CHANNELS = (1, 2, 3, 4)


class Plane(NamedTuple):
    """Channels of an image that go through the network together: grey or BGR, or its alpha."""
    channels: slice
    is_alpha: bool


def check_array(name: str, image: np.ndarray) -> np.ndarray:
    """The image as (H, W, C), after refusing what is not an image.

    Args:
        name: How messages call it.
        image: (H, W) or (H, W, C), C being 1 (grey), 2 (grey, alpha), 3 (BGR) or 4 (BGRA); uint8, uint16 or floats in
            [0, 1].
    """
    if not isinstance(image, np.ndarray):
        raise InputError(f'{name} is a {type(image).__name__}; give a NumPy array (H, W, 3), BGR, as cv2.imread does.')
    if image.dtype not in (np.uint8, np.uint16) and image.dtype.kind != 'f':
        raise InputError(f'{name} has type {image.dtype}; allowed are uint8, uint16 and floats in [0, 1].')
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in CHANNELS or 0 in array.shape:
        raise InputError(f'{name} has shape {image.shape}; it must be (H, W), grey, or (H, W, C) with 1 (grey), 2 '
                         '(grey and alpha), 3 (BGR) or 4 channels (BGRA).')
    return array


def planes(array: np.ndarray) -> list[Plane]:
    """The parts of an image (H, W, C) that go through the network one after another."""
    count = array.shape[2]
    colours = count - (count in (2, 4))
    return [Plane(slice(0, colours), False)] + ([Plane(slice(colours, count), True)] if count > colours else [])


def spread_colours(array: np.ndarray) -> np.ndarray:
    """Give pixels (H, W, C) of alpha 0 the colours of the nearest other pixel; images without alpha stay."""
    clear = array[..., -1] == 0
    if array.shape[2] not in (2, 4) or clear.all() or not clear.any():
        return array
    labels = cv2.distanceTransformWithLabels(clear.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5,
                                             labelType=cv2.DIST_LABEL_PIXEL)[1]  # each pixel: of its nearest
    colours = np.empty((labels.max() + 1, array.shape[2] - 1), array.dtype)
    colours[labels[~clear]] = array[~clear, :-1]
    array = array.copy()
    array[clear, :-1] = colours[labels[clear]]
    return array


def to_tensor(array: np.ndarray, device: torch.device | str = 'cpu') -> torch.Tensor:
    """(h, w, 1) or (h, w, 3) BGR, of the types above -> (1, 3, h, w) RGB float32 in [0, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)[::-1].astype(np.float32))).to(device)
    values = values / _top(array.dtype) if array.dtype.kind == 'u' else values
    return values.expand(3, -1, -1)[None]


def to_array(tensor: torch.Tensor, channels: int, dtype: np.dtype) -> np.ndarray:
    """(1, 3, h, w) RGB, clamped to [0, 1] here -> (h, w, channels), grey (their mean) or BGR, rounded to integers."""
    values = tensor[0].float().clamp(0, 1)
    values = values.mean(0, keepdim=True) if channels == 1 else values.flip(0)
    if dtype.kind == 'u':
        values = (values * _top(dtype)).round()
    return values.permute(1, 2, 0).cpu().numpy().astype(dtype)


def reflected(array: np.ndarray, rows: range, columns: range) -> np.ndarray:
    """A window of an image, padded by reflection where it leaves the image at the bottom and right."""
    height, width = array.shape[:2]
    if rows.stop <= height and columns.stop <= width:
        return array[rows.start:rows.stop, columns.start:columns.stop]
    return array[_reflect(rows, height)][:, _reflect(columns, width)]


def _reflect(positions, length):
    index = np.arange(positions.start, positions.stop)
    return np.where(index < length, index, 2 * (length - 1) - index)


def _top(dtype):
    return float(np.iinfo(dtype).max)
