"""Memory that feature maps leave stays with the process on a CPU, where glibc would give it back to the system."""
import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hcflow_arch.errors import InputError

if TYPE_CHECKING:
    import torch

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of glibc's malloc.h, for mallopt


def keep_freed_memory(device: 'torch.device') -> None:
    """From now on this process keeps what it frees: for programs of our own, not for libraries in those of others.

    By default glibc maps every block of some MiB anew, and the system fills each of its pages with zeros: ten million
    page faults in a decode to 1024x1024. What is kept is cut into pieces at first, so a process grows for some calls
    more, and then stops. Numbers do not change. Nothing is done on GPUs, whose feature maps lie elsewhere, and with
    other C libraries.

    Args:
        device: Where networks run.
    """
    if device.type == 'cpu' and _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_MAX, 0)  # the heap for all sizes ...
        libc.mallopt(TRIM_THRESHOLD, -1)  # ... whose end stays


def return_freed_memory() -> None:
    """Give back to the system what was kept, for example before free memory is looked up."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python, NumPy, PyTorch or OpenCV (its code StsNoMem, -4) says that memory is short."""
    of_gpu = type(error).__name__ == 'OutOfMemoryError'  # without an import of PyTorch
    return (isinstance(error, MemoryError) or of_gpu or getattr(error, 'code', None) == -4
            or isinstance(error, RuntimeError) and 'DefaultCPUAllocator' in str(error))


@contextmanager
def enough_memory() -> Iterator[None]:
    """What fails within it for want of memory raises an InputError; others of its kind may not."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).strip().split('\n')[0]
        raise InputError(f'It needs more memory than there is ({text or "MemoryError"}).') from error


def _has_glibc() -> bool:
    return platform.system() == 'Linux' and hasattr(ctypes.CDLL(None), 'gnu_get_libc_version')
