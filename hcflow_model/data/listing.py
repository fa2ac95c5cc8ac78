"""Which images a dataset has, read in one way by the check of the options and by training."""
import os
import re
from codecs import BOM_UTF8
from pathlib import Path

from basicsr.utils import scandir

from hcflow_arch import InputError
from hcflow_model.images.files import IMAGE_ENDINGS

LMDB_LINE = re.compile(r'([^.\s]+)\.\S+[ \t]+\((\d{1,9}),(\d{1,9})(?:,\d{1,9})?\)')  # 'baboon.png (480,500,3) 1'


def images_in_folder(folder: str) -> list[str]:
    """Names of the images in a folder itself, in the system's order. Other files, such as Thumbs.db, are left out."""
    return [name for name in scandir(folder) if name.lower().endswith(IMAGE_ENDINGS)]


def images_in_file(path: str) -> list[str]:
    """Names in a `meta_info_file`: the first word of every line; spaces and tabs separate words.

    Raises:
        InputError: The file cannot be read.
    """
    return [re.split(r'[ \t]', line)[0] for line in _lines(path)]


def words_in_file(path: str) -> list[str]:
    """All words of a list of another form, in which spaces, tabs and commas separate them."""
    return [word for line in _lines(path) for word in re.split(r'[ \t,]+', line) if word]


def images_in_lmdb(root: str) -> dict[str, tuple[int, int]]:
    """{key: (height, width)} from the meta_info.txt of an LMDB as BasicSR makes it.

    Raises:
        InputError: The file cannot be read, or one of its lines is of another form.
    """
    sizes = {}
    for number, line in enumerate(_lines(f'{root}/meta_info.txt'), 1):
        match = LMDB_LINE.match(line)
        if not match:
            raise InputError(f"line {number} of meta_info.txt in {root} is {line[:80]!r}; it must be as 'baboon.png "
                             "(480,500,3) 1', without a dot in the name.")
        if match.group(1) in sizes:
            raise InputError(f'meta_info.txt in {root} lists {match.group(1)} twice.')
        sizes[match.group(1)] = (int(match.group(2)), int(match.group(3)))
    return sizes


def _lines(path):
    """Lines that are not blank. Bytes that are no UTF-8 stay in names as Python keeps them in names of files."""
    try:
        text = os.fsdecode(Path(path).read_bytes().removeprefix(BOM_UTF8))
    except OSError as error:
        raise InputError(f'{path} cannot be read: {error.strerror}.') from error
    if '\0' in text:
        raise InputError(f'{path} cannot be read: it is not text.')
    lines = [line.strip(' \t') for line in re.split(r'\r\n|\r|\n', text)]
    return [line for line in lines if line]
