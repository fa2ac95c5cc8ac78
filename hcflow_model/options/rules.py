"""How a block of options is held against what is allowed: unknown keys, wrong types, values that are too small."""
import difflib
import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from basicsr.utils.registry import METRIC_REGISTRY

from hcflow_arch import InputError
from hcflow_model.utils.registries import is_known, is_registered

from .schema import Option

METRIC_INPUTS = ('img', 'img2', 'lq', 'net', 'scale', 'samples')  # what validation hands to a metric
MAX_NAME_BYTES = 150  # file systems take 255, of which BasicSR adds up to 50 (log, archive)
TYPE_NAMES = {dict: 'a block', int: 'a whole number', float: 'a number', str: 'text', list: 'a list',
              bool: 'true or false', tuple: 'a list'}


def did_you_mean(key: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """' (did you mean …?)' where a known key is close, else nothing."""
    close = difflib.get_close_matches(str(key), [str(name) for name in known], n=1, cutoff=cutoff)
    return f" (did you mean '{close[0]}'?)" if close else ''


def require(name: str, block: dict, keys: Iterable[str], known: Iterable[str] = ()) -> None:
    """Refuse a block without one of the keys. A key that nobody knows may be its misspelling."""
    for key in keys:
        if block.get(key) is None:
            if key in block:
                raise InputError(f"{name} has no '{key}': it is empty.")
            strange = [other for other in block if other not in known]
            raise InputError(f"{name} has no '{key}'{did_you_mean(key, strange)}.")


def check_type(name: str, value: object, types: type | tuple[type, ...], meaning: str = '') -> None:
    """Refuse a value of another type; True and False are no numbers."""
    types = types if isinstance(types, tuple) else (types,)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        allowed = ' or '.join(dict.fromkeys(TYPE_NAMES[t] for t in types))
        raise InputError(f"'{name}' is {value!r}; it must be {allowed}{f' ({meaning})' if meaning else ''}.")


def check_file_name(name: str, value: object) -> None:
    """Refuse a name that is no name of a folder: BasicSR moves away whatever `experiments/NAME` turns out to be."""
    check_type(name, value, (str,), 'put numbers and dates in quotes')
    if not value.strip() or value in ('.', '..') or any(char in value for char in '/\\\0\n') or \
            len(value.encode()) > MAX_NAME_BYTES:
        raise InputError(f"'{name}' is {value!r}; files are called by it, so it must be a plain name without slashes, "
                         f'of at most {MAX_NAME_BYTES} bytes.')


def options_of(cls: type, name: str) -> dict[str, Option]:
    """What a class and its bases declare in the attribute `name`, such as train_options."""
    return {key: option for base in reversed(cls.__mro__) for key, option in vars(base).get(name, {}).items()}


def check_names(name: str, block: dict, known: Iterable[str], cutoff: float | None = None) -> None:
    """Refuse keys that nobody knows.

    Args:
        name: Place of the block, '' for the top.
        block: A block of options.
        known: Keys of its schema.
        cutoff: Refuse only keys this similar to a known one, from 0 to 1: others may be of another package.
    """
    for key in block:
        hint = did_you_mean(key, known, cutoff or 0.6)
        if key not in known and (hint or cutoff is None):
            raise InputError(f"Unknown option '{name}{'.' if name else ''}{key}'{hint}.")


def check_values(name: str, block: dict, schema: dict[str, Option]) -> None:
    """Hold the values of a block against its schema; ~ is allowed everywhere. Keys that it has not are left alone."""
    for key, value in block.items():
        if key in schema and value is not None:
            check_value(f'{name}.{key}' if name else key, value, schema[key])


def check_block(name: str, block: dict, schema: dict[str, Option]) -> None:
    """Hold a block against its schema, keys and values."""
    check_names(name, block, schema)
    check_values(name, block, schema)


def check_value(name: str, value: object, option: Option) -> None:
    """Refuse a value that is of another type than its option, out of its range, or none of its choices."""
    check_type(name, value, option.types, option.meaning)
    if option.minimum is not None and value < option.minimum:
        raise InputError(f"'{name}' is {value!r}; it must be {option.minimum} or more ({option.meaning}).")
    if option.maximum is not None and value > option.maximum:
        raise InputError(f"'{name}' is {value!r}; it must be {option.maximum} or less ({option.meaning}).")
    if option.choices and value not in option.choices:
        raise InputError(f"'{name}' is {value!r}; allowed are {', '.join(map(str, option.choices))} and ~ "
                         f'({option.meaning}).')


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors of the input begin with the option that led to them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"'{name}': {error}") from error


def check_registered(name: str, value: object, registry) -> None:
    """Refuse a name that the registry does not know."""
    if not is_registered(value, registry):
        raise InputError(f"'{name}' is {value!r}, which is not registered in BasicSR"
                         f'{did_you_mean(value, registry.keys())}. '
                         'If it comes from another package, name its module in `plugins:`.')


def check_component(name: str, block: dict, registry, extra: Iterable[str] = (),
                    given: Iterable[str] = METRIC_INPUTS) -> None:
    """A block {type: registered name, **arguments}: names against its signature, types against its defaults.

    Args:
        name: Its place.
        block: The block; keys that are ~ are removed.
        registry: What its type is registered in.
        extra: More keys that it may have.
        given: Arguments that need not stand in it.
    """
    if not isinstance(block, dict) or 'type' not in block:
        raise InputError(f"'{name}' is {block!r}; it must be a block with a 'type'.")
    check_registered(f'{name}.type', block['type'], registry)
    parameters = inspect.signature(registry.get(block['type'])).parameters
    known = {*parameters, 'type', *extra}
    # BasicSR's metrics take **kwargs only to ignore `better`; a misspelt key would be ignored with it
    kinds = {parameter.kind for parameter in parameters.values()}
    open_ended = inspect.Parameter.VAR_KEYWORD in kinds and registry is not METRIC_REGISTRY
    if is_known(block['type'], registry):
        for key in [key for key, value in block.items() if value is None and key in parameters]:
            del block[key]  # ~ is the same as leaving a key out
    for key, value in block.items():
        if key not in known and not open_ended:
            raise InputError(f"Unknown option '{name}.{key}' of {block['type']}{did_you_mean(key, known)}.")
        default = parameters[key].default if key in parameters else None
        if key != 'type' and value is not None and isinstance(default, (bool, int, float, str)):
            types = (int, float) if type(default) in (int, float) else (type(default),)
            check_type(f'{name}.{key}', value, types)
    for key, parameter in parameters.items():
        named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and key not in block and key not in given:
            raise InputError(f"'{name}' of type {block['type']} has no '{key}'; give it.")
