"""Packages that register networks, datasets, models and more: all that are installed, and modules named by the user."""
import importlib
import os
import sys
import traceback
from importlib import metadata

from hcflow_arch.errors import InputError

PLUGIN_GROUP = 'basicsr.plugins'


def installed_plugins() -> metadata.EntryPoints:
    """The entry points by which installed packages say that they are plugins."""
    return metadata.entry_points(group=PLUGIN_GROUP)


def load_plugins(modules: object) -> None:
    """Import every installed plugin, and the modules that the user names, so that they register what they have.

    Args:
        modules (list[str]): Full names of modules. None or empty: the installed plugins alone.

    Raises:
        InputError: `modules` is no such list, or one of them cannot be imported. What else it raises is its bug.
    """
    modules = modules or []
    if not isinstance(modules, list) or not all(_is_module_name(module) for module in modules):
        raise InputError(f'plugins is {modules!r}; it must be a list of module names, such as [realesrgan.archs].')
    for plugin in installed_plugins():
        try:
            plugin.load()
        except Exception as error:  # somebody else's package must not keep others from running
            if not isinstance(error, ImportError):
                traceback.print_exc()
            sys.stderr.write(f'basicsr: plugin {plugin.name} cannot be imported and is left out: {error!r}\n')
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # modules beside the option file, as for `python -m`
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, SyntaxError) as error:  # both say where
            raise InputError(f"plugins: '{module}' cannot be imported ({error}). Install or mend its package, or "
                             'remove it from the list.') from error


def _is_module_name(name):
    """Whether it is a module's full name: no path, and no leading dots."""
    return isinstance(name, str) and all(part.isidentifier() for part in name.split('.'))
