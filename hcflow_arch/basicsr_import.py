"""Importing this module makes `import basicsr` work."""
import importlib.util
import sys
import types


def repair_torchvision_import() -> None:
    """Give `basicsr.data.degradations` the module it imports one function from.

    torchvision 0.17 removed `transforms.functional_tensor`; BasicSR 1.4.2 still imports `rgb_to_grayscale` from it
    (https://github.com/XPixelGroup/BasicSR/issues/533, 649 and 663; fixed on master, never released).
    """
    name = 'torchvision.transforms.functional_tensor'
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale
    module = types.ModuleType(name)
    module.rgb_to_grayscale = rgb_to_grayscale
    sys.modules[name] = module


repair_torchvision_import()
