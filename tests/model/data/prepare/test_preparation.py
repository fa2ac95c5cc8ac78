"""A whole preparation: stopped, continued, changed, refused."""
import json
import multiprocessing
import os
import pickle
import signal

import cv2
import numpy as np
import pytest
from preparing import SUB, contents, run, write_images, write_mostly_flat

from hcflow_arch import InputError
from hcflow_model.data.prepare import Settings, images, preparation
from hcflow_model.data.prepare.packing import lmdb_problem


@pytest.mark.parametrize('workers', [1, 2])
def test_everything_is_written(workers, photos, tmp_path):
    out = tmp_path / 'out'
    prepared = run(photos, out, Settings(4, 32, 32, val=2), lmdb=True, workers=workers)
    assert (prepared.done, prepared.skipped, prepared.left_out) == (6, 0, {})
    assert {folder: len(files) for folder, files in prepared.sizes.items()} == {
        'train_HR_sub': 16, 'train_LR_bicubic_X4_sub': 16, 'val_HR': 2, 'val_LR_bicubic_X4': 2}
    assert contents(out).keys() == {f'{folder}/{stem}.png' for folder, files in prepared.sizes.items()
                                    for stem in files}
    for folder in ('train_HR_sub', 'train_LR_bicubic_X4_sub'):
        assert lmdb_problem(out / f'{folder}.lmdb', out / folder, prepared.sizes[folder]) is None


