"""Pickled lists of images (SRFlow's `.pklv4`), read without running anything that the file asks for.

A pickle is a program. Here it may use only the instructions that a list of numpy arrays needs, and its names lead to
stand-ins, never to code of NumPy or anybody else. Pixels stay in the file and only their places are kept, so a list of
any size takes little memory.
"""
import io
import mmap
import os
import pickle
import pickletools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hcflow_arch import InputError
from hcflow_model.utils.files import open_regular

ALLOWED = frozenset("""PROTO STOP MARK EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE
    NEWFALSE BININT BININT1 BININT2 LONG1 SHORT_BINUNICODE BINUNICODE BINUNICODE8 GLOBAL STACK_GLOBAL REDUCE BUILD
    MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET""".split())  # noqa: SIM905
BYTES = {'SHORT_BINBYTES': 2, 'BINBYTES': 5, 'BINBYTES8': 9, 'BYTEARRAY8': 9}  # bytes before the content
MAX_INSTRUCTIONS = 5_000_000  # an array takes about 20


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
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            program, places = _without_pixels(content)
        arrays = _Unpickler(program, places).load()
        if not isinstance(arrays, list):
            raise _Refused('not a list')
        if not all(isinstance(array, _Array) for array in arrays):
            raise _Refused('a list of other things than arrays')
        images = [_image(path, f'{name}_{index:06d}', array) for index, array in enumerate(arrays)]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    except _Refused as error:
        raise InputError(f'{path} holds more than a list of numpy arrays ({error}) and is not read, because '
                         'pickles can run code.') from error
    except (pickle.UnpicklingError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'{path} is broken, or no pickle of a list of numpy arrays.') from error
    if not images:
        raise InputError(f'{path} is an empty list.')
    return images


def _image(path, name, array):
    shape = array.shape
    if array.dtype not in ('u1', '|u1'):
        raise InputError(f'Image {name} of {path} has dtype {array.dtype}; uint8 is needed.')
    if not (isinstance(shape, tuple) and all(type(size) is int and size > 0 for size in shape) and len(shape) == 3
            and 3 in (shape[0], shape[2])):
        raise InputError(f'Image {name} of {path} has shape {shape}; (H, W, 3) or (3, H, W) is needed.')
    if array.place.length != shape[0] * shape[1] * shape[2]:
        raise InputError(f'Image {name} of {path} has {array.place.length} bytes, which are not its shape {shape}.')
    return PickledImage(name, path, array.place.offset, shape, array.order)


class _Refused(Exception):
    """An instruction, or a name, that lists of arrays do not need."""


class _Place(NamedTuple):
    """Where a bytes object is in the file."""
    offset: int
    length: int


def _without_pixels(content):
    """The pickle with a persistent id, a number, in place of every bytes object; and the places of these objects."""
    program, places, lists = io.BytesIO(), [], 0
    for count, (opcode, arg, position) in enumerate(pickletools.genops(content)):
        lists += opcode.name == 'EMPTY_LIST'
        if count > MAX_INSTRUCTIONS:
            raise _Refused(f'more than {MAX_INSTRUCTIONS} instructions')
        if lists > 1:
            raise _Refused('a list within the list')
        if opcode.name in BYTES:
            program.write(b'J' + struct.pack('<i', len(places)) + b'Q')
            places.append(_Place(position + BYTES[opcode.name], len(arg)))
        elif opcode.name in ('BINPUT', 'LONG_BINPUT') and arg > count:  # the memo is a table up to this number
            raise ValueError('a number that pickling does not give')
        elif opcode.name in ALLOWED:
            program.write(content[position:content.tell()])
        elif opcode.name != 'FRAME':  # whose length is another one now
            raise _Refused(f'instruction {opcode.name}')
    program.seek(0)
    return program, places


class _Unpickler(pickle.Unpickler):
    def __init__(self, program, places):
        super().__init__(program)
        self.persistent_load = places.__getitem__

    def find_class(self, module, name):
        if (module, name) not in STAND_INS:
            raise _Refused(f'{module}.{name}')
        return STAND_INS[module, name]


class _Dtype:
    def __init__(self, name, *flags):
        self.name = name

    def __setstate__(self, state):
        """The byte order and fields, which uint8 has not."""


class _Array:
    """In place of an array that numpy makes in two steps."""
    shape, dtype, order, place = None, None, 'C', _Place(0, 0)

    def __init__(self, *start):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran, place = state
        self.fill(place, dtype, shape, 'F' if fortran else 'C')

    def fill(self, place, dtype, shape, order, *axes):
        if axes:
            raise _Refused('an array with permuted axes, which protocol 4 does not make')
        if not isinstance(place, _Place) or not isinstance(dtype, _Dtype) or order not in ('C', 'F'):
            raise _Refused('an array of objects')
        self.shape, self.dtype, self.order, self.place = shape, dtype.name, order, place
        return self


def _from_buffer(*arguments):
    return _Array().fill(*arguments)


STAND_INS = {('numpy', 'ndarray'): None, ('numpy', 'dtype'): _Dtype}
for _core in ('core', '_core'):  # numpy 1 and 2
    STAND_INS[f'numpy.{_core}.multiarray', '_reconstruct'] = _Array
    STAND_INS[f'numpy.{_core}.numeric', '_frombuffer'] = _from_buffer  # protocol 5
