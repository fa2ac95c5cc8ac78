"""hcflow upscale on bundled images, and what all commands for images share."""
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, below, fails, perturb, small_net

from hcflow_arch.convs import dense_block as dense_convs
from hcflow_arch.convs.compiled import handed_on
from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.commands import main
from hcflow_model.images import files as image_io
from hcflow_model.images.files import read_image, write_image
from hcflow_model.utils import files

LQ, GT = DATA / 'val_lq_x4', DATA / 'val_gt'
NAMES = ['cat.png', 'rocket.png', 'tower.png']


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ('sr', 'rescaling'):
        torch.save({'params': perturb(small_net(4, task), 0.02).state_dict()}, f'{task}.pth')
    return tmp_path


def test_upscale_a_folder(capsys):
    shutil.copytree(LQ, 'in/sub/deep')
    argv = ['upscale', '-i', 'in', '-o', 'out', '--weights', 'sr.pth', '--temperature', '0.7', '--seed', '3']
    assert main(argv) == 0
    assert below('out') == [f'sub/deep/{name}' for name in NAMES]
    wanted = HCFlowUpscaler('sr.pth')(read_image(LQ / 'cat.png'), 0.7, 3)
    assert np.array_equal(read_image('out/sub/deep/cat.png'), wanted)
    assert '3 done' in capsys.readouterr().out

    times = [os.stat(f'out/{name}').st_mtime_ns for name in below('out')]
    os.unlink('out/sub/deep/cat.png')
    assert main(argv) == 0
    assert '1 done, 2 there already' in capsys.readouterr().out
    assert [os.stat(f'out/{name}').st_mtime_ns for name in below('out')][1:] == times[1:]
    assert main([*argv, '--overwrite']) == 0 and '3 done' in capsys.readouterr().out
    assert [os.stat(f'out/{name}').st_mtime_ns for name in below('out')][1:] != times[1:]


def test_upscale_in_mixed_precision(capsys, monkeypatch):
    monkeypatch.setattr('hcflow_model.utils.devices.has_bf16_instructions', lambda device: False)
    argv = ['upscale', '-i', str(LQ / 'cat.png'), '-w', 'sr.pth', '--temperature', '0', '--device', 'cpu']
    assert main([*argv, '-o', 'float32']) == 0
    assert 'bf16' not in capsys.readouterr().err
    assert main([*argv, '-o', 'bf16', '--amp', 'bf16']) == 0
    assert 'this device has no bf16 instructions' in capsys.readouterr().err
    images = [read_image(f'{folder}/cat.png').astype(int) for folder in ('float32', 'bf16')]
    assert 0 < abs(images[0] - images[1]).max() < 20


def test_upscale_compiled(monkeypatch):
    calls = []
    monkeypatch.setattr(dense_convs, 'compiled', lambda *args: (calls.append(args), handed_on(*args))[1])
    argv = ['upscale', '-i', str(LQ / 'cat.png'), '-w', 'sr.pth', '--device', 'cpu']
    assert main([*argv, '-o', 'usual']) == 0 and not calls
    assert main([*argv, '-o', 'compiled', '--compile']) == 0 and calls
    images = [read_image(f'{folder}/cat.png').astype(int) for folder in ('usual', 'compiled')]
    assert abs(images[0] - images[1]).max() <= 1


def test_names_samples_and_formats():
    common = ['upscale', '-w', 'sr.pth', '-i', str(LQ / 'cat.png')]
    assert main([*common, '-o', 'out', '-n', '2', '--suffix', 'x4', '--ext', 'jpg']) == 0
    assert main([*common, '-o', 'new/name.WEBP', '--outscale', '1.5']) == 0
    assert below('out') + below('new') == ['cat_x4_1.jpg', 'cat_x4_2.jpg', 'name.WEBP']
    height, width = read_image(LQ / 'cat.png').shape[:2]
    assert read_image('new/name.WEBP').shape == (height * 1.5, width * 1.5, 3)
    assert not np.array_equal(read_image('out/cat_x4_1.jpg'), read_image('out/cat_x4_2.jpg'))


