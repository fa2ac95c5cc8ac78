"""Small images as a file stores them, encoded and decoded in memory (`val.compression`)."""
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch

from hcflow_model.images.arrays import to_array, to_tensor
from hcflow_model.images.files import encode_image


class Stored(NamedTuple):
    """An image after a file.

    Attributes:
        suffix: Of the labels of its rows: '' or '_jpeg90'.
        image: (1, 3, h, w), RGB in [0, 1].
        bits: Size of the file, in bits per pixel of this image. NaN: it was not stored.
    """
    suffix: str
    image: torch.Tensor
    bits: float


def stored(image: torch.Tensor, qualities: list[int | None] | None) -> Iterator[Stored]:
    """An image (1, 3, h, w), RGB in [0, 1], through a file of each quality: JPEG, or for None PNG, which loses nothing.

    `qualities` None: not stored at all.
    """
    if qualities is None:
        yield Stored('', image, float('nan'))
        return
    pixels = to_array(image, 3, np.dtype(np.uint8))
    for quality in qualities:
        content = encode_image('.png', pixels) if quality is None else encode_image('.jpg', pixels, quality=quality)
        bits = 8 * len(content) / pixels[..., 0].size
        if quality is None:
            yield Stored('', image, bits)
        else:
            decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
            yield Stored(f'_jpeg{quality}', to_tensor(decoded, image.device), bits)
