"""Channels last: (N, C, H, W) the channels of a pixel side by side in memory, for faster convolutions."""
import torch
import torch.nn as nn

from hcflow_arch.errors import InputError


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a tensor is channels last; PyTorch's convolutions give their output the layout of the weight.

    With one channel or one pixel both layouts are the same, and the result is False.
    """
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def layout_like(tensor: torch.Tensor) -> torch.memory_format:
    """The memory format of a weight or of features."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


class ChannelsLastModule(nn.Module):
    """A module that stores the weights of its convolutions in the faster layout for its device."""

    channels_last = None

    def __init__(self):
        super().__init__()
        self.register_state_dict_post_hook(_in_planes)

    def lay_out(self, channels_last: bool | None) -> None:
        """Choose the layout: True for channels last, False for channels first, None for the faster one.

        Channels last is faster on CPUs with AVX2 or AVX-512, which then use Winograd's algorithm for large
        convolutions, and on GPUs whose convolutions round (TF32, bf16). The flow's own arithmetic, on few channels,
        stays channels first.
        """
        if channels_last is not None and not isinstance(channels_last, bool):
            raise InputError(f'network_g.channels_last is {channels_last!r}; it must be true, false or ~ (by device).')
        self.channels_last = channels_last
        self._lay_out()

    def keeps_layout(self) -> list[nn.Module]:
        """Submodules whose layout does not change: architectures of other packages, which may need channels first."""
        return []

    def _apply(self, fn, *args, **kwargs):  # .to(), .cuda(), .float() all come through here
        super()._apply(fn, *args, **kwargs)
        self._lay_out()
        return self

    @torch.no_grad()
    def _lay_out(self):
        others = {id(parameter) for module in self.keeps_layout() for parameter in module.parameters()}
        for parameter in self.parameters():
            if parameter.dim() == 4 and parameter.shape[2:].numel() > 1 and id(parameter) not in others:
                wanted = _prefers_channels_last(parameter.device) if self.channels_last is None else self.channels_last
                layout = torch.channels_last if wanted else torch.contiguous_format
                parameter.data = parameter.data.contiguous(memory_format=layout)


def _prefers_channels_last(device):
    if device.type == 'cuda':
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == 'cpu' and torch.backends.cpu.get_cpu_capability() in ('AVX2', 'AVX512')


def _in_planes(module, state_dict, prefix, local_metadata):
    """Make a state dict channels first: checkpoints must not depend on the machine, and safetensors takes no other.

    Weights that are channels last are copied, so writing into the state dict does not change them; load it instead.
    """
    for name, tensor in state_dict.items():
        if name.startswith(prefix) and torch.is_tensor(tensor):
            state_dict[name] = tensor.contiguous()