def test_chosen_samples_and_their_mean(capsys):
    image, upscaler = read_image(LQ / 'cat.png')[:6, :9], HCFlowUpscaler('sr.pth')
    write_image('in/cat.png', image)
    argv = ['upscale', '-i', 'in', '-w', 'sr.pth', '-n', '4', '--seed', '5']
    assert main([*argv, '-o', 'kept', '--keep', '2', '--by', 'lr_psnr']) == 0
    wanted = upscaler.samples(image, 4, seed=5, keep=2, by='lr_psnr')
    assert below('kept') == ['cat_1.png', 'cat_2.png']
    assert all(np.array_equal(read_image(f'kept/cat_{n + 1}.png'), wanted[n]) for n in (0, 1))
    scores = upscaler.scores(image, upscaler.samples(image, 4, seed=5), 'lr_psnr')
    assert f'in/cat.png: sample {np.argmax(scores) + 1} (lr_psnr {max(scores):.4f}), ' in capsys.readouterr().out
    assert main([*argv, '-o', 'one', '--keep', '1']) == 0 and below('one') == ['cat.png']
    assert main([*argv, '-o', 'mean', '--mean']) == 0 and below('mean') == ['cat.png']
    mean = np.mean(upscaler.samples(image, 4, seed=5), 0).round()
    assert np.array_equal(read_image('mean/cat.png'), mean)
    assert main([*argv, '-o', 'both', '--keep', '2', '--by', 'lr_psnr', '--mean']) == 0
    assert np.array_equal(read_image('both/cat.png'), np.mean(wanted, 0).round())


def test_self_ensemble():
    image = read_image(LQ / 'cat.png')[:6, :9]
    write_image('in/cat.png', image)
    for command, weights, wanted in (
            ('upscale', 'sr.pth', HCFlowUpscaler('sr.pth')(image, self_ensemble=True)),
            ('restore', 'rescaling.pth', HCFlowRescaler('rescaling.pth').restore(image, self_ensemble=True))):
        assert main([command, '-i', 'in', '-o', command, '-w', weights, '--self_ensemble']) == 0
        assert np.array_equal(read_image(f'{command}/cat.png'), wanted)


def test_temperature_maps(capsys):
    """A map for all images, or a folder with a map for each; one that does not fit does not stop the others."""
    image, map_ = read_image(LQ / 'cat.png')[:6, :9], np.random.default_rng(0).integers(0, 255, (6, 9), np.uint8)
    for name in ('a.jpg', 'b.png'):
        write_image(f'in/sub/{name}', image)
    write_image('maps/sub/a.png', map_)
    argv = ['upscale', '-i', 'in', '-w', 'sr.pth', '--ext', 'png']
    assert main([*argv, '-o', 'out', '--temperature', 'maps']) == 1
    assert re.search('in/sub/b.png.*maps/sub/b.png cannot be read', capsys.readouterr().err)
    wanted = HCFlowUpscaler('sr.pth')(read_image('in/sub/a.jpg'), map_)
    assert below('out') == ['sub/a.png'] and np.array_equal(read_image('out/sub/a.png'), wanted)
    write_image('in/sub/wide.png', image[:, :-1])
    assert main([*argv, '-o', 'one', '--temperature', 'maps/sub/a.png']) == 1
    assert below('one') == ['sub/a.png', 'sub/b.png']
    assert 'in/sub/wide.png: The temperature map is 6x9; for this image it must be 6x8' in capsys.readouterr().err


@pytest.mark.slow
def test_depth_alpha_and_grey_are_kept():
    image = read_image(LQ / 'cat.png')
    write_image('in/deep.png', image.astype(np.uint16) * 257)
    write_image('in/alpha.png', np.dstack([image, image[..., 0]]))
    write_image('in/grey.jpg', image[..., 0])
    write_image('in/twin.png', image)
    write_image('in/twin.jpg', image)
    assert main(['upscale', '-i', 'in', '-o', 'in/out', '-w', 'sr.pth', '--temperature', '0', '-t', '16']) == 0
    assert below('in/out') == ['alpha.png', 'deep.png', 'grey.jpg', 'twin_jpg.jpg', 'twin_png.png']
    kinds = {name: (read_image(f'in/out/{name}').dtype, read_image(f'in/out/{name}').shape[2:])
             for name in below('in/out')}
    assert kinds['deep.png'] == (np.uint16, (3,)) and kinds['alpha.png'] == (np.uint8, (4,))
    assert kinds['grey.jpg'] == (np.uint8, ())
    assert main(['upscale', '-i', 'in', '-o', 'in/out', '-w', 'sr.pth']) == 0
    assert len(below('in/out')) == 5  # what lies in the output folder is no input