def test_second_run_does_nothing(photos, tmp_path):
    out = tmp_path / 'out'
    run(photos, out, lmdb=True)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('*') if path.suffix in ('.png', '.mdb')}
    again = run(photos, out)
    assert (again.done, again.skipped, again.lmdb) == (0, 6, True)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def run_until_killed(photos, out, num_files, settings=SUB):
    """SIGKILL in the middle of writing a file."""
    written = []
    write_whole = images.write_whole

    def write_or_die(path, content):
        written.append(path)
        if len(written) > num_files:
            path.with_name(f'.{path.name}.part').write_bytes(content[:len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write_whole(path, content)

    images.write_whole = write_or_die
    run(photos, out, settings)


def test_killed_run_is_continued(photos, tmp_path):
    """The second run gives what one run would have given, and nothing else."""
    out, whole = tmp_path / 'out', tmp_path / 'whole'
    process = multiprocessing.get_context('fork').Process(target=run_until_killed, args=(photos, out, 4 * 8 + 3))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(contents(out)) == 4 * 8 + 3 and len(list(out.rglob('.*.part'))) == 1
    again = run(photos, out, lmdb=True)
    assert (again.skipped, again.done) == (4, 2)
    run(photos, whole)
    assert contents(out) == contents(whole) and len(contents(out)) == 6 * 8
    assert not list(out.rglob('.*'))


DETAIL = Settings(4, 16, 16, resize=(1, 0.5), min_detail=(9, 6), val=1, val_resize=0.5)


def test_dropped_sub_images_stay_dropped(tmp_path):
    """A second run, one that was interrupted, and one after damage know which sub-images there should be."""
    photos, out, part = write_mostly_flat(tmp_path / 'photos'), tmp_path / 'out', tmp_path / 'part'
    first = run(photos, out, DETAIL, lmdb=True)
    # 48x64: three rows, of whose four sub-images two have detail; 24x32: two rows, of whose two one has
    assert {folder: len(files) for folder, files in first.sizes.items()} == {
        'train_HR_sub': 5 * 8, 'train_LR_bicubic_X4_sub': 5 * 8, 'val_HR': 1, 'val_LR_bicubic_X4': 1}
    assert first.dropped == 5 * 8
    again = run(photos, out, DETAIL)
    assert (again.done, again.skipped, again.dropped, again.sizes) == (0, 6, 40, first.sizes)
    process = multiprocessing.get_context('fork').Process(target=run_until_killed, args=(photos, part, 51, DETAIL))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    resumed = run(photos, part, DETAIL)
    assert resumed.skipped >= 3 and resumed.dropped == 40 and contents(part) == contents(out)
    damaged = next((out / 'train_HR_sub').iterdir())
    damaged.write_bytes(b'x')
    assert (run(photos, out, DETAIL).done, contents(part)) == (1, contents(out))


def test_no_sub_image_has_enough_detail(photos, tmp_path):
    for _ in range(2):
        with pytest.raises(InputError, match='None of 24 sub-images has the detail that --min_detail 255 asks for'):
            run(photos, tmp_path / 'out', Settings(4, 32, 32, min_detail=(255,)))
    run(photos, tmp_path / 'out')


def test_data_of_earlier_versions_are_continued(photos, tmp_path):
    out = tmp_path / 'out'
    run(photos, out)
    settings = json.loads((out / 'prepare.json').read_text())
    for key in ('resize', 'min_detail', 'val_resize'):
        del settings[key]
    (out / 'prepare.json').write_text(json.dumps(settings))
    records = [json.loads(line) for line in (out / 'finished.jsonl').read_text().splitlines()]
    assert all(record.keys() == {'name', 'stamp', 'size'} for record in records)
    assert run(photos, out).skipped == 6


def test_named_images_for_validation(photos, tmp_path):
    """By name or by file; the order does not matter, and the number is what --val would be."""
    (photos / 'p2.png').rename(photos / 'with dot.5.png')
    prepared = run(photos, tmp_path / 'out', Settings(4, val_images=('with dot.5', 'p4.png', 'p4')))
    assert (prepared.settings.val, [*prepared.sizes['val_HR']]) == (2, ['p4', 'with_dot_5'])
    assert run(photos, tmp_path / 'out', Settings(4, val_images=('p4', 'with dot.5.png'))).skipped == 6
    with pytest.raises(InputError, match='--val_names p4 with_dot_5, now it is p4; give'):
        run(photos, tmp_path / 'out', Settings(4, val_images=('p4',)))
    with pytest.raises(InputError, match='no image is called p9; there are p0, p1, p3, p4, p5 and others'):
        run(photos, tmp_path / 'new', Settings(4, val_images=('p4', 'p9')))
    with pytest.raises(InputError, match='--val_names names all images'):
        run(photos, tmp_path / 'new', Settings(4, val_images=('p0', 'p1', 'with dot.5', 'p3', 'p4', 'p5')))
    assert not (tmp_path / 'new').exists()


def test_ctrl_c_leaves_what_can_be_continued(photos, tmp_path, monkeypatch):
    prepare_image = preparation.prepare_image

    def stop(item, **arguments):
        if item.name == 'p3':
            raise KeyboardInterrupt
        return prepare_image(item, **arguments)

    monkeypatch.setattr(preparation, 'prepare_image', stop)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / 'out')
    monkeypatch.undo()
    assert run(photos, tmp_path / 'out').skipped == 3


def test_damaged_outputs_and_changed_sources_are_done_again(photos, tmp_path):
    out = tmp_path / 'out'
    run(photos, out, lmdb=True)
    before = contents(out)
    damaged = out / 'train_HR_sub' / 'p1_s002.png'
    damaged.write_bytes(damaged.read_bytes()[:-9])
    cv2.imwrite(str(photos / 'p2.png'), np.full((32, 36, 3), 9, np.uint8))  # fewer sub-images than it had
    cv2.imwrite(str(photos / 'new.png'), np.full((32, 32, 3), 9, np.uint8))
    again = run(photos, out)
    assert (again.done, again.skipped, again.lmdb) == (3, 4, True)
    assert sum(name.startswith('p2') for name in again.sizes['train_HR_sub']) == 2
    after = contents(out)
    assert {name: after[name] for name in before if '/p2' not in name} == {
        name: before[name] for name in before if '/p2' not in name}
    for folder in SUB.folders('train'):
        assert lmdb_problem(out / f'{folder}.lmdb', out / folder, again.sizes[folder]) is None


def test_a_growing_folder_keeps_its_validation_images(photos, tmp_path):
    settings = Settings(4, val=2)
    first = run(photos, tmp_path / 'out', settings)
    write_images(photos, 20)
    grown = run(photos, tmp_path / 'out', settings)
    assert grown.settings.val_images == first.settings.val_images and len(grown.sizes['train_HR']) == 18


def test_broken_images_are_left_out(photos, tmp_path):
    (photos / 'broken.png').write_bytes(b'x')
    cv2.imwrite(str(photos / 'small.png'), np.zeros((20, 90, 3), np.uint8))
    prepared = run(photos, tmp_path / 'out', Settings(4, 32, val=5))
    assert prepared.done == 6 + ('small' in prepared.settings.val_images)
    assert f'{photos}/broken.png' in prepared.left_out and len(prepared.settings.val_images) == 5
    assert 'broken' not in prepared.settings.val_images  # a broken image is none to validate on
    for path in photos.glob('p*'):
        path.unlink()
    for index in range(2):  # with other settings too
        with pytest.raises(InputError, match=r'None of the images could be used: .*broken\.png is broken'):
            run(photos, tmp_path / 'out2', Settings(2 + 2 * index, 32))


@pytest.mark.parametrize(('other', 'message'), [
    (Settings(2, 32, 32), '--scale 4, now it is 2'), (Settings(4, 48, 32), '--crop 32, now it is 48'),
    (Settings(4), '--crop 32, now it is None'), (Settings(4, 32, 16), '--step 32'),
    (Settings(4, 32, 32, 4), '--thresh 0'), (Settings(4, 32, 32, hr_only=True), '--hr_only False'),
    (Settings(4, 32, 32, val=1), '--val 0'), (Settings(4, 32, 32, val_images=('p1',)), '--val_names none, now it is'),
    (Settings(4, 32, 32, resize=(1, 0.75)), '--resize 1, now it is 1 0.75'),
    (Settings(4, 32, 32, min_detail=(9,)), '--min_detail 0, now it is 9')])
def test_other_settings_are_refused(other, message, photos, tmp_path):
    run(photos, tmp_path / 'out')
    before = contents(tmp_path / 'out')
    with pytest.raises(InputError, match=message):
        run(photos, tmp_path / 'out', other)
    assert contents(tmp_path / 'out') == before
    run(photos, tmp_path / 'out', other, overwrite=True)
    again = tmp_path / 'again'
    run(photos, again, other)
    assert contents(again) == contents(tmp_path / 'out')


def test_foreign_files_are_not_touched(photos, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'mine.txt').write_text('x')
    for overwrite in (False, True):
        with pytest.raises(InputError, match='did not make'):
            run(photos, out, overwrite=overwrite)
    assert os.listdir(out) == ['mine.txt']


def test_foreign_files_among_the_outputs_are_named(photos, tmp_path):
    run(photos, tmp_path / 'out')
    (tmp_path / 'out' / 'train_HR_sub' / 'mine.png').write_bytes(b'x')
    with pytest.raises(InputError, match=r'mine\.png is one that it should not hold'):
        run(photos, tmp_path / 'out')


def test_images_that_are_gone_are_named(photos, tmp_path):
    run(photos, tmp_path / 'out')
    (photos / 'p4.png').unlink()
    with pytest.raises(InputError, match=r'not in the input any more: p4 \(1 in all\)'):
        run(photos, tmp_path / 'out')


def test_too_many_for_validation(photos, tmp_path):
    with pytest.raises(InputError, match='--val is 6, too many for 6 images'):
        run(photos, tmp_path / 'out', Settings(4, val=6))


def test_every_name_that_a_file_system_holds(photos, tmp_path):
    """Bytes that are no text, and 255 bytes; in LMDBs too."""
    for index, name in enumerate([b'caf\xe9.png', b'\xff' * 251 + b'.png', 'é'.encode() * 125 + b'.png', b'a\nb.png']):
        os.rename(photos / f'p{index}.png', os.fsencode(photos) + b'/' + name)
    prepared = run(photos, tmp_path / 'out', Settings(4, 32, 32, val=2), lmdb=True, workers=2)
    assert prepared.done == 6 and not prepared.left_out
    assert run(photos, tmp_path / 'out', Settings(4, 32, 32, val=2)).skipped == 6


def test_pickled_list(tmp_path):
    images = [np.random.default_rng(seed).integers(0, 256, (40, 32, 3), np.uint8) for seed in range(3)]
    (tmp_path / 'DF-tr.pklv4').write_bytes(pickle.dumps(images, 4))
    prepared = run(tmp_path / 'DF-tr.pklv4', tmp_path / 'out', Settings(4), workers=2)
    assert list(prepared.sizes['train_HR']) == [f'DF-tr_00000{index}' for index in range(3)]
    for index, image in enumerate(images):
        got = cv2.imread(str(tmp_path / 'out' / 'train_HR' / f'DF-tr_00000{index}.png'))
        assert np.array_equal(got[:, :, ::-1], image)
