"""Mixed precision on devices that were not made for it."""
import torch

SLOW = 'this device has no bf16 instructions; mixed precision may be slower than float32, on a CPU many times.'


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether a device (of GPUs: the current one) computes bfloat16 itself, not by way of float32."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != 'cpu' or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
