"""Image files: against Pillow, an independent reader and writer, and against files that are broken."""
import io
import os
import struct

import cv2
import numpy as np
import pytest
from helpers import DATA
from PIL import Image, ImageCms, PngImagePlugin

from hcflow_arch import InputError
from hcflow_model.images import files as image_io
from hcflow_model.images import png
from hcflow_model.images.exif import texts_of, with_texts
from hcflow_model.images.files import (
    as_depth,
    automatic_extension,
    find_images,
    image_size,
    read_image,
    read_image_file,
    write_image,
)
from hcflow_model.utils import files

CAT = DATA / 'val_lq_x4' / 'cat.png'
BGR = cv2.imread(str(CAT))
RGB = Image.fromarray(BGR[..., ::-1])
ORIENTATION = 274


def random_pixels(channels, dtype=np.uint8, size=(9, 12)):
    values = np.random.default_rng(0).random(size if channels is None else (*size, channels))
    return values.astype(dtype) if np.dtype(dtype).kind == 'f' else (values * np.iinfo(dtype).max).astype(dtype)


def as_opencv(image):
    pixels = np.array(image)
    return pixels if pixels.ndim == 2 else pixels[..., {2: [0, 1], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]]


@pytest.mark.parametrize('mode,name', [
    ('RGB', 'a.png'), ('RGBA', 'a.png'), ('L', 'a.png'), ('LA', 'a.png'), ('P', 'a.png'), ('1', 'a.png'),
    ('L', 'a.jpg'), ('RGBA', 'a.webp'), ('RGB', 'a.tif'), ('L', 'a.tif'), ('P', 'a.bmp')])
def test_modes(mode, name, tmp_path):
    image = RGB.convert(mode)
    if mode in ('RGBA', 'LA'):
        image.putalpha(RGB.convert('L'))
    image.save(tmp_path / name, **({'lossless': True} if name.endswith('webp') else {}))
    wanted = as_opencv(Image.open(tmp_path / name).convert({'P': 'RGB', '1': 'L'}.get(mode, mode)))
    got = read_image(tmp_path / name)
    assert got.dtype == np.uint8 and got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= (2 if name.endswith('jpg') else 0)


def test_palette_with_transparency(tmp_path):
    RGB.quantize(20).save(tmp_path / 'a.png', transparency=3)
    assert np.array_equal(read_image(tmp_path / 'a.png'), as_opencv(Image.open(tmp_path / 'a.png').convert('RGBA')))


def test_cmyk_jpeg_is_seen_as_rgb(tmp_path):
    RGB.convert('CMYK').save(tmp_path / 'a.jpg', quality=98)
    got = read_image(tmp_path / 'a.jpg')
    assert got.shape == BGR.shape and np.abs(got.astype(int) - BGR).mean() < 4


@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.webp', 'a.tif'])
def test_every_orientation(name, tmp_path):
    turned = {1: BGR, 2: np.fliplr(BGR), 3: np.rot90(BGR, 2), 4: np.flipud(BGR), 5: BGR.swapaxes(0, 1),
              6: np.rot90(BGR, -1), 7: np.rot90(BGR, 2).swapaxes(0, 1), 8: np.rot90(BGR)}
    for orientation, wanted in turned.items():
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        RGB.save(tmp_path / name, exif=exif, quality=98, **({'lossless': True} if name == 'a.webp' else {}))
        got = read_image(tmp_path / name)
        assert got.shape == wanted.shape
        assert np.abs(got.astype(int) - wanted).mean() < (3 if name == 'a.jpg' else 1e-9)


