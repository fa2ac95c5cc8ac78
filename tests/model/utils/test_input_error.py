"""Which exceptions become one line."""
import errno
import os

import pytest
import torch
from basicsr.data.data_util import paired_paths_from_folder

from hcflow_arch import InputError
from hcflow_model.utils.errors import input_error


def caught(function):
    try:
        function()
    except Exception as error:
        return input_error(error)


def test_what_basicsr_says(tmp_path):
    for name, files in (('gt', ['a.png', 'b.png']), ('lq', ['a.png'])):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    message = caught(lambda: paired_paths_from_folder([tmp_path / 'lq', tmp_path / 'gt'], ['lq', 'gt'], '{}'))
    assert message.startswith('AssertionError: lq and gt datasets have different number')


@pytest.mark.parametrize('slip', [lambda: {}['bug'], lambda: [][0], lambda: int('x'), lambda: None.a, lambda: 1 / 0,
                                  lambda: torch.ones(2) @ torch.ones(3), lambda: paired_paths_from_folder(None, 1, 2)])
def test_bugs_are_not_told(slip):
    assert caught(slip) is None


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            return {}['key']
        except KeyError as error:
            raise InputError('Image a.png is broken.\nReplace it.') from error


def test_errors_of_workers_are_told_whole():
    message = caught(lambda: list(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert message == 'Image a.png is broken.\nReplace it.'


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT,
                                    errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EISDIR])
def test_files_are_named(number):
    message = input_error(OSError(number, os.strerror(number), 'some/file'))
    verb = 'write' if number in (errno.ENOSPC, errno.EROFS, errno.EIO) else 'open'  # that may have been read
    assert message.startswith(f'Cannot {verb} some/file: {os.strerror(number)}.') and '\n' not in message


def test_names_that_the_locale_cannot_write():
    assert caught(lambda: 'ä.png'.encode('ascii')) == (
        "'ä.png' cannot be written in ascii, the encoding of this locale. Set PYTHONUTF8=1 in the environment.")


def test_connections_are_no_files():
    assert input_error(ConnectionRefusedError(errno.ECONNREFUSED, 'refused')) is None
