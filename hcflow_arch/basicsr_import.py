"""How these packages and BasicSR find each other: whichever comes first, neither makes a program import the other.

torch, torchvision and BasicSR take seconds to import, which `--help` and the commands for images can do without.
"""
import importlib
import importlib.util
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

REGISTRIES = 'basicsr.utils.registry'
FUNCTIONAL_TENSOR = 'torchvision.transforms.functional_tensor'


def lazy_names(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """The `__getattr__` of a package that imports its public names when they are first used (PEP 562).

    Args:
        package: Its `__name__`.
        modules: {'.module': names in it}.
    """
    places = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name):
        if name not in places:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(importlib.import_module(places[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__


def register(package: str, **names: tuple[str, ...]) -> None:
    """Register public names of a package in BasicSR: now if BasicSR is imported, else as soon as it is.

    The objects themselves are imported when BasicSR looks them up.

    Args:
        package: Its `__name__`.
        names: Of each registry, such as `ARCH_REGISTRY=('HCFlowNet',)`.
    """
    entries = [_Entry(registry, package, name) for registry, group in names.items() for name in group]
    if REGISTRIES in sys.modules:
        _add(importlib.import_module(REGISTRIES), entries)  # which waits for another thread that imports it
    else:
        _waiting.extend(entries)


def basicsr_version() -> str:
    """Version of the BasicSR that `import basicsr` finds, without importing it.

    The metadata of installed packages cannot tell: BasicSR comes as `basicsr`, as `my-basicsr`, or as a clone.
    """
    file = Path(importlib.util.find_spec('basicsr').origin).with_name('version.py')
    return runpy.run_path(str(file))['__version__']


class _Entry(NamedTuple):
    registry: str
    package: str
    name: str


_waiting: list[_Entry] = []


class _Objects(dict):
    """The objects in a registry by name; an :class:`_Entry` among them is replaced by its object on first use."""

    def __getitem__(self, name):
        value = super().__getitem__(name)
        if isinstance(value, _Entry):
            value = self[name] = getattr(importlib.import_module(value.package), value.name)
        return value

    def get(self, name, default=None):
        value = super().get(name, default)
        return self[name] if isinstance(value, _Entry) else value

    def values(self):
        return [self[name] for name in self]

    def items(self):
        return [(name, self[name]) for name in self]


def _add(module, entries):
    for entry in entries:
        registry = getattr(module, entry.registry)
        if not isinstance(registry._obj_map, _Objects):
            registry._obj_map = _Objects(registry._obj_map)
        registry._do_register(entry.name, entry)


class _Finder:
    """Stands first in `sys.meta_path` and changes how two modules are imported.

    BasicSR's registries take what waits for them. torchvision 0.17 removed `transforms.functional_tensor`, from which
    BasicSR 1.4.2 still imports `rgb_to_grayscale` (https://github.com/XPixelGroup/BasicSR/issues/533, 649 and 663;
    fixed on master, never released): where there is no such module, this one takes its place.
    """

    def find_spec(self, name, path=None, target=None):
        if name not in (REGISTRIES, FUNCTIONAL_TENSOR):
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if name == FUNCTIONAL_TENSOR:
            return spec or importlib.util.spec_from_loader(name, self)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _add(module, _waiting)
                _waiting.clear()
            spec.loader.exec_module = exec_module
        return spec

    def create_module(self, spec):
        return None  # a new, empty one

    def exec_module(self, module):
        from torchvision.transforms.functional import rgb_to_grayscale
        module.rgb_to_grayscale = rgb_to_grayscale


sys.meta_path.insert(0, _Finder())
