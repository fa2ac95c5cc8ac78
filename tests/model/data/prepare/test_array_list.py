"""Pickled lists of images are read without running anything."""
import os
import pickle
import struct

import numpy as np
import pytest

from hcflow_arch import InputError
from hcflow_model.data.prepare import array_list
from hcflow_model.data.prepare.array_list import read_array_list


def images(count=3, height=6, width=5):
    return [np.random.default_rng(seed).integers(0, 256, (height + seed, width, 3), np.uint8) for seed in range(count)]


def write(path, content, protocol=4):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


def assert_reads(path, wanted):
    items = read_array_list(path, 'set')
    assert [item.name for item in items] == [f'set_{index:06d}' for index in range(len(wanted))]
    for item, image in zip(items, wanted, strict=True):
        got = item.read()
        assert got.flags.c_contiguous and got.dtype == np.uint8 and np.array_equal(got[:, :, ::-1], image)


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_arrays_of_both_layouts(protocol, tmp_path):
    hwc = images()
    assert_reads(write(tmp_path / 'hwc.pklv4', hwc, protocol), hwc)
    chw = [np.ascontiguousarray(image.transpose(2, 0, 1)) for image in hwc]
    assert_reads(write(tmp_path / 'chw.pklv4', chw, protocol), hwc)
    columns = [np.asfortranarray(image) for image in hwc]
    assert_reads(write(tmp_path / 'columns.pklv4', columns, protocol), hwc)


def test_many_and_large_arrays(tmp_path):
    """Lists go in batches of 1000, and arrays above 64 KiB lie outside of the pickle's frames."""
    wanted = images(1) * 2 + [np.full((3, 4, 3), value % 256, np.uint8) for value in range(1203)] + images(2, 160, 160)
    assert_reads(write(tmp_path / 'many.pklv4', wanted), wanted)


def test_names_of_numpy_1(tmp_path):
    wanted = images(2)
    text = pickle.dumps(wanted, 3).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert b'_core' not in text
    assert_reads(write(tmp_path / 'text.pklv4', text), wanted)
    framed = pickle.dumps(wanted, 4)
    framed = framed.replace(b'\x16numpy._core.multiarray', b'\x15numpy.core.multiarray')
    framed = framed[:3] + struct.pack('<Q', len(framed) - 11) + framed[11:]
    assert len(pickle.loads(framed)) == 2
    assert_reads(write(tmp_path / 'framed.pklv4', framed), wanted)


