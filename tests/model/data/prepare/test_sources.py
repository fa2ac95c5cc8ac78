"""Images of a folder: names, and pixels as BasicSR's loaders see them."""
import errno
import os
import socket

import cv2
import numpy as np
import pytest
from basicsr.utils import imfrombytes
from PIL import Image

from hcflow_arch import InputError
from hcflow_model.data.prepare.sources import LeftOut, find_images, one_image, plain_name

NOISE = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'x')


def test_names_are_those_of_files_and_subfolders(tmp_path):
    touch(tmp_path, 'b.JPG', 'a b.png', 'sub/deep/c.v2.tif', '.hidden.png', '.git/d.png', 'readme.txt', 'photo_é.webp')
    items = find_images(tmp_path)
    assert [item.name for item in items] == ['a_b', 'b', 'photo_-e9', 'sub_deep_c_v2']
    assert items[1].path == tmp_path / 'b.JPG'


def test_long_names_stay_apart():
    names = [plain_name('x' * 300 + end) for end in 'ab']
    assert names[0] != names[1] and all(len(name) == 180 for name in names)


@pytest.mark.parametrize('names', [('a.png', 'a.jpg'), ('s_a.png', 's/a.png'), ('a b.png', 'a_b.png')])
def test_equal_names_are_refused(names, tmp_path):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match='would both be called'):
        find_images(tmp_path)


@pytest.mark.parametrize(('name', 'message'), [('nothing', 'does not exist'), ('empty', 'holds no images'),
                                               ('a.png', 'is a file')])
def test_sources_that_are_none(name, message, tmp_path):
    (tmp_path / 'empty').mkdir()
    touch(tmp_path, 'a.png')
    with pytest.raises(InputError, match=message):
        find_images(tmp_path / name)


def problems(folder):
    """{path: why} of what was left out while searching."""
    return {str(item.path.relative_to(folder)): item.problem for item in find_images(folder) if item.problem}


def test_folders_that_cannot_be_searched_do_not_stop_the_others(tmp_path, monkeypatch):
    touch(tmp_path, 'a.png', 'locked/b.png')
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)  # whoever runs the tests may be allowed everything
    assert problems(tmp_path) == {'locked': 'cannot be searched: Permission denied'}
    item, locked = find_images(tmp_path)
    assert item.name == 'a'
    with pytest.raises(LeftOut, match='cannot be searched'):
        locked.read()


def test_linked_folders_are_named(tmp_path):
    """Also where names become equal; links to files are files."""
    touch(tmp_path, 'in/a b.png', 'in/a.png', 'elsewhere/c.png')
    for link in ('a', 'a b', 'a_b', '.hidden', 'loop'):
        (tmp_path / 'in' / link).symlink_to(tmp_path / ('in' if link == 'loop' else 'elsewhere'))
    (tmp_path / 'in' / 'd.png').symlink_to(tmp_path / 'elsewhere' / 'c.png')
    assert problems(tmp_path / 'in').keys() == {'a', 'a b', 'a_b', 'loop'}
    assert [item.name for item in find_images(tmp_path / 'in') if not item.problem] == ['a', 'a_b', 'd']


def test_only_regular_files_are_read(tmp_path):
    """A FIFO would wait for its writer, /dev/zero never ends."""
    os.mkfifo(tmp_path / 'fifo.png')
    (tmp_path / 'endless.png').symlink_to('/dev/zero')
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'link.png').symlink_to(tmp_path / 'link.png')
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        listener.bind('socket.png')
        os.chdir(before)
        items = find_images(tmp_path)
        assert [item.name for item in items] == ['endless', 'fifo', 'link', 'socket']
        for item in items:
            with pytest.raises(LeftOut, match='cannot be read'), one_image():
                item.read()


def test_files_beyond_what_can_be_decoded(tmp_path):
    with open(tmp_path / 'a.png', 'wb') as file:
        file.truncate(2**40)  # which takes no space
    item, = find_images(tmp_path)
    with pytest.raises(LeftOut, match='has more than 2147483647 bytes'):
        item.read()


NAMES = [b'caf\xe9.png', b'\xff' * 251 + b'.png', 'é'.encode() * 125 + b'.png', b'a' * 251 + b'.png', b'new\nline.png',
         b'tab\t.png', b'quo"te\'.png', '日本.png'.encode(), b'%s{}.png', b'-o.png']


def test_every_name_that_a_file_system_holds(tmp_path):
    for name in NAMES:
        cv2.imwrite(str(tmp_path / 'image.png'), NOISE)
        os.rename(tmp_path / 'image.png', os.fsencode(tmp_path) + b'/' + name)
    items = find_images(tmp_path)
    assert len({item.name for item in items}) == len(NAMES)
    for item in items:
        assert item.name.isascii() and len(item.name) <= 180 and item.read().shape == (12, 10, 3)


def write_kinds(folder):
    """Grey, alpha, 16-bit, CMYK, palette and turned images. Returns the number."""
    cv2.imwrite(str(folder / 'grey.png'), NOISE[..., 0])
    cv2.imwrite(str(folder / 'alpha.png'), NOISE)
    cv2.imwrite(str(folder / 'deep.png'), NOISE[..., :3].astype(np.uint16) * 257 - 40)
    Image.fromarray(NOISE, 'CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(NOISE[..., :3]).quantize(7).save(folder / 'palette.png')
    turned = Image.fromarray(NOISE[..., :3])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / 'turned.jpg', exif=exif)
    return 6


def test_kinds_of_images_are_read_as_in_training(tmp_path):
    count = write_kinds(tmp_path)
    items = find_images(tmp_path)
    assert len(items) == count
    for item in items:
        image = item.read()
        assert image.dtype == np.uint8 and image.shape == ((10, 12, 3) if item.name == 'turned' else (12, 10, 3))
        assert np.array_equal(image, imfrombytes(item.path.read_bytes()))


def test_broken_images_say_why(tmp_path):
    cv2.imwrite(str(tmp_path / 'whole.png'), NOISE)
    cv2.imwrite(str(tmp_path / 'photo.jpg'), NOISE[..., :3])
    png, jpg = ((tmp_path / name).read_bytes() for name in ('whole.png', 'photo.jpg'))
    for name, text in (('cut.png', png[:-60]), ('cut2.jpg', jpg[:-60]), ('empty.png', b''), ('text.png', b'no image')):
        (tmp_path / name).write_bytes(text)
    (tmp_path / 'gone.png').symlink_to(tmp_path / 'nowhere')
    items = {item.name: item for item in find_images(tmp_path)}
    assert items['whole'].read().shape == (12, 10, 3)
    for name in ('cut', 'cut2', 'empty', 'text', 'gone'):
        with pytest.raises(LeftOut, match='No such file' if name == 'gone' else 'is broken, or no image'), one_image():
            items[name].read()
    assert items['gone'].stamp() == []
