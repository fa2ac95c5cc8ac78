"""Pickled lists of images (SRFlow's `.pklv4`), read without unpickling: nothing in the file is ever called.

A pickle is a program for a stack machine. The few instructions that a list of numpy arrays needs are followed here on
symbols; every other instruction and every other name is refused. Pixels stay in the file, only their places are kept,
so a list of any size takes little memory.
"""
import os
import pickletools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hcflow_arch import InputError

RECONSTRUCT = {(f'numpy.{core}.multiarray', '_reconstruct') for core in ('core', '_core')}  # numpy 1 and 2
FROM_BUFFER = {(f'numpy.{core}.numeric', '_frombuffer') for core in ('core', '_core')}  # protocol 5
NDARRAY, DTYPE = ('numpy', 'ndarray'), ('numpy', 'dtype')
VALUES = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'NONE', 'NEWTRUE', 'NEWFALSE')
TEXTS = ('SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8')
BYTES = {'SHORT_BINBYTES': 2, 'BINBYTES': 5, 'BINBYTES8': 9, 'BYTEARRAY8': 9}  # bytes before the content
TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
MARK = object()


@dataclass(frozen=True)
class PickledImage:
    """An image whose pixels lie somewhere in a file.

    Attributes:
        name: What its outputs are called.
        path, offset: Where its pixels are.
        shape: (H, W, 3), or (3, H, W).
        order: 'C', or 'F' where they lie column by column.
    """
    name: str
    path: Path
    offset: int
    shape: tuple[int, int, int]
    order: str

    def __str__(self) -> str:
        return f'image {self.name} of {self.path}'

    def stamp(self) -> list[int]:
        """Changes when the file does."""
        stat = self.path.stat()
        return [stat.st_size, stat.st_mtime_ns, self.offset]

    def read(self) -> np.ndarray:
        """(H, W, 3), BGR, uint8; the arrays in the file are RGB."""
        pixels = np.fromfile(self.path, np.uint8, int(np.prod(self.shape)), offset=self.offset)
        image = pixels.reshape(self.shape, order=self.order)
        image = image if self.shape[2] == 3 else image.transpose(1, 2, 0)
        return np.ascontiguousarray(image[:, :, ::-1])


def read_array_list(path: str | os.PathLike, name: str) -> list[PickledImage]:
    """Find the images in a pickled list of numpy arrays.

    Args:
        path: Pickle (protocol 3 to 5) of a list of uint8 arrays, RGB, (H, W, 3) or (3, H, W); where both would do,
            (H, W, 3) is taken.
        name: Images are called NAME_000000 and so on.

    Raises:
        InputError: The file is broken, holds anything else than such arrays, or no array.
    """
    path = Path(path)
    try:
        with open(path, 'rb') as file:
            machine = _Machine(_Bounded(file))
            machine.run()
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    except _Refused as error:
        raise InputError(f'{path} holds more than a list of numpy arrays ({error}) and is not read, because '
                         'pickles can run code.') from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:  # bytes that make no sense
        raise InputError(f'{path} is broken, or no pickle of a list of numpy arrays.') from error
    if not machine.arrays:
        raise InputError(f'{path} is an empty list.')
    return [_image(path, f'{name}_{index:06d}', array) for index, array in enumerate(machine.arrays)]


def _image(path, name, array):
    shape = array.shape
    if array.dtype not in ('u1', '|u1'):
        raise InputError(f'Image {name} of {path} has dtype {array.dtype}; uint8 is needed.')
    if not (isinstance(shape, tuple) and all(type(size) is int and size > 0 for size in shape) and len(shape) == 3
            and 3 in (shape[0], shape[2])):
        raise InputError(f'Image {name} of {path} has shape {shape}; (H, W, 3) or (3, H, W) is needed.')
    if array.content.length != shape[0] * shape[1] * shape[2]:
        raise InputError(f'Image {name} of {path} has {array.content.length} bytes, which are not its shape {shape}.')
    return PickledImage(name, path, array.content.offset, shape, array.order)


class _Refused(Exception):
    """An instruction, or a name, that lists of arrays do not need."""


class _Bounded:
    """A file that never tries to read, and so to allocate, more than it has."""

    def __init__(self, file):
        self.file, self.tell, self.readline = file, file.tell, file.readline
        self.size = os.fstat(file.fileno()).st_size

    def read(self, count):
        if count > self.size - self.tell():
            raise ValueError('the file ends too early')
        return self.file.read(count)