class Attack:
    """Unpickling it makes a folder."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize('wrap', [lambda attack: attack, lambda attack: [*images(), attack],
                                  lambda attack: [np.array([attack], object)], lambda attack: [[attack]]])
def test_nothing_in_it_runs(protocol, wrap, tmp_path):
    canary = tmp_path / 'canary'
    path = write(tmp_path / 'evil.pklv4', wrap(Attack(os.mkdir, str(canary))), protocol)
    with pytest.raises(InputError, match='holds more than a list of numpy arrays|is broken'):
        read_array_list(path, 'set')
    assert not canary.exists()
    pickle.loads(path.read_bytes())  # the attack itself works
    assert canary.is_dir()


def test_functions_of_numpy_that_run_code_are_refused(tmp_path):
    """numpy has functions that load and evaluate; only those that make plain arrays are known by name."""
    path = write(tmp_path / 'load.pklv4', [Attack(np.load, 'x.npy'), Attack(np.fromfile, '/dev/zero')])
    with pytest.raises(InputError, match=r'numpy.*load'):
        read_array_list(path, 'set')


class Permuted:
    """Pickled as NumPy pickles an array with permuted axes from version 2.3 on."""

    def __reduce__(self):
        return np.zeros(1).__reduce_ex__(5)[0], (bytes(60), np.dtype('u1'), (4, 5, 3), 'K', (2, 0, 1))


@pytest.mark.parametrize(('content', 'message'), [
    (images() + ['text'], 'other things than arrays'), ([images()], 'a list within the list'),
    ({'a': images()[0]}, 'EMPTY_DICT'), (images()[0], 'not a list'), (None, 'not a list'), ([], 'is an empty list'),
    ([np.array([None, 'a'], object)], 'a list within the list'),
    ([np.zeros((4, 4, 3), np.float32)], 'set_000000 .* has dtype f4; uint8'),
    ([*images(), np.zeros((4, 4), np.uint8)], r'set_000003 .* has shape \(4, 4\)'),
    ([np.zeros((4, 4, 4), np.uint8)], r'has shape \(4, 4, 4\)'),
    ([np.zeros((0, 4, 3), np.uint8)], r'shape \(0, 4, 3\)'),
    (pickle.dumps([Permuted()], 5), 'permuted axes'),
    (b'', 'is broken'), (b'no pickle', 'is broken'), (pickle.dumps(images(), 4)[:-40], 'is broken'),
    (b'\x80\x04]\x94(K\x01', 'is broken'), (b'\x80\x04]\x940.', 'instruction POP')])
def test_other_contents_are_refused(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_array_list(write(tmp_path / 'set.pklv4', content), 'set')


@pytest.mark.parametrize('text', [b'\x8e' + struct.pack('<Q', 2**50), b'B' + struct.pack('<I', 2**32 - 1),
                                  b'\x96' + struct.pack('<Q', 2**62)])
def test_sizes_beyond_the_file_are_not_allocated(text, tmp_path):
    with pytest.raises(InputError, match='is broken'):
        read_array_list(write(tmp_path / 'huge.pklv4', b'\x80\x05]' + text + b'abc'), 'set')


def test_shape_and_bytes_must_agree(tmp_path):
    path = write(tmp_path / 'set.pklv4', pickle.dumps([np.zeros((4, 5, 3), np.uint8)], 4).replace(b'K\x04K\x05K\x03',
                                                                                                b'K\x09K\x05K\x03'))
    with pytest.raises(InputError, match=r'60 bytes, which are not its shape \(9, 5, 3\)'):
        read_array_list(path, 'set')


DEEP = b'\x85' * 200_000  # a tuple in a tuple in a tuple …


@pytest.mark.slow
@pytest.mark.parametrize('text', [
    b'\x80\x04)' + DEEP + b'\x8c\x01a\x93.', b'\x80\x04)' + DEEP + b'.', b'\x80\x04](' + b')' + DEEP + b'e.',
    b'\x80\x04](' + b'(' * 40_000 + b't' * 40_000 + b'e.', b'\x80\x04]' + b'(t' * 40_000 + b'e.',
    b'\x80\x04](' + b'cnumpy\ndtype\n)' + DEEP + b'Re.',
    b'\x80\x04]cnumpy._core.multiarray\n_reconstruct\n)R(K\x00)' + DEEP
    + b'cnumpy\ndtype\n\x8c\x02u1\x85R\x89C\x00tba.',
    b'\x80\x04]r\xff\xff\xff\x7f.', b'\x80\x04]' + b'q\xff' * 3 + b'.', b'\x80\x04]' + b'K\x01' * 500_001 + b'.'])
def test_depth_and_size_are_bounded(text, tmp_path, monkeypatch):
    """None of these ends the process, or fills memory."""
    monkeypatch.setattr(array_list, 'MAX_INSTRUCTIONS', 500_000)
    with pytest.raises(InputError, match='is not read|is broken|shape'):
        read_array_list(write(tmp_path / 'evil.pklv4', text), 'set')


def test_calls_of_what_the_file_makes(tmp_path):
    """Instructions that call and set state, on whatever the allowed names lead to."""
    makers = [b'cnumpy\nndarray\n', b'cnumpy\ndtype\n', b'cnumpy._core.numeric\n_frombuffer\n',
              b'cnumpy.core.multiarray\n_reconstruct\n', b'N', b']', b'C\x00', b'\x8c\x01a', b')']
    makers += [maker + b')R' for maker in makers]
    for first in makers:
        for second in makers[4:7]:
            for end in (b'R.', b'b.', b'a.', b'\x85R.', b'\x85b.', b'(' + second + b'e.'):
                with pytest.raises(InputError):
                    read_array_list(write(tmp_path / 'evil.pklv4', b'\x80\x04' + first + second + end), 'set')


def test_only_regular_files(tmp_path):
    os.mkfifo(tmp_path / 'fifo.pklv4')
    with pytest.raises(InputError, match='it is no regular file'):
        read_array_list(tmp_path / 'fifo.pklv4', 'set')
