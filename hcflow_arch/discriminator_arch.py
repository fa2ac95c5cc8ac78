import torch
import torch.nn as nn

from .errors import InputError


class HCFlowVGGDiscriminator(nn.Module):
    """VGG-style discriminator for square patches whose side is a multiple of 32 (160 in HCFlow++).

    Five stages, each a 3x3 convolution and a 4x4 convolution with stride 2, then two linear layers. Layers, parameter
    names and, for side 128, checkpoints are those of BasicSR's `VGGStyleDiscriminator` (SRGAN, ESRGAN), which only
    takes 128 or 256.

    Args:
        num_in_ch (int): Channels of the images. Default: 3.
        num_feat (int): Channels of the first stage; the stages have 1, 2, 4, 8, 8 times as many. Default: 64.
        input_size (int): Side of the patches in pixels (`datasets.train.gt_size`), a multiple of 32. Default: 160.

    Raises:
        InputError: `input_size` is not a positive multiple of 32.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, input_size: int = 160):
        super().__init__()
        if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size < 32 or input_size % 32:
            raise InputError(f'network_d.input_size must be a multiple of 32 (32, 64, ..., 160, ...), '
                             f'got {input_size!r}; set it and datasets.train.gt_size to the same multiple of 32')
        self.num_in_ch = num_in_ch
        self.input_size = input_size
        channels = [num_in_ch] + [num_feat * factor for factor in (1, 2, 4, 8, 8)]
        for i, (before, after) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            self.add_module(f'conv{i}_0', nn.Conv2d(before, after, 3, 1, 1, bias=i == 0))
            if i > 0:  # all but the first have batch norm, which has the bias
                self.add_module(f'bn{i}_0', nn.BatchNorm2d(after))
            self.add_module(f'conv{i}_1', nn.Conv2d(after, after, 4, 2, 1, bias=False))
            self.add_module(f'bn{i}_1', nn.BatchNorm2d(after))
        self.num_stages = len(channels) - 1
        self.linear1 = nn.Linear(channels[-1] * (input_size // 2**self.num_stages)**2, 100)
        self.linear2 = nn.Linear(100, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Score images; no sigmoid, as BasicSR's GANLoss expects.

        Args:
            x (Tensor): RGB images in [0, 1], (N, num_in_ch, input_size, input_size).

        Returns:
            Tensor: Scores, (N, 1).

        Raises:
            InputError: The images have another size or number of channels.
        """
        wanted = (self.num_in_ch, self.input_size, self.input_size)
        if tuple(x.shape[1:]) != wanted:
            raise InputError(f'the discriminator takes images of {wanted} (channels, height, width), '
                             f'got {tuple(x.shape[1:])}; set network_d.input_size to datasets.train.gt_size, '
                             f'a multiple of 32 (and network_d.num_in_ch to the channels of the images)')
        for i in range(self.num_stages):
            for j in range(2):
                x = getattr(self, f'conv{i}_{j}')(x)
                x = self.lrelu(x if (i, j) == (0, 0) else getattr(self, f'bn{i}_{j}')(x))
        return self.linear2(self.lrelu(self.linear1(x.flatten(1))))
