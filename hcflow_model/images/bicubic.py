"""MATLAB's bicubic imresize for batches on any device; equals BasicSR's, which takes one CPU image at a time."""
import torch
import torch.nn.functional as F

MARGIN = 4  # pixels of the smaller image: more than the cubic kernel reaches


def bicubic_resize(image: torch.Tensor, scale: int, down: bool = False) -> torch.Tensor:
    """Resize by a whole factor as MATLAB does: antialiased when downscaling, borders mirrored. Not clamped.

    PyTorch's antialiased bicubic has MATLAB's kernel (a = -0.5) but cuts it off at the border, so the border is
    mirrored before and cropped after.

    Args:
        image: (N, C, H, W); H and W multiples of the scale when downscaling.
        scale: Factor, >= 1.
        down: Downscale instead of upscale.

    Returns:
        (N, C, H * scale, W * scale), or divided by scale.
    """
    margin_in, margin_out = (MARGIN * scale, MARGIN) if down else (MARGIN, MARGIN * scale)
    rows, columns = (_mirrored(size, margin_in, image.device) for size in image.shape[2:])
    image = image[:, :, rows][:, :, :, columns]
    factor = 1 / scale if down else scale
    image = F.interpolate(image, scale_factor=factor, mode='bicubic', antialias=True, align_corners=False)
    return image[:, :, margin_out:-margin_out, margin_out:-margin_out]


def _mirrored(size: int, margin: int, device: torch.device) -> torch.Tensor:
    """Indices -margin .. size + margin - 1 with the image mirrored at its borders, as often as needed."""
    index = torch.arange(-margin, size + margin, device=device) % (2 * size)
    return torch.where(index < size, index, 2 * size - 1 - index)


def round8(image: torch.Tensor) -> torch.Tensor:
    """Round an image in [0, 1] to 8 bits, as saving it does; gradients pass straight through."""
    return image + ((image.detach() * 255).round() / 255 - image.detach())


def bicubic_guide(gt: torch.Tensor, scale: int) -> torch.Tensor:
    """MATLAB-like, antialiased bicubic downscaling: (N, 3, H, W) in [0, 1] -> (N, 3, H/scale, W/scale), 8 bits.

    Rounded to 8 bits, because guides that come from files are.
    """
    return round8(bicubic_resize(gt, scale, down=True).clamp(0, 1))