def test_images_that_fail_do_not_stop_the_others(capsys):
    shutil.copytree(LQ, 'in')
    content = (LQ / 'rocket.png').read_bytes()
    Path('in/rocket.png').write_bytes(content[:-100])
    Path('in/empty.jpg').write_bytes(b'')
    write_image('in/alpha.png', np.zeros((16, 16, 4), np.uint8))
    assert main(['upscale', '-i', 'in', '-o', 'out', '-w', 'sr.pth', '--ext', 'jpg']) == 1
    out, err = capsys.readouterr()
    assert below('out') == ['cat.jpg', 'tower.jpg'] and '2 done, 3 failed' in out
    lines = err.splitlines()[-3:]
    assert ['transparency' in lines[0], 'empty' in lines[1], 'cut off' in lines[2]] == [True] * 3
    assert 'in/alpha.png' in lines[0] or 'out/alpha.jpg' in lines[0]


@pytest.mark.parametrize('arguments,message', [
    ('-i lq -o lq -w sr.pth', 'output folder is the input folder'),
    ('-i lq/cat.png -o lq -w sr.pth', 'output folder is'),
    ('-i lq/cat.png -o lq/cat.png -w sr.pth', 'output is the input'), ('-i nix -o out -w sr.pth', 'nix does not exist'),
    ('-i empty -o out -w sr.pth', 'has no images'), ('-i lq -o out -w rescaling.pth', 'hcflow downscale'),
    ('-i lq -o out -w nix.pth', 'nix.pth does not exist'),
    ('-i lq -o out -w lq/cat.png', 'not a safe checkpoint|cannot be'),
    ('-i lq -o out -w empty', 'no checkpoint'), ('-i lq -o out -w sr.pth -t 15', '--tile is 15'),
    ('-i lq -o out -w sr.pth --tile_pad -1', '--tile_pad'), ('-i lq -o out -w sr.pth -n 0', '--num_samples'),
    ('-i lq -o out -w sr.pth --temperature -0.1', '--temperature'),
    ('-i lq -o out -w sr.pth --temperature warm.png', "--temperature is 'warm.png'; it must be a number .* or a file"),
    ('-i lq -o out -w sr.pth --temperature 0.8 --self_ensemble', '--self_ensemble is at temperature 0'),
    ('-i lq -o out -w sr.pth -n 2 --self_ensemble', '--self_ensemble makes one image'),
    ('-i lq -o out -w sr.pth -n 2 --keep 3', '--keep is 3; it must be a whole number from 1 to --num_samples'),
    ('-i lq -o out -w sr.pth -n 2 --by nll', 'give --keep'), ('-i lq -o out -w sr.pth --mean', 'two or more samples'),
    ('-i lq -o out -w sr.pth -n 3 --keep 1 --mean', 'give a larger --keep'),
    ('-i lq -o out -w sr.pth --seed -1', '--seed is -1'),
    ('-i lq -o out -w sr.pth -s 0', '--outscale'), ('-i lq -o sr.pth -w sr.pth', 'is a file'),
    ('-i lq/cat.png -o a.jpg --ext png -w sr.pth', '--ext'), ('-i lq -o out -w sr.pth --suffix a/b', 'slashes'),
    ('-i lq -o out -w sr.pth --device nix', 'device'), ('-i lq -o out -w sr.pth --device meta', 'cannot be used here'),
    ('-i lq -o sr.pth/out -w sr.pth', 'sr.pth is a file'),
    ('-i lq/cat.png -o sr.pth/a.png -w sr.pth', 'sr.pth is a file'),
    ('-i lq/cat.png -o a.gif -w sr.pth', "a.gif: format '.gif' cannot be written")])
def test_wrong_arguments(arguments, message, capsys):
    shutil.copytree(LQ, 'lq')
    Path('empty').mkdir()
    assert re.search(message, fails(capsys, 'upscale', *arguments.split()))


