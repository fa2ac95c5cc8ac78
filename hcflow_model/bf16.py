"""Mixed precision on CPUs."""
import torch

SLOW = 'this CPU has no bf16 instructions; mixed precision will be many times slower.'


def has_bf16_instructions() -> bool:
    """Whether PyTorch's convolutions are fast in bfloat16 on this CPU."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