@dataclass(frozen=True)
class _Content:
    offset: int
    length: int


@dataclass
class _Dtype:
    name: str


@dataclass
class _Array:
    shape: object = None
    dtype: str = ''
    order: str = 'C'
    content: _Content | None = None


class _Machine:
    """The stack machine on symbols. Names are pairs (module, name); nothing is imported."""

    def __init__(self, file):
        self.file, self.stack, self.memo, self.arrays = file, [], {}, None

    def run(self) -> None:
        for opcode, arg, position in pickletools.genops(self.file):
            self._step(opcode.name, arg, position)

    def _step(self, opcode, arg, position):
        stack = self.stack
        if opcode in VALUES or opcode in TEXTS:
            constants = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
            stack.append(constants.get(opcode, arg))
        elif opcode in BYTES:
            stack.append(_Content(position + BYTES[opcode], len(arg)))
        elif opcode == 'MARK':
            stack.append(MARK)
        elif opcode == 'EMPTY_TUPLE':
            stack.append(())
        elif opcode in TUPLES:
            count = TUPLES[opcode]
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode == 'TUPLE':
            stack.append(tuple(self._pop_to_mark()))
        elif opcode in ('MEMOIZE', 'BINPUT', 'LONG_BINPUT'):
            self.memo[len(self.memo) if opcode == 'MEMOIZE' else arg] = stack[-1]
        elif opcode in ('BINGET', 'LONG_BINGET'):
            stack.append(self.memo[arg])
        elif opcode in ('GLOBAL', 'STACK_GLOBAL'):
            self._name(tuple(arg.split(' ')) if opcode == 'GLOBAL' else (stack.pop(-2), stack.pop()))
        elif opcode == 'REDUCE':
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif opcode == 'BUILD':
            self._set_state(stack.pop(), stack[-1])
        elif opcode in ('EMPTY_LIST', 'APPEND', 'APPENDS', 'STOP'):
            self._list(opcode)
        elif opcode not in ('PROTO', 'FRAME'):
            raise _Refused(f'instruction {opcode}')

    def _pop_to_mark(self):
        place = max(index for index, value in enumerate(self.stack) if value is MARK)
        values = self.stack[place + 1:]
        del self.stack[place:]
        return values

    def _name(self, name):
        if name not in RECONSTRUCT | FROM_BUFFER | {NDARRAY, DTYPE}:
            raise _Refused('.'.join(map(str, name)))
        self.stack.append(name)

    def _call(self, function, arguments):
        if function in RECONSTRUCT and arguments[0] == NDARRAY:
            return _Array()
        if function == DTYPE and isinstance(arguments[0], str):
            return _Dtype(arguments[0])
        if function in FROM_BUFFER:
            content, dtype, shape, order, *axes = arguments
            if axes:
                raise _Refused('an array with permuted axes, which protocol 4 does not make')
            return _filled(_Array(), shape, dtype, order, content)
        raise _Refused(f'a call of {function}')

    def _set_state(self, state, value):
        if isinstance(value, _Array):
            _, shape, dtype, fortran, content = state
            _filled(value, shape, dtype, 'F' if fortran else 'C', content)
        elif not isinstance(value, _Dtype):
            raise _Refused('a state of something else than an array')

    def _list(self, opcode):
        if opcode == 'EMPTY_LIST':
            if self.arrays is not None:
                raise _Refused('a list within the list')
            self.arrays = []
            self.stack.append(self.arrays)
        elif opcode == 'STOP':
            if self.arrays is None or len(self.stack) != 1 or self.stack[0] is not self.arrays:
                raise _Refused('not a list')
        else:
            values = [self.stack.pop()] if opcode == 'APPEND' else self._pop_to_mark()
            if self.stack[-1] is not self.arrays or not all(isinstance(value, _Array) for value in values):
                raise _Refused('a list of other things than arrays')
            self.arrays.extend(values)


def _filled(array, shape, dtype, order, content):
    if not isinstance(content, _Content) or not isinstance(dtype, _Dtype) or order not in ('C', 'F'):
        raise _Refused('an array of objects')
    array.shape, array.dtype, array.order, array.content = shape, dtype.name, order, content
    return array
