"""Which device a name means, and what devices have."""
import torch

from hcflow_arch.errors import InputError

SLOW = 'this device has no bf16 instructions; mixed precision may be slower than float32, on a CPU many times.'


def has_bf16_instructions(device: torch.device) -> bool:
    """Whether a device (of GPUs: the current one) computes bfloat16 itself, not by way of float32."""
    if device.type == 'cuda':
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != 'cpu' or (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def find_device(device: str | torch.device | None = 'auto') -> torch.device:
    """The device of a name, after a trial.

    Args:
        device: 'cpu', 'cuda', 'cuda:1', 'mps' or another of PyTorch's. 'auto' or None: CUDA if there is a GPU, else the
            CPU; never MPS, which was not tried.

    Raises:
        InputError: There is no such device here.
    """
    cuda = torch.cuda.is_available()
    if device in (None, 'auto'):
        device = 'cuda' if cuda else 'cpu'
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f'device is {device!r}; give auto, cpu, cuda, cuda:1 or mps.') from error
    if device.type == 'cuda' and not cuda:
        raise InputError(f'device is {str(device)!r}, but PyTorch sees no GPU here; take cpu.')
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError) as error:  # cuda:7 of one GPU, what is not built in
        reason = str(error).strip().split('\n')[0]
        raise InputError(f'device is {str(device)!r}, which cannot be used here ({reason}); give auto, cpu, cuda, '
                         'cuda:1 or mps.') from error
    return device
