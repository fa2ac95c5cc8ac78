"""JPEG compression that gradients pass through, for batches on any device."""
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

# ITU-T T.81, Annex K, with rows of one vertical frequency: brightness and colour
LUMA = ((16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
        (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99))
CHROMA = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))  # all others are 99
TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
TO_RGB = ((1, 0, 1.402), (1, -0.344136286, -0.714136286), (1, 1.772, 0))


class JPEG(nn.Module):
    """What is read of an image that OpenCV or Pillow stores as JPEG by default, with colours at half the size (4:2:0).

    BasicSR's DiffJPEG (basicsr/utils/diffjpeg.py) enlarges the colours by repeating pixels, pads with black, and does
    not round its tables; decoders interpolate. So it is 33 to 40 dB from what libjpeg gives, this class 45 to 69 dB.
    Gradients pass all roundings straight through, and stop where values are clamped.
    """

    def __init__(self):
        super().__init__()
        frequency, position = torch.arange(8.)[:, None], torch.arange(8.)[None]
        dct = torch.cos((2 * position + 1) * frequency * torch.pi / 16) / 2
        dct[0] /= 2 ** 0.5
        chroma = torch.full((8, 8), 99.)
        chroma[:4, :4] = torch.tensor(CHROMA)
        for name, values in (('dct', dct), ('luma', torch.tensor(LUMA)), ('chroma', chroma),
                             ('to_ycbcr', torch.tensor(TO_YCBCR)), ('to_rgb', torch.tensor(TO_RGB))):
            self.register_buffer(name, values.float(), persistent=False)

    def forward(self, image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
        """Compress and decompress.

        Args:
            image: (N, 3, H, W), RGB in [0, 1]; clamped to it here. float32 or float64.
            quality: Of each image as in libjpeg, whole numbers from 1 to 100, (N,).

        Returns:
            (N, 3, H, W) in [0, 1], in 8 bits.
        """
        with torch.autocast(image.device.type, enabled=False):
            height, width = image.shape[2:]
            image = F.pad(image, (0, -width % 16, 0, -height % 16), mode='replicate')
            ycbcr = rounded(_mix(self.to_ycbcr, rounded(image.clamp(0, 1) * 255)))
            luma = self._store(ycbcr[:, :1] - 128, self.luma, quality)[:, :, :height, :width]
            chroma = F.avg_pool2d(ycbcr[:, 1:], 2)
            lift = torch.arange(chroma.shape[3], device=image.device) % 2 / 4 - 0.125  # halves: down, up in turns
            chroma = self._store(rounded(chroma + lift.to(chroma.dtype)), self.chroma, quality)
            chroma = chroma[:, :, :(height + 1) // 2, :(width + 1) // 2]
            chroma = rounded(F.interpolate(chroma, scale_factor=2, mode='bilinear'))[:, :, :height, :width]
            rgb = _mix(self.to_rgb, torch.cat([luma + 128, chroma], 1))
            return rounded(rgb).clamp(0, 255) / 255

    def _store(self, planes, table, quality):
        """Round the frequencies of planes (N, C, h, w) around 0, sides multiples of 8, and go back to pixels."""
        dct = self.dct.to(planes.dtype)
        steps = tables(table, quality).to(planes.dtype)[:, None, None, :, None]  # (N, 1, 1, 8, 1, 8)
        blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))
        values = torch.einsum('ux,nchxwy,vy->nchuwv', dct, blocks, dct)
        values = rounded(values * 8) / 8  # of libjpeg's transform, which is one of whole numbers
        values = rounded(values / steps + values.detach().sign() / 10000) * steps  # halves away from 0
        blocks = torch.einsum('ux,nchuwv,vy->nchxwy', dct, values, dct)
        return rounded(blocks.flatten(4, 5).flatten(2, 3)).clamp(-128, 127)


class RandomJPEG(nn.Module):
    """Stores images as JPEG of random qualities (`train.compression`).

    All draws are from PyTorch's generator of the device: seeded, saved and restored with a training, and recorded by
    CUDA graphs.

    Args:
        quality (Sequence[int]): Lowest and highest quality, from 1 to 100. Default: (50, 95).
        prob (float): Share of the images that are compressed; the others stay as they are. Default: 0.8.
    """

    def __init__(self, quality: Sequence[int] = (50, 95), prob: float = 0.8):
        super().__init__()
        self.quality, self.prob, self.jpeg = quality, prob, JPEG()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W), RGB in [0, 1] -> the same, each image of a quality of its own."""
        lowest, highest = self.quality
        count, device = len(image), image.device
        quality = torch.randint(lowest, highest + 1, (count,), device=device)
        chosen = torch.rand(count, device=device) < self.prob
        return torch.where(chosen[:, None, None, None], self.jpeg(image, quality), image)


def tables(base: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """The steps of the frequencies at these qualities (N,), whole numbers from 1 to 255: (N, 8, 8)."""
    quality = quality.to(base.dtype)[:, None, None]
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    return ((base * percent + 50) / 100).floor().clamp(1, 255)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """To whole numbers; gradients pass straight through."""
    return values + (values.detach().round() - values.detach())


def _mix(matrix, image):
    return torch.einsum('oi,nihw->nohw', matrix.to(image.dtype), image)