def test_full_disk_is_one_error(monkeypatch, capsys):
    def fail(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(files.os, 'fsync', fail)
    assert main(['upscale', '-i', str(LQ), '-o', 'out', '-w', 'sr.pth']) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith('hcflow: error: Cannot write out/cat.png: No space left')
    assert below('out') == []


NAMES_OF_FILES = [b'caf\xe9', b'\xff\xfe', 'ä'.encode() * 125, b'n' * 251, b"a'b $(x) \n\t\x1b[31m", b'-n',
                  b'%s {0}', b'c.d.e']


@pytest.mark.parametrize('task', ['sr', 'rescaling'])
def test_every_name_that_a_file_system_holds(task, capsys):
    Path('in').mkdir()
    for name in NAMES_OF_FILES:
        shutil.copy(LQ / 'cat.png', os.path.join(b'in', name + b'.png'))
    if task == 'sr':
        argv = ['upscale', '-i', 'in', '-o', 'out', '-w', 'sr.pth', '-n', '2', '--suffix', 'x4']
        assert main(argv) == 0 and len(below('out')) == 2 * len(NAMES_OF_FILES)
    else:
        assert main(['restore', '-i', 'in', '-o', 'out', '-w', 'rescaling.pth']) == 0
        assert main(argv := ['downscale', '-i', 'in', '-o', 'small', '-w', 'rescaling.pth', '--suffix', 'small']) == 0
        assert len(below('out')) == len(below('small')) == len(NAMES_OF_FILES)
        assert b'caf\xe9.png' in os.listdir(b'out')
    capsys.readouterr()
    assert main(argv) == 0 and f'{len(NAMES_OF_FILES)} there already' in capsys.readouterr().out
    for number, name in enumerate(NAMES_OF_FILES if task == 'sr' else ()):
        assert main(['explore', '-i', os.fsdecode(os.path.join(b'in', name + b'.png')), '-o', f'explored{number}', '-w',
                     'sr.pth', '--temperatures', '0', '--crop', '0', '0', '8', '8']) == 0
        assert len(os.listdir(f'explored{number}')) == 3
        capsys.readouterr().out.encode()  # can be shown


def test_files_and_folders_that_cannot_be_read(capsys):
    """None stops the others, none is passed over in silence, and none is waited for."""
    shutil.copytree(LQ, 'in')
    shutil.copytree(LQ, 'elsewhere/sub')
    os.symlink('../elsewhere', 'in/link')
    os.symlink('..', 'in/loop')
    os.symlink('/dev/zero', 'in/zero.png')
    os.symlink('nowhere', 'in/gone.png')
    os.symlink('itself.png', 'in/itself.png')
    os.mkfifo('in/pipe.png')
    Path('in/folder.png').mkdir()  # a folder of that name is searched
    shutil.copy(LQ / 'cat.png', 'in/folder.png/d.png')
    assert main(['upscale', '-i', 'in', '-o', 'out', '-w', 'sr.pth']) == 1
    out, err = capsys.readouterr()
    assert '4 done, 6 failed' in out and below('out') == ['cat.png', 'folder.png/d.png', 'rocket.png', 'tower.png']
    for name, problem in (('link', 'is a link to a folder'), ('loop', 'is a link to a folder'),
                          ('zero.png', 'no regular file'), ('gone.png', 'No such file'),
                          ('pipe.png', 'no regular file'),
                          ('itself.png', 'Too many levels')):
        assert re.search(f'in/{name}.*{problem}', err)
    assert main(['downscale', '-i', 'in/pipe.png', '-o', 'small', '-w', 'rescaling.pth']) == 1
    assert 'no regular file' in capsys.readouterr().err


def test_folders_that_cannot_be_searched(capsys, monkeypatch):
    """As for a user without permission."""
    shutil.copytree(LQ, 'in/sub')
    shutil.copy(LQ / 'cat.png', 'in/a.png')
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('sub'):
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    assert main(['upscale', '-i', 'in', '-o', 'out', '-w', 'sr.pth']) == 1
    out, err = capsys.readouterr()
    assert '1 done, 1 failed' in out and 'in/sub: cannot be searched: Permission denied' in err


@pytest.mark.parametrize('command', ['upscale', 'restore', 'downscale'])
def test_one_image_that_is_too_large_does_not_stop_the_others(command, capsys, monkeypatch):
    shutil.copytree(LQ, 'in')
    write_image('in/large.png', np.zeros((3000, 3000), np.uint8))
    read, free = image_io.read_image_file, 10**8

    def with_little_memory(path):
        if command == 'downscale' and path.name == 'large.png':
            raise MemoryError('Unable to allocate 732. MiB')
        return read(path)

    monkeypatch.setattr(image_io, 'read_image_file', with_little_memory)
    monkeypatch.setattr('hcflow_model.inference.base.free_memory', lambda device: free)
    assert main([command, '-i', 'in', '-o', 'out', '-w', f'{"sr" if command == "upscale" else "rescaling"}.pth']) == 1
    out, err = capsys.readouterr()
    assert '3 done, 1 failed' in out and below('out') == NAMES
    assert re.search(r'in/large.png: .*memory', err) and 'Traceback' not in err


@pytest.mark.parametrize('output', ['there/new/deep', 'there', 'there/a.png'])
@pytest.mark.parametrize('command', ['upscale', 'explore'])
def test_output_without_permission_is_known_before_the_work(command, output, capsys, monkeypatch):
    Path('there').mkdir()
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path).resolve() != Path('there').resolve())
    error = fails(capsys, command, '-i', LQ / 'cat.png', '-o', output, '-w', 'sr.pth')
    assert re.search('Output there.* you have no permission to write to .*there; give another folder', error)


