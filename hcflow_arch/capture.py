"""Recording of CUDA graphs: what is recorded cannot look at values."""
import torch


def is_recording(device: torch.device) -> bool:
    """Whether what is run on a device now becomes part of a CUDA graph."""
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()
