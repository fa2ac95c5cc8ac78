"""Noise as a field over the whole image: any window of it can be drawn alone, and windows agree where they overlap."""
import numpy as np
import torch

from hcflow_arch.flow.prior import scale_noise

BLOCK = 64  # positions on a side: small beside a tile, large beside the cost of starting a generator


class NoiseField:
    """Independent N(0, 1) at every position and channel of every level, for images of any size.

    A counter-based generator (Philox) is started anew for every block of positions, by seed, draw, level and place of
    the block. So what stands at a position depends on nothing else: not on the image's size, nor on the window.

    Args:
        seed (int): From 0 to 2**64 - 1.
        draw (int): Number of the sample of that seed, from 0 to 2**64 - 1. Default: 0.
        limit (float): Values beyond +-limit are clipped to it. Default: None.
    """

    def __init__(self, seed: int, draw: int = 0, limit: float | None = None):
        self.key, self.limit = np.array([seed, draw], np.uint64), limit

    def window(self, level: int, num_channels: int, rows: range, columns: range) -> np.ndarray:
        """The field of a level (0: finest) in a window.

        Args:
            level: Number of the level.
            num_channels: Its channels.
            rows, columns: Consecutive positions, from 0.

        Returns:
            ndarray: (num_channels, len(rows), len(columns)), float32.
        """
        out = np.empty((num_channels, len(rows), len(columns)), np.float32)
        for y in range(rows.start // BLOCK, -(-rows.stop // BLOCK)):
            for x in range(columns.start // BLOCK, -(-columns.stop // BLOCK)):
                block = self._block(level, num_channels, y, x)
                (out_y, in_y), (out_x, in_x) = _overlap(rows, y), _overlap(columns, x)
                out[:, out_y, out_x] = block[:, in_y, in_x]
        return out if self.limit is None else out.clip(-self.limit, self.limit)

    def latents(self, net: torch.nn.Module, rows: range, columns: range,
                temperature: float | torch.Tensor, device: torch.device | str = 'cpu') -> list[torch.Tensor]:
        """Latents temperature * noise of a window of the LR image, (1, C, h, w) each, finest level first.

        `temperature`: a number, or a map of the window, (1, 1, h, w).
        """
        shapes = net.latent_shapes(torch.empty(1, 3, len(rows), len(columns), device='meta'))
        latents = []
        for level, (_, channels, height, width) in enumerate(shapes):
            if not torch.is_tensor(temperature) and temperature == 0:
                latents.append(torch.zeros(1, channels, height, width, device=device))
                continue
            factor = height // len(rows)
            noise = self.window(level, channels, range(rows.start * factor, rows.stop * factor),
                                range(columns.start * factor, columns.stop * factor))
            latents.append(scale_noise(torch.from_numpy(noise)[None].to(device), temperature))
        return latents

    def _block(self, level, num_channels, y, x):
        # the first word of the counter counts within the block, the others are its place
        generator = np.random.Generator(np.random.Philox(key=self.key, counter=[0, level, y, x]))
        return generator.standard_normal((num_channels, BLOCK, BLOCK), np.float32)


def _overlap(positions: range, block: int) -> tuple[slice, slice]:
    """Where a block meets a range of positions: within the range, and within the block."""
    start, stop = max(positions.start, block * BLOCK), min(positions.stop, (block + 1) * BLOCK)
    return (slice(start - positions.start, stop - positions.start), slice(start - block * BLOCK, stop - block * BLOCK))