def test_a_folder_in_the_place_of_a_picture(capsys):
    Path('out/cat.png').mkdir(parents=True)
    assert main(['upscale', '-i', str(LQ), '-o', 'out', '-w', 'sr.pth', '--overwrite']) == 1
    out, err = capsys.readouterr()
    assert '2 done, 1 failed' in out and 'Cannot write out/cat.png: it is a folder' in err


def test_images_that_would_be_written_over_each_other(capsys):
    Path('in').mkdir()
    for name in ('cat.png', 'cat.PNG'):
        shutil.copy(LQ / 'cat.png', Path('in', name))
    assert 'cat.PNG and in/cat.png would both be written to out/cat_png' in fails(
        capsys, 'upscale', '-i', 'in', '-o', 'out', '-w', 'sr.pth')


def test_sizes_that_a_format_does_not_hold(monkeypatch, capsys):
    """Another format is taken, or the image refused before the work."""
    write_image('wide.webp', np.full((3, 20, 3), 9, np.uint8))
    monkeypatch.setitem(image_io.MAX_SIDE, '.webp', 79)
    assert main(['upscale', '-i', 'wide.webp', '-o', 'out', '-w', 'sr.pth']) == 0
    assert main(['upscale', '-i', 'wide.webp', '-o', 'smaller', '-w', 'sr.pth', '-s', '3.9']) == 0
    assert below('out') == ['wide.png'] and below('smaller') == ['wide.webp']
    assert main(['upscale', '-i', 'wide.webp', '-o', 'webp', '-w', 'sr.pth', '--ext', 'webp']) == 1
    assert 'the image is 12x80, .webp holds at most 79 pixels on a side' in capsys.readouterr().err


def test_weights_of_a_checkpoint(capsys):
    """--param_key chooses them; what a file lacks in averaged weights is taken from the others."""
    last, averaged = (small_net(seed=seed).state_dict() for seed in (1, 2))
    torch.save({'params': last, 'params_ema': averaged}, 'both.pth')
    for name, state_dict in (('last', last), ('averaged', averaged)):
        torch.save({'params': state_dict}, f'{name}.pth')
    made = {}
    for name, argv in (('both', []), ('both_last', ['--param_key', 'params']), ('last', []), ('averaged', [])):
        argv = ['-w', f'{name.partition("_")[0]}.pth', *argv]
        assert main(['upscale', '-i', str(LQ / 'cat.png'), '-o', name, *argv]) == 0
        made[name] = read_image(Path(name, 'cat.png'))
    assert np.array_equal(made['both'], made['averaged']) and np.array_equal(made['both_last'], made['last'])
    assert not np.array_equal(made['last'], made['averaged'])


@pytest.mark.slow
def test_installed_command():
    command = Path(sys.executable).with_name('hcflow')
    argv = ['upscale', '-i', str(LQ / 'cat.png'), '-o', 'out', '-w', 'sr.pth', '--device', 'cpu']
    done = subprocess.run([command, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert below('out') == ['cat.png'] and '1 done' in done.stdout and '100%' in done.stderr