@pytest.mark.parametrize('channels', [None, 2, 3, 4])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
def test_nothing_is_lost(channels, dtype, tmp_path):
    pixels = random_pixels(channels, dtype)
    name = 'a.png' if dtype != np.float32 else 'a.tif'
    write_image(tmp_path / 'new' / 'folder' / name, pixels)
    if (channels, dtype) == (2, np.float32):
        pixels = pixels[..., [0, 0, 0, 1]]  # in TIFF, grey with alpha becomes BGRA
    got = read_image(tmp_path / 'new' / 'folder' / name)
    assert got.dtype == dtype and np.array_equal(got, pixels)
    assert os.listdir(tmp_path / 'new' / 'folder') == [name]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_grey_with_alpha_is_read_by_others(dtype, tmp_path):
    pixels = random_pixels(2, dtype)
    write_image(tmp_path / 'a.png', pixels)
    assert np.array_equal(cv2.imread(str(tmp_path / 'a.png'), cv2.IMREAD_UNCHANGED), pixels[..., [0, 0, 0, 1]])
    assert Image.open(tmp_path / 'a.png').mode in ('LA', 'RGBA')


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp'])
def test_colour_profile_is_kept(name, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    write_image(tmp_path / name, BGR, profile)
    assert Image.open(tmp_path / name).info['icc_profile'] == profile == read_image_file(tmp_path / name).profile
    write_image(tmp_path / f'grey_{name}', BGR[..., 0], profile)  # a profile of colours does not fit grey
    if name != 'a.webp':  # which has no grey
        assert read_image_file(tmp_path / f'grey_{name}').profile is None


def test_text_of_png(tmp_path):
    write_image(tmp_path / 'a.png', BGR, text={'hcflow': '{"ä": 1}'})
    assert read_image_file(tmp_path / 'a.png').text == Image.open(tmp_path / 'a.png').text == {'hcflow': '{"ä": 1}'}
    with pytest.raises(InputError, match='.bmp keeps no text'):
        write_image(tmp_path / 'a.bmp', BGR, text={'hcflow': ''})


@pytest.mark.parametrize('pixels', [BGR, BGR[..., 0], np.dstack([BGR, BGR[..., 0]])], ids=['colour', 'grey', 'alpha'])
@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp'])
def test_text_beside_a_profile(name, pixels, tmp_path):
    if name == 'a.jpg' and pixels.shape[2:] == (4,):
        pytest.skip('JPEG holds no alpha')
    text = {'hcflow': '{"a": 1, "b": ": "}', 'author': 'x'}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes() if pixels.ndim == 3 else None
    write_image(tmp_path / name, pixels, profile, text)
    file = read_image_file(tmp_path / name)
    assert file.text == text and file.profile == profile
    if name != 'a.png':
        comment = Image.open(tmp_path / name).getexif().get_ifd(34665)[37510]  # as others read it
        assert comment == b'ASCII\0\0\0' + b'hcflow: {"a": 1, "b": ": "}\nauthor: x'


def test_comments_of_others(tmp_path):
    for comment in (b'', b'ASCII\0\0\0shot at 12:30', b'UNICODE\0hcflow: 1', b'ASCII\0\0\0hcflow: \xff'):
        exif = Image.Exif()
        exif.get_ifd(34665)[37510] = comment
        RGB.save(tmp_path / 'a.jpg', exif=exif)
        assert read_image_file(tmp_path / 'a.jpg').text == ({'hcflow': '\ufffd'} if b'\xff' in comment else {})
    whole = with_texts({'hcflow': 'text'})
    for length in range(len(whole)):  # cut off
        assert texts_of(whole[:length]).get('hcflow', '') in ('', 't', 'te', 'tex')
    assert texts_of(b'MM' + whole[2:]) == {}
    assert texts_of(whole[:18] + (2**32 - 1).to_bytes(4, 'little') + whole[22:]) == texts_of(b'') == {}


def test_png_that_pillow_refuses_is_read(tmp_path):
    """It takes no profiles above 1 MiB; what is lost is the text alone."""
    text = PngImagePlugin.PngInfo()
    text.add_text('hcflow', '1')
    RGB.save(tmp_path / 'a.png', icc_profile=bytes(2**21), pnginfo=text)
    assert np.array_equal(read_image(tmp_path / 'a.png'), BGR)


@pytest.mark.parametrize('bits', [1, 8, 16])
def test_grey_level_that_is_transparent(bits, tmp_path):
    pixels = (np.arange(20).reshape(4, 5) % 2 ** min(bits, 4)).astype(np.uint16 if bits == 16 else np.uint8)
    image = Image.fromarray(pixels.astype(bool)) if bits == 1 else Image.fromarray(pixels)
    image.save(tmp_path / 'a.png', transparency=1)
    wanted = pixels * 255 if bits == 1 else pixels
    got = read_image(tmp_path / 'a.png')
    assert np.array_equal(got[..., 0], wanted) and got.dtype == pixels.dtype
    assert np.array_equal(got[..., 1], np.where(pixels == 1, 0, np.iinfo(got.dtype).max))


def save(kind, **arguments):
    buffer = io.BytesIO()
    RGB.save(buffer, kind, **arguments)
    return buffer.getvalue()


BROKEN = {
    'empty.png': b'', 'text.png': b'not an image', 'no_pixels.png': save('PNG')[:60],
    **{f'cut{share}.{kind}': save(kind.upper())[:int(share * len(save(kind.upper())))]
       for kind in ('png', 'jpeg', 'webp', 'tiff', 'bmp') for share in (0.4, 0.98)},
    'progressive.jpg': save('JPEG', progressive=True)[:-400], 'thumbnail.jpg': save('JPEG')[:-300] + b'\xff\xc4',
    'changed.png': save('PNG')[:-60] + bytes(20) + save('PNG')[-40:],
}


@pytest.mark.parametrize('name', BROKEN)
def test_broken_files_are_named(name, tmp_path, capfd):
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(InputError, match=name):
        read_image(tmp_path / name)
    assert capfd.readouterr() == ('', '')  # nothing of OpenCV's own


def test_jpeg_without_its_end_is_found_without_the_decoder():
    content = save('JPEG', quality=98)
    image_io._check_whole_jpeg(content, 'a.jpg')
    image_io._check_whole_jpeg(content + b'appended by a camera', 'a.jpg')
    image_io._check_whole_jpeg(content[:-2] + b'\xff' + content[-2:], 'a.jpg')  # a marker may have fill bytes before it
    thumbnail = b'\xff\xd8\xff\xe1' + (len(content) + 2).to_bytes(2, 'big') + content + content[2:]
    image_io._check_whole_jpeg(thumbnail, 'a.jpg')
    for cut in (thumbnail[:-len(content) // 2], content[:-2], content[:300], content[:3]):
        with pytest.raises(InputError, match='cut off'):
            image_io._check_whole_jpeg(cut, 'a.jpg')


@pytest.mark.parametrize('mode', ['CMYK', 'LA', 'RGBA'])
def test_tiff_that_would_be_misread_is_refused(mode, tmp_path):
    RGB.convert(mode).save(tmp_path / 'a.tif')
    with pytest.raises(InputError, match='a.tif.*PNG'):
        read_image(tmp_path / 'a.tif')


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / 'no.png', tmp_path):
        with pytest.raises(InputError, match='cannot be read'):
            read_image(path)


def test_what_formats_do_not_hold(tmp_path):
    with pytest.raises(InputError, match='transparency'):
        write_image(tmp_path / 'a.jpg', random_pixels(4))
    with pytest.raises(InputError, match="'.gif'"):
        write_image(tmp_path / 'a.gif', BGR)
    write_image(tmp_path / 'a.bmp', random_pixels(3, np.uint16))
    assert np.array_equal(read_image(tmp_path / 'a.bmp'), (random_pixels(3, np.uint16) / 257).round())
    assert os.listdir(tmp_path) == ['a.bmp']


def test_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_image(tmp_path / 'a.png', BGR)

    def fail(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'fsync', fail)
    with pytest.raises(files.WriteError, match='a.png.*No space left'):
        write_image(tmp_path / 'a.png', BGR[::-1])
    assert os.listdir(tmp_path) == ['a.png'] and np.array_equal(read_image(tmp_path / 'a.png'), BGR)


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(files.WriteError, match='file/a.png'):
        write_image(tmp_path / 'file' / 'a.png', BGR)


def test_depths():
    wide = np.array([[0, 128, 65535]], np.uint16)
    assert np.array_equal(as_depth(wide, np.uint8), [[0, 0, 255]])
    assert np.array_equal(as_depth(np.array([[0, 7, 255]], np.uint8), np.uint16), [[0, 7 * 257, 65535]])
    assert np.array_equal(as_depth(np.array([[-1, 0.5, 2]], np.float32), np.uint16), [[0, 32768, 65535]])
    assert np.array_equal(as_depth(as_depth(wide, np.float32), np.uint16), wide)


@pytest.mark.parametrize('name,pixels,wanted', [
    ('a.JPG', random_pixels(3), '.jpg'), ('a.jpg', random_pixels(4), '.png'),
    ('a.jpg', random_pixels(3, np.uint16), '.png'),
    ('a.tiff', random_pixels(2, np.uint16), '.tiff'), ('a.gif', random_pixels(3), '.png'),
    ('a.png', random_pixels(3, np.float32), '.tif'), ('a.tiff', random_pixels(3, np.float32), '.tiff')])
def test_automatic_extension(name, pixels, wanted):
    assert automatic_extension(name, pixels) == wanted


def test_images_of_a_folder(tmp_path):
    for name in ('b.PNG', 'sub/a.jpg', 'notes.txt', '.hidden/c.png', '.d.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('')
    assert find_images(tmp_path) == ([tmp_path / 'b.PNG', tmp_path / 'sub' / 'a.jpg'], {})


@pytest.mark.parametrize('name', ['a.ppm', 'a.pgm'])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_endings_that_are_read_but_not_written(name, dtype, tmp_path):
    pixels = random_pixels(None if name == 'a.pgm' else 3, dtype)
    cv2.imwrite(str(tmp_path / name), pixels)
    assert np.array_equal(read_image(tmp_path / name), pixels) and automatic_extension(name, pixels) == '.png'
    assert find_images(tmp_path)[0] == [tmp_path / name]
    with pytest.raises(InputError, match=f"format '{name[1:]}' cannot be written"):
        write_image(tmp_path / name, pixels)


def test_what_is_no_regular_file(tmp_path):
    """A reader of a FIFO would wait for ever, one of /dev/zero fill the memory."""
    os.mkfifo(tmp_path / 'a.png')
    os.symlink('/dev/zero', tmp_path / 'b.png')
    os.symlink('nowhere', tmp_path / 'c.png')
    assert [path.name for path in find_images(tmp_path)[0]] == ['a.png', 'b.png', 'c.png']
    for name, problem in (('a.png', 'regular'), ('b.png', 'regular'), ('c.png', 'No such file')):
        with pytest.raises(InputError, match=f'{name} cannot be read: .*{problem}'):
            read_image(tmp_path / name)


def test_size_without_pixels(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    RGB.save(tmp_path / 'a.jpg', exif=exif)
    assert image_size(tmp_path / 'a.jpg') == (RGB.width, RGB.height) == read_image(tmp_path / 'a.jpg').shape[:2]
    header = struct.pack('>IIBBBBB', 16000, 16000, 1, 0, 0, 0, 0)  # above Pillow's limit
    (tmp_path / 'large.png').write_bytes(png.SIGNATURE + png._chunk(b'IHDR', header) + png._chunk(b'IDAT', b''))
    assert image_size(tmp_path / 'large.png') == (16000, 16000)
    (tmp_path / 'text.png').write_text('no image')
    assert image_size(tmp_path / 'text.png') is None


@pytest.mark.parametrize('extension', ['.webp', '.jpg'])
def test_largest_size_of_a_format(extension, tmp_path):
    side = image_io.MAX_SIDE[extension]
    write_image(tmp_path / f'a{extension}', np.zeros((side, 2), np.uint8))
    assert read_image(tmp_path / f'a{extension}').shape[0] == side
    with pytest.raises(InputError, match=f'holds at most {side} pixels'):
        write_image(tmp_path / f'b{extension}', np.zeros((2, side + 1), np.uint8))
