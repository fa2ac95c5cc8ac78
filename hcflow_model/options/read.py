"""Reading option files without trusting them: nothing in one can run code, or grow without bound."""
import math
import os
from collections import OrderedDict

import yaml

from hcflow_arch import InputError

MAX_BYTES = 1_000_000  # option files have a few thousand
MAX_VALUES = 100_000
MAX_DEPTH = 50
MAX_INT = 2 ** 53  # beyond it PyTorch and floats take no whole numbers


def safe_ordered_yaml() -> tuple[type, type]:
    """BasicSR's `ordered_yaml` (utils/options.py) with PyYAML's safe loader: its own can construct any object.

    The loader also refuses what BasicSR would take silently or stop at: keys that stand twice or are no text, and
    aliases that nest (a few lines of them expand to billions of values). Every alias is a block of its own: BasicSR
    pops keys out of blocks, and what one place popped the other would miss.
    """
    class Loader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
        def __init__(self, stream):
            text = stream.read() if hasattr(stream, 'read') else stream
            _check_depth(text)
            super().__init__(text)

        def get_single_node(self):
            node = super().get_single_node()
            if node is not None:
                _measure(node, {}, 0)
            return node

        def get_single_data(self):
            return _copy(super().get_single_data())

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
    return Loader, getattr(yaml, 'CSafeDumper', yaml.SafeDumper)


def read_option_file(path: str) -> dict:
    """Read an option file by the safe loader.

    Raises:
        InputError: The file is missing, unreadable, no YAML, or no option file.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a folder, or a device that never ends
        raise InputError(f'Option file {path} cannot be read: it is no file.')
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: bytes that are no text, or a NUL in the path
        reason = getattr(error, 'strerror', None) or 'it is not text'
        raise InputError(f'Option file {path} cannot be read: {reason}.') from error
    if len(text) > MAX_BYTES:
        raise InputError(f'Option file {path} has more than {MAX_BYTES} characters; it is no option file.')
    try:
        opt = yaml.load(text, Loader=safe_ordered_yaml()[0])
    except yaml.YAMLError as error:
        raise InputError(f'Option file {path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # PyYAML lets them out: `!!int x`, 2021-13-01
        raise InputError(f'Option file {path} is not valid YAML: a value does not fit its type ({error}).') from error
    if not isinstance(opt, dict):
        raise InputError(f'Option file {path} holds no options; it must be a YAML mapping (name: …, model_type: …).')
    return opt


def check_plain(value: object, name: str = '') -> None:
    """Refuse option values that no option has: dates, sets, bytes, nan and infinity.

    Args:
        value: Options, or one of them.
        name: Its place, such as 'train.optim_g', for messages.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            check_plain(inner, f'{name}.{key}' if name else str(key))
    elif isinstance(value, list):
        for inner in value:
            check_plain(inner, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"'{name}' is {value!r}; it must be a finite number.")
    elif isinstance(value, int) and abs(value) > MAX_INT:
        raise InputError(f"'{name}' is {value}; whole numbers of options go up to {MAX_INT}.")
    elif not (value is None or isinstance(value, (str, int, float))):
        raise InputError(f"'{name}' is {value!r}; YAML reads it as a {type(value).__name__}. Put it in quotes if it is "
                         'meant as text.')


def _construct_mapping(loader, node):
    mapping = OrderedDict()
    for (key_node, _), (key, value) in zip(node.value, loader.construct_pairs(node), strict=True):
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f'the key {key!r} is no text; put it in quotes', key_node.start_mark)
        if key in mapping:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        mapping[key] = value
    return mapping


def _copy(value):
    if isinstance(value, dict):
        return OrderedDict((key, _copy(inner)) for key, inner in value.items())
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _check_depth(text):
    """Refuse what nests too deep before the loader, which calls itself for every level, can run out of stack."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f'blocks nest deeper than {MAX_DEPTH}', event.start_mark)


def _measure(node, known, depth):
    """Number of values and depth of a node with its aliases expanded; refuses too many, too deep and endless ones."""
    if id(node) in known:
        if known[id(node)] is None:
            raise yaml.composer.ComposerError(None, None, 'an alias (*name) lies within what it names',
                                              node.start_mark)
        return known[id(node)]
    known[id(node)] = None
    size, height = 1, 0
    if not isinstance(node, yaml.ScalarNode):
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        for child in children:
            child_size, child_height = _measure(child, known, depth + 1) if depth < MAX_DEPTH else (0, MAX_DEPTH)
            size, height = size + child_size, max(height, child_height + 1)
            if size > MAX_VALUES:
                raise yaml.composer.ComposerError(
                    None, None, f'aliases (*name) expand to more than {MAX_VALUES} values', node.start_mark)
            if height > MAX_DEPTH:
                raise yaml.composer.ComposerError(None, None, f'blocks nest deeper than {MAX_DEPTH}', node.start_mark)
    known[id(node)] = size, height
    return size, height
