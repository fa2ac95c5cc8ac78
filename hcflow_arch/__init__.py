"""HCFlow's network for BasicSR: importing this package registers the architectures in ARCH_REGISTRY."""
from .basicsr_import import lazy_names, register

__version__ = '0.1.0'

__all__ = ['HCFlowCode', 'HCFlowNet', 'HCFlowVGGDiscriminator', 'InputError', 'load_official_state_dict']

__getattr__ = lazy_names(__name__, {
    '.discriminator_arch': ('HCFlowVGGDiscriminator',),
    '.errors': ('InputError',),
    '.hcflow_arch': ('HCFlowCode', 'HCFlowNet'),
    '.weights.official': ('load_official_state_dict',),
})
register(__name__, ARCH_REGISTRY=('HCFlowNet', 'HCFlowVGGDiscriminator'))
