"""Drawing samples: what a broken draw leaves is drawn again or counted, never taken for a picture."""
from typing import NamedTuple

import torch

MAX_REDRAWS = 3
FAR = 1.  # beyond [0, 1]: overshoots at edges stay below it, an exploding inverse does not


class DrawCounts(NamedTuple):
    """What :func:`draw` saw of each sample before clamping, int64 on the CPU, (N,).

    Attributes:
        nonfinite: Pixels with a channel that is NaN or infinite, of the last draw; 0 where the sample can be used.
        out_of_range: Finite pixels with a channel outside of [-1, 2].
        redraws: How often the sample was drawn again.
    """
    nonfinite: torch.Tensor
    out_of_range: torch.Tensor
    redraws: torch.Tensor


@torch.no_grad()
def draw(net: torch.nn.Module, lq: torch.Tensor, temperature: float, generator: torch.Generator | None = None,
         features: torch.Tensor | None = None, max_redraws: int = MAX_REDRAWS) -> tuple[torch.Tensor, DrawCounts]:
    """Draw one sample of every LR image; a sample with non-finite pixels is drawn again, with the noise that follows.

    Args:
        net: HCFlowNet, or whatever has its `decode` with the arguments lq, temperature, generator, features, clamp.
        lq: LR images in [0, 1], (N, 3, h, w).
        temperature: Standard deviation of the latents, >= 0. At 0 every draw is the same, so nothing is drawn again.
        generator: Random generator of the noise. Default: PyTorch's.
        features: What `net.coarsest_features(lq)` returned. Default: None, computed.
        max_redraws: Most further draws of a sample, >= 0. Default: 3.

    Returns:
        Samples clamped to [0, 1], float32, (N, 3, scale * h, scale * w), and their counts. Samples whose
        `nonfinite` is not 0 are still broken after the last draw: do not show or save them.
    """
    sr = net.decode(lq, temperature=temperature, generator=generator, features=features, clamp=False).float()
    redraws = torch.zeros(len(sr), dtype=torch.int64)
    for _ in range(max_redraws if temperature > 0 else 0):
        broken = ~sr.isfinite().flatten(1).all(1)
        if not broken.any():
            break
        sr[broken] = net.decode(lq[broken], temperature=temperature, generator=generator,
                                features=None if features is None else features[broken], clamp=False).float()
        redraws[broken.cpu()] += 1
    finite = sr.isfinite().all(1)
    far = ((sr < -FAR) | (sr > 1 + FAR)).any(1) & finite
    counts = DrawCounts(*(pixels.flatten(1).sum(1).cpu() for pixels in (~finite, far)), redraws)
    return sr.clamp(0, 1), counts
