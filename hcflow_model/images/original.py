"""What a downscaled image says of its original: in a text chunk of a PNG, in the EXIF comment of a JPEG or WebP."""
import hashlib
import json
import os
from typing import NamedTuple

import numpy as np
import torch

from hcflow_arch import InputError

KEYWORD = 'hcflow'
TYPES = ('uint8', 'uint16', 'float32')


class Sidecar(NamedTuple):
    """Facts of the original that the small image does not show.

    Attributes:
        height, width: Of the original.
        scale: Ratio of the sizes.
        type: Of the original's pixels: uint8, uint16 or float32 (whose small image has 16 bits).
        network: Digest of the network that made it small.
        is_grey: Whether it is grey, with or without alpha: WebP has colours always.
    """
    height: int
    width: int
    scale: int
    type: str
    network: str
    is_grey: bool = False

    @classmethod
    def of(cls, pixels: np.ndarray, net: torch.nn.Module) -> 'Sidecar':
        """The facts of an original, (H, W) or (H, W, C)."""
        is_grey = pixels.ndim == 2 or pixels.shape[2] < 3
        return cls(pixels.shape[0], pixels.shape[1], net.scale, str(pixels.dtype), digest(net), is_grey)

    def as_text(self) -> dict[str, str]:
        """For the text of a file, in ASCII."""
        return {KEYWORD: json.dumps(self._asdict())}

    @classmethod
    def from_text(cls, text: dict[str, str], path: str | os.PathLike, lr: np.ndarray, scale: int) -> 'Sidecar | None':
        """What a file's text says; None where it says nothing.

        Args:
            text: {keyword: text}.
            path: How messages call the file.
            lr: Its pixels.
            scale: Of the network that is to restore it.

        Raises:
            InputError: It is damaged, does not belong to these pixels, or to another scale.
        """
        if KEYWORD not in text:
            return None
        try:
            sidecar = cls(**json.loads(text[KEYWORD]))
            numbers = [int(number) for number in sidecar[:3]]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:  # also 1e999, brackets without end
            raise InputError(f'{path}: what it says of its original cannot be read; downscale the original '
                             'again.') from error
        sidecar = sidecar._replace(height=numbers[0], width=numbers[1], scale=numbers[2], network=str(sidecar.network))
        if sidecar.scale != scale:
            raise InputError(f'{path} was made small at scale {sidecar.scale}, the network has scale {scale}; take the '
                             'network that made it.')
        size = tuple(-(-length // scale) for length in (sidecar.height, sidecar.width))
        if size != lr.shape[:2] or sidecar.type not in TYPES:
            raise InputError(f'{path} is {lr.shape[0]}x{lr.shape[1]}, but its text names an original of '
                             f'{sidecar.height}x{sidecar.width} and type {sidecar.type}: it was changed since; '
                             'downscale the original again.')
        return sidecar

    def as_kind(self, lr: np.ndarray) -> np.ndarray:
        """The small image, grey again where the original is and the file has colours."""
        if not self.is_grey or lr.ndim == 2 or lr.shape[2] == 2:
            return lr
        return lr[..., 1] if lr.shape[2] == 3 else lr[..., [1, 3]]


def digest(net: torch.nn.Module) -> str:
    """A short fingerprint of a network's weights; an exported network carries that of its checkpoint."""
    if hasattr(net, 'digest'):
        return net.digest
    sha = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
