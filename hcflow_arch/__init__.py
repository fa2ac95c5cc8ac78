"""HCFlow's network for BasicSR: importing this package registers the architectures in ARCH_REGISTRY."""
from . import basicsr_import  # noqa: F401  isort: skip  (first: it makes `import basicsr` work on today's torchvision)
from .discriminator_arch import HCFlowVGGDiscriminator
from .errors import InputError
from .hcflow_arch import HCFlowCode, HCFlowNet
from .weights.official import load_official_state_dict

__version__ = '0.1.0'

__all__ = ['HCFlowCode', 'HCFlowNet', 'HCFlowVGGDiscriminator', 'InputError', 'load_official_state_dict']
