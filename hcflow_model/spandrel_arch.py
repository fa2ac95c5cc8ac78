"""HCFlow in spandrel, through which chaiNNer and ComfyUI open checkpoints."""
from collections.abc import Mapping

import spandrel
import torch

from hcflow_arch import HCFlowNet, load_official_state_dict
from hcflow_arch.weights.official import arguments_of, is_official_state_dict

ID = 'HCFlow'


class HCFlowArchitecture(spandrel.Architecture[HCFlowNet]):
    """Detects state dicts of HCFlowNet, and those of the released checkpoints, and builds their network.

    Images are decoded at temperature 0, so that the tiles which those programs cut fit together and a second run gives
    the same. A rescaling network restores small images that it made.
    """

    def __init__(self):
        super().__init__(id=ID, name='HCFlow', detect=_is_hcflow)

    def load(self, state_dict: Mapping[str, torch.Tensor]) -> spandrel.ImageModelDescriptor[HCFlowNet]:
        """The network of a state dict that was detected, its arguments read from names and shapes."""
        state_dict = {name.removeprefix('module.'): value for name, value in state_dict.items()}
        if is_official_state_dict(state_dict):
            state_dict, arguments = load_official_state_dict(state_dict)
        else:
            arguments = arguments_of(state_dict)
        net = HCFlowNet(**arguments, temperature=0.).eval()
        features = arguments.get('num_feat', net.levels[-1].feature_net.num_out_ch)
        # half: the flow's inverse multiplies errors over all its steps, which 10 bits do not bear
        return spandrel.ImageModelDescriptor(
            net, state_dict, architecture=self, purpose='SR', tags=[net.task, f'{features}nf'],
            supports_half=False, supports_bfloat16=False, scale=net.scale, input_channels=3, output_channels=3)


def install() -> None:
    """Make :class:`spandrel.ModelLoader` know HCFlow; once is enough, and twice does no harm.

    For ComfyUI, a file in its folder custom_nodes that calls this is all it needs.
    """
    spandrel.MAIN_REGISTRY.add(spandrel.ArchSupport.from_architecture(HCFlowArchitecture()), ignore_duplicates=True)


def _is_hcflow(state_dict: Mapping) -> bool:
    return is_official_state_dict(state_dict) or (
        'levels.0.main.1.actnorm.log_scale' in state_dict and 'levels.0.feature_net.conv_first.weight' in state_dict)
