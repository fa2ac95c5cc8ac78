"""Importing this module makes `import basicsr` work."""
import importlib.util
import runpy
import sys
import types
from pathlib import Path


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


def basicsr_version() -> str:
    """Version of the BasicSR that `import basicsr` finds, without importing it.

    The metadata of installed packages cannot tell: BasicSR comes as `basicsr`, as `my-basicsr`, or as a clone.
    """
    file = Path(importlib.util.find_spec('basicsr').origin).with_name('version.py')
    return runpy.run_path(str(file))['__version__']


repair_torchvision_import()
