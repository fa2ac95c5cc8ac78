"""Which files follow from the settings of a preparation, and their record."""
import json

import pytest

from hcflow_arch import InputError
from hcflow_model.data.prepare.settings import Settings, read_finished, read_settings, write_settings, write_whole


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'scale': 3}, '--scale is 3; allowed are 2, 4, 8, 16'), ({'scale': 4, 'crop': 30}, '--crop is 30.* such as 32'),
    ({'scale': 4, 'crop': 32, 'step': 6}, '--step is 6'), ({'scale': 4, 'crop': 0}, '--crop is 0'),
    ({'scale': 4, 'step': 8}, 'give --crop'), ({'scale': 4, 'thresh': 8}, 'give --crop'),
    ({'scale': 4, 'val': -1}, '--val is -1'), ({'scale': 4, 'crop': 8, 'thresh': -1}, '--thresh is -1'),
    ({'scale': 4, 'resize': (1, 1.5)}, '--resize has 1.5'), ({'scale': 4, 'resize': (0,)}, '--resize has 0;'),
    ({'scale': 4, 'resize': (float('nan'),)}, '--resize has nan'),
    ({'scale': 4, 'resize': (0.5, 1, 0.5)}, '--resize is 0.5 1 0.5; give each factor once'),
    ({'scale': 4, 'min_detail': (5,)}, '--min_detail goes with sub-images; give --crop'),
    ({'scale': 4, 'crop': 8, 'min_detail': (-1,)}, '--min_detail is -1; allowed are 0 to 255'),
    ({'scale': 4, 'crop': 8, 'resize': (1, 0.5, 0.25), 'min_detail': (5, 4)}, 'has 2 values; give one, or .* 3 f'),
    ({'scale': 4, 'val_resize': 0.5}, '--val_resize goes with .*--val'),
    ({'scale': 4, 'val': 1, 'val_resize': 2}, '--val_resize has 2')])
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        Settings(**arguments)


@pytest.mark.parametrize(('size', 'crop', 'step', 'thresh', 'starts'), [
    (64, 32, 16, 0, [0, 16, 32]), (68, 32, 16, 0, [0, 16, 32, 36]), (68, 32, 16, 4, [0, 16, 32]),
    (68, 32, 16, 3, [0, 16, 32, 36]), (32, 32, 16, 0, [0]), (60, 32, 32, 0, [0, 28]), (100, 32, 48, 0, [0, 48, 68])])
def test_starts_of_sub_images(size, crop, step, thresh, starts):
    """The last one ends at the border; what the step leaves out before it is taken as in BasicSR."""
    windows = Settings(4, crop, step, thresh).windows('a', size, crop)
    assert windows == [(f'a_s{index:03d}', start, 0, crop, crop) for index, start in enumerate(starts, 1)]


def test_half_of_crop_is_the_default_step():
    assert [Settings(scale, crop).step for scale, crop in ((4, 480), (8, 24), (4, 4))] == [240, 8, 4]


def test_sub_images_are_numbered_row_by_row():
    windows = Settings(2, 4, 4).windows('a', 8, 12)
    assert [window[1:3] for window in windows] == [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8)]


def test_files_of_an_image():
    settings = Settings(4, 32, 32, val=1, val_images=('b',))
    assert settings.sizes('a', 32, 64) == {
        'train_HR_sub': {'a_s001': (32, 32), 'a_s002': (32, 32)},
        'train_LR_bicubic_X4_sub': {'a_s001': (8, 8), 'a_s002': (8, 8)}}
    assert settings.sizes('b', 20, 64) == {'val_HR': {'b': (20, 64)}, 'val_LR_bicubic_X4': {'b': (5, 16)}}
    assert Settings(8, hr_only=True).sizes('a', 16, 24) == {'train_HR': {'a': (16, 24)}}


def test_files_of_an_image_at_several_sizes():
    """All names tell the size; what is too small at a size is not among them. Validation images have one size."""
    settings = Settings(4, 16, 16, hr_only=True, val_images=('b',), resize=(1, 0.75, 0.3), val_resize=0.5)
    assert settings.sizes('a', 32, 44) == {'train_HR_sub': dict.fromkeys(
        [*(f'a_x1_s00{index}' for index in range(1, 7)), *(f'a_x0p75_s00{index}' for index in range(1, 5))], (16, 16))}
    assert [*settings.sizes('a', 32, 44, [0, 2, 3, 4, 5, 6, 8])['train_HR_sub']] == [
        'a_x1_s002', 'a_x0p75_s002', 'a_x0p75_s004']
    assert settings.sizes('b', 32, 44) == {'val_HR': {'b': (16, 20)}}
    assert Settings(4, resize=(0.5, 0.1)).sizes('a', 20, 24)['train_LR_bicubic_X4'] == {'a_x0p5': (2, 3)}


@pytest.mark.parametrize('settings', [
    Settings(4, 32, 16, val=1, val_images=('b',)),
    Settings(4, 32, 16, val=1, val_images=('b',), resize=(1, 0.5), min_detail=(3,), val_resize=0.25)])
def test_settings_are_stored(settings, tmp_path):
    assert read_settings(tmp_path) is read_settings(tmp_path / 'new') is None
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


@pytest.mark.parametrize('text', ['{', '[]', '{"scale": 3, "val_images": []}', '{"scale": 4}',
                                  '{"scale": 4, "val_images": [], "other": 1}'])
def test_broken_settings(text, tmp_path):
    (tmp_path / 'prepare.json').write_text(text)
    with pytest.raises(InputError, match=r'prepare\.json cannot be read'):
        read_settings(tmp_path)


def test_folders_of_other_things(tmp_path):
    (tmp_path / 'file').write_text('x')
    for path in (tmp_path, tmp_path / 'file'):
        with pytest.raises(InputError, match='did not make'):
            read_settings(path)


def test_half_a_line_is_no_record(tmp_path):
    lines = [json.dumps({'name': name, 'stamp': [], 'size': [size, 4]})
             for name, size in (('a', 1), ('b', 2), ('a', 3))]
    lines += ['5', '[]', '{"name": "c"}', '{"name": [], "stamp": 1, "size": [1, 1]}', '[' * 100_000, '\0']
    lines += [f'{{"name": "c", "stamp": 1, "size": {size}}}' for size in (
        '5', '[1]', '["a", 1]', '[1, 0]', '[1, 1e99]', '[1.5, 2]', '[true, 2]',
        '[1, 1], "dropped": 5', '[1, 1], "dropped": ["a"]', '[1, 1], "dropped": [true]')]
    (tmp_path / 'finished.jsonl').write_text('\n'.join(lines) + '\n{"name": "c", "si')
    assert {name: record['size'] for name, record in read_finished(tmp_path).items()} == {'a': [3, 4], 'b': [2, 4]}


def test_files_are_whole_or_not_there(tmp_path):
    write_whole(tmp_path / 'a', b'1')
    (tmp_path / '.a.part').mkdir()  # cannot be written
    with pytest.raises(InputError, match='Cannot write'):
        write_whole(tmp_path / 'a', b'2')
    assert (tmp_path / 'a').read_bytes() == b'1'


def test_planted_links_are_not_written_through(tmp_path):
    (tmp_path / 'mine').write_bytes(b'mine')
    for link in ('a', '.a.part'):
        (tmp_path / link).symlink_to(tmp_path / 'mine')
    write_whole(tmp_path / 'a', b'2')
    assert (tmp_path / 'mine').read_bytes() == b'mine' and (tmp_path / 'a').read_bytes() == b'2'
    assert not (tmp_path / 'a').is_symlink() and not (tmp_path / '.a.part').exists()
