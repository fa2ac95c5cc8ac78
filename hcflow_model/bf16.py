"""Mixed precision on devices that were not made for it."""
import torch

SLOW = 'this device has no bf16 instructions; mixed precision will be slower than float32, on a CPU many times.'


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether PyTorch's convolutions are fast in bfloat16 on a device."""
    if device.type == 'cuda':  # where older GPUs compute it by way of float32
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type != 'cpu' or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
