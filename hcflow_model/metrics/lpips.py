"""The networks of LPIPS, built once, with one clear error where their weights are not to be had."""
import warnings
from functools import lru_cache
from pathlib import Path

import torch
import torchvision.models as tv

from hcflow_arch.errors import InputError
from hcflow_arch.weights.safe_load import load_problem, weights_only

# Of each LPIPS network: the ImageNet weights that the package lpips loads through torchvision, and the smallest side
# in pixels that its pooling layers leave something of.
LPIPS_NETS = {
    'alex': (tv.AlexNet_Weights.IMAGENET1K_V1, 31),
    'vgg': (tv.VGG16_Weights.IMAGENET1K_V1, 16),
    'squeeze': (tv.SqueezeNet1_1_Weights.IMAGENET1K_V1, 17),
}


def check_net_type(net_type: str) -> None:
    """Refuse a name that is no LPIPS network."""
    if net_type not in tuple(LPIPS_NETS):
        raise InputError(f'net_type must be one of {", ".join(LPIPS_NETS)}, got {net_type!r}')


@lru_cache
def _build_lpips(net_type: str, device: str) -> torch.nn.Module:
    from lpips import LPIPS  # here: it takes a second, and most runs measure no LPIPS
    url = LPIPS_NETS[net_type][0].url
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(url).name)
    found = path.is_file()
    try:
        with warnings.catch_warnings(), weights_only():
            warnings.simplefilter('ignore', UserWarning)  # lpips uses torchvision's old argument `pretrained`
            net = LPIPS(net=net_type, verbose=False)
    except Exception as error:  # a broken file can raise anything
        problem = 'could not be read; delete it, then' if found else 'is not there and could not be downloaded;'
        raise InputError(f'LPIPS needs the file {path.name} in the folder {path.parent}: it {problem} download {url} '
                         f'into that folder, or set TORCH_HOME to a folder that has it in hub/checkpoints '
                         f'({load_problem(error)})') from error
    return net.to(device).eval().requires_grad_(False)


def check_lpips_available(net_type: str = 'alex', device: str | None = None) -> torch.nn.Module:
    """Build the LPIPS network, or return the one built before for this `net_type` and `device`.

    The package lpips loads ImageNet weights through torch.hub, which downloads a file that is not in
    `torch.hub.get_dir()/checkpoints`. To call before a long run makes a missing file an early error. As torch.hub
    does, a downloaded file is checked against the hash in its name, a file that is there is used as it is.

    Args:
        net_type (str): 'alex', 'vgg' or 'squeeze'. Default: 'alex'.
        device (str | None): Where its network runs. Default: None: 'cuda' if there is a GPU, else 'cpu'.

    Returns:
        nn.Module: The network, in eval mode, without gradients.

    Raises:
        InputError: Unknown `net_type`, or weights that can be neither found nor downloaded, or not read.
    """
    check_net_type(net_type)
    return _build_lpips(net_type, str(device or ('cuda' if torch.cuda.is_available() else 'cpu')))
