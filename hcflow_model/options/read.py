"""Reading option files without trusting them: nothing in one can run code, or grow without bound."""
import itertools
import math
import os
import re
from ast import literal_eval
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import yaml

from hcflow_arch import InputError

MAX_BYTES = 200_000  # option files have a few thousand
MAX_ALIASES = 100
MAX_DEPTH = 50
MAX_DIGITS = 100
MAX_VALUES = 10_000  # a checkpoint of a few bytes may name one list any number of times
MAX_INT = 2 ** 53  # beyond it PyTorch and floats take no whole numbers
BaseLoader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
YAMLError = yaml.constructor.ConstructorError


class Loader(BaseLoader):
    """PyYAML's safe loader; it also refuses keys that are given twice or are no text, and endless numbers."""


def read_option_file(path: str, force_yml: Sequence[str] = ()) -> dict:
    """Options of a file, with those of `--force_yml` in their place.

    Raises:
        InputError: The file is missing, unreadable, no YAML, or no option file; a value that no option has.
    """
    return parse_option_text(read_option_text(path), path, force_yml)


def read_option_text(path: str) -> str:
    """The text of an option file.

    Raises:
        InputError: It is missing, unreadable, or too large.
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
    return text


def parse_option_text(text: str, path: str, force_yml: Sequence[str] = ()) -> dict:
    """Options from the text of a file. `path` is named in errors. See :func:`read_option_file`."""
    try:
        _check_events(text)
        opt = _copy(yaml.load(text, Loader=Loader))
    except yaml.YAMLError as error:
        raise InputError(f'Option file {path} is not valid YAML: {" ".join(str(error).split())}') from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # PyYAML lets them out: `!!int x`, 2021-13-01
        raise InputError(f'Option file {path} is not valid YAML: a value does not fit its type ({error}).') from error
    if not isinstance(opt, dict):
        raise InputError(f'Option file {path} holds no options; it must be a YAML mapping (name: …, model_type: …).')
    for entry in force_yml:
        _force(opt, entry)
    check_plain(opt)
    return opt


def check_plain(value: object, name: str = '', count: Iterator[int] | None = None) -> None:
    """Refuse values that no option has: dates, sets, bytes, nan and infinity, and numbers that YAML reads as text.

    Args:
        value: Options, or one of them.
        name: Its place, such as 'train.optim_g', for messages.
        count: Counts the values. Default: from 0.
    """
    count = itertools.count() if count is None else count
    if next(count) > MAX_VALUES:
        raise InputError(f"'{name}': there are more than {MAX_VALUES} values up to here; no options have so many.")
    if isinstance(value, dict):
        for key, inner in value.items():
            check_plain(inner, f'{name}.{key}' if name else str(key), count)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_plain(inner, name, count)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"'{name}' is {value!r}; it must be a finite number.")
    elif isinstance(value, int) and abs(value) > MAX_INT:
        raise InputError(f"'{name}' is {value}; whole numbers of options go up to {MAX_INT}.")
    elif isinstance(value, str) and re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+', value):
        raise InputError(f"'{name}' is the text {value!r}; YAML reads it as a number only with a dot and a sign. "
                         f'Write !!float {value}.')
    elif not (value is None or isinstance(value, (str, int, float))):
        raise InputError(f"'{name}' is {value!r}; YAML reads it as a {type(value).__name__}. Put it in quotes if it is "
                         'meant as text.')


def _force(opt, entry):
    """Apply 'key:key=value'. BasicSR (utils/options.py) hands keys to `exec` and lists to `eval`."""
    match = re.fullmatch(r'\s*([\w-]+(?::[\w-]+)*)\s*=([^=]*)', entry)
    if not match:
        raise InputError(f"--force_yml takes 'key:key=value', such as train:ema_decay=0.999; got {entry!r}.")
    *parents, key = match.group(1).split(':')
    for parent in parents:
        opt = opt.get(parent) if isinstance(opt, dict) else None
        if not isinstance(opt, dict):
            raise InputError(f'--force_yml {entry!r}: the option file has no block {parent!r}.')
    text = match.group(2).strip()
    try:
        opt[key] = _plain_value(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:  # the last two: brackets without end
        raise InputError(f'--force_yml {entry!r}: {text} is not a plain value: a number, a word, or a list of '
                         'literals.') from error


def _plain_value(text):
    """As BasicSR reads it, to which -1 is text, though."""
    words = {'~': None, 'none': None, 'true': True, 'false': False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith('!!float'):
        return float(text.removeprefix('!!float'))
    number = re.fullmatch(r'-?([0-9]+(\.[0-9]*)?|\.[0-9]+)', text)
    if number:
        return float(text) if '.' in text else int(text)
    return literal_eval(text) if text.startswith('[') else text


def _check_events(text):
    """Refuse what nests too deep for a loader that calls itself for every level, and aliases that multiply."""
    depth = anchored = aliases = 0  # anchored: the depth at which a block with an anchor began
    for event in yaml.parse(text, Loader=BaseLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            anchored = anchored or (depth if event.anchor else 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchored = 0 if depth == anchored else anchored
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if anchored:
                raise YAMLError(None, None, 'an alias (*name) lies in a block that has an anchor (&name); write the '
                                'block out', event.start_mark)
        if depth > MAX_DEPTH or aliases > MAX_ALIASES:
            what = f'blocks nest deeper than {MAX_DEPTH}' if depth > MAX_DEPTH else f'more than {MAX_ALIASES} aliases'
            raise YAMLError(None, None, what, event.start_mark)


def _copy(value):
    """Every alias becomes a block of its own: BasicSR pops keys, and what one place popped the other would miss."""
    if isinstance(value, dict):
        return OrderedDict((key, _copy(inner)) for key, inner in value.items())
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _construct_mapping(loader, node):
    mapping = OrderedDict()
    for (key_node, _), (key, value) in zip(node.value, loader.construct_pairs(node, deep=True), strict=True):
        if not isinstance(key, str):
            raise YAMLError(None, None, f'the key {key!r} is no text; put it in quotes', key_node.start_mark)
        if key in mapping:
            raise YAMLError(None, None, f"the key '{key}' stands twice", key_node.start_mark)
        mapping[key] = value
    return mapping


def _construct_number(construct):
    def checked(loader, node):
        if isinstance(node.value, str) and len(node.value) > MAX_DIGITS:  # 1:1:1:… is a number, too, of base 60
            raise YAMLError(None, None, f'a number of more than {MAX_DIGITS} digits', node.start_mark)
        return construct(loader, node)
    return checked


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
for _name in ('int', 'float'):
    Loader.add_constructor(f'tag:yaml.org,2002:{_name}', _construct_number(BaseLoader.yaml_constructors[
        f'tag:yaml.org,2002:{_name}']))
