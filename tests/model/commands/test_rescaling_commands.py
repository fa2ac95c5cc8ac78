"""hcflow downscale and restore on bundled images."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import DATA, below, fails, perturb, small_net

from hcflow_model import HCFlowRescaler
from hcflow_model.commands import main
from hcflow_model.images.files import read_image, read_image_file, write_image

LQ, GT = DATA / 'val_lq_x4', DATA / 'val_gt'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ('sr', 'rescaling'):
        torch.save({'params': perturb(small_net(4, task), 0.02).state_dict()}, f'{task}.pth')


@pytest.mark.parametrize('format_', ['png', 'jpg'])
def test_refined_small_images(format_):
    image = read_image(GT / 'cat.png')[30:54, 60:92]
    write_image('in/cat.png', image)
    errors = []
    for steps in ('0', '4'):
        argv = ['-w', 'rescaling.pth', '--overwrite']
        assert main(['downscale', '-i', 'in', '-o', 'small', '--refine', steps, '--format', format_, *argv]) == 0
        assert main(['restore', '-i', 'small', '-o', 'large', '--ext', 'png', '--temperature', '0', *argv]) == 0
        errors.append(np.square(read_image('large/cat.png').astype(float) - image).mean())
    assert errors[1] < errors[0]


def test_pair_restores_size_depth_and_kind(capsys):
    image = read_image(GT / 'cat.png')
    write_image('in/odd.png', image[:61, :90])
    write_image('in/deep.tif', image[:50, :51, 0].astype(np.uint16) * 257)
    write_image('in/float.tif', (image[:40, :41] / 255).astype(np.float32))
    assert main(['downscale', '-i', 'in', '-o', 'small', '-w', 'rescaling.pth']) == 0
    assert below('small') == ['deep.png', 'float.png', 'odd.png']
    assert read_image('small/odd.png').shape == (16, 23, 3) and read_image('small/deep.png').dtype == np.uint16
    sidecar = json.loads(read_image_file('small/odd.png').text['hcflow'])
    assert (sidecar['height'], sidecar['width'], sidecar['scale'], sidecar['type']) == (61, 90, 4, 'uint8')

    assert main(['restore', '-i', 'small', '-o', 'large', '-w', 'rescaling.pth']) == 0
    assert below('large') == ['deep.png', 'float.tif', 'odd.png']
    for name, original in (('odd.png', 'odd.png'), ('deep.png', 'deep.tif'), ('float.tif', 'float.tif')):
        got, wanted = read_image(f'large/{name}'), read_image(f'in/{original}')
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    rescaler = HCFlowRescaler('rescaling.pth')
    wanted = rescaler.restore(rescaler.downscale(image[:61, :90]), (61, 90))
    assert np.array_equal(read_image('large/odd.png'), wanted)
    assert 'original size' not in capsys.readouterr().out


def test_small_images_that_were_changed(capsys):
    main(['downscale', '-i', str(GT / 'cat.png'), '-o', 'small/cat.png', '-w', 'rescaling.pth'])
    file = read_image_file('small/cat.png')
    cv2.imwrite('small/stripped.png', file.pixels)
    write_image('small/cropped.png', file.pixels[:-1], text=file.text)
    write_image('small/nonsense.png', file.pixels, text={'hcflow': '{"height": 1}'})
    endless = '{"height": 1e999, "width": 1, "scale": 4, "type": "uint8", "network": ""}'
    write_image('small/endless.png', file.pixels, text={'hcflow': endless})
    write_image('small/nested.png', file.pixels, text={'hcflow': '[' * 100000})
    listed = {**json.loads(file.text['hcflow']), 'network': [1]}
    write_image('small/listed.png', file.pixels, text={'hcflow': json.dumps(listed)})
    torch.save({'params': perturb(small_net(4, 'rescaling'), 0.03).state_dict()}, 'other.pth')
    capsys.readouterr()
    assert main(['restore', '-i', 'small', '-o', 'large', '-w', 'other.pth']) == 1
    out, err = capsys.readouterr()
    assert below('large') == ['stripped.png'] and '1 done, 6 failed' in out
    assert 'stripped.png does not name its original size' in out
    assert 'cat.png was made small by another network than other.pth' in err and not Path('large/cat.png').exists()
    assert 'listed.png was made small by another network' in err
    assert 'cropped.png is ' in err and all(f'{name}.png: ' in err for name in ('nonsense', 'endless', 'nested'))
    torch.save({'params': small_net(2, 'rescaling').state_dict()}, 'x2.pth')
    assert main(['restore', '-i', 'small/cat.png', '-o', 'x2', '-w', 'x2.pth']) == 1
    assert 'at scale 4' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['downscale', 'restore'])
def test_sr_network_for_the_pair(command, capsys):
    assert 'use hcflow upscale' in fails(capsys, command, '-i', LQ, '-o', 'out', '-w', 'sr.pth')


@pytest.mark.parametrize(('arguments', 'message'), [
    ('-o a.tif', 'does not write .tif; give a name that ends in .png, .jpg'), ('-o a.jpg --format webp', '--format'),
    ('-o a.jpg --quality 0', '--quality is 0; it must be a whole number from 1 to 100'),
    ('-o out --refine_weight 1', '--refine_weight 1 is for the steps of --refine'),
    ('-o out --quality 90', '--quality is for jpg and webp'), ('-o a.png --quality 90', '--quality is for jpg')])
def test_wrong_formats_of_small_images(arguments, message, capsys):
    assert message in fails(capsys, 'downscale', '-i', GT / 'cat.png', *arguments.split(), '-w', 'rescaling.pth')


@pytest.mark.parametrize('ending', ['jpg', 'webp'])
def test_pair_by_files_that_lose_detail(ending, capsys):
    image = read_image(GT / 'cat.png')
    write_image('in/odd.png', image[:61, :90])
    write_image('in/grey.png', image[:33, :50, 0])
    write_image('in/deep.png', image[:50, :51].astype(np.uint16) * 257)
    write_image('in/alpha.png', np.dstack([image, image[..., 0]])[:41, :40])
    arguments = ['--format', ending, '-w', 'rescaling.pth']
    holds_alpha = ending == 'webp'
    names = ['alpha', 'deep', 'grey', 'odd'][not holds_alpha:]
    assert main(['downscale', '-i', 'in', '-o', 'small', *arguments]) == (0 if holds_alpha else 1)
    assert holds_alpha or 'alpha.jpg: .jpg holds no transparency' in capsys.readouterr().err
    assert below('small') == [f'{name}.{ending}' for name in names]
    small = read_image('small/odd.' + ending)
    exact = HCFlowRescaler('rescaling.pth').downscale(image[:61, :90])
    assert small.shape == exact.shape and 0 < np.abs(small.astype(int) - exact).mean() < 10
    assert main(['downscale', '-i', 'in/odd.png', '-o', f'smaller.{ending}', *arguments[2:], '--quality', '20']) == 0
    assert Path(f'smaller.{ending}').stat().st_size < Path(f'small/odd.{ending}').stat().st_size

    assert main(['restore', '-i', 'small', '-o', 'large', '-w', 'rescaling.pth', '--ext', 'png']) == 0
    for name in names:
        got, wanted = read_image(f'large/{name}.png'), read_image(f'in/{name}.png')
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert np.array_equal(read_image('large/odd.png'), HCFlowRescaler('rescaling.pth').restore(small, (61, 90)))


def test_small_images_of_any_kind(capsys):
    small = read_image(LQ / 'cat.png')[:12, :9]
    for name in ('a.png', 'b.jpg', 'c.webp', 'd.bmp', 'e.tif'):
        write_image(f'small/{name}', small)
    assert main(['restore', '-i', 'small', '-o', 'large', '-w', 'rescaling.pth']) == 0
    assert capsys.readouterr().out.count('does not name its original size') == 5
    assert main(['restore', '-i', 'small', '-o', 'again', '-w', 'rescaling.pth', '--scale', '4', '--ext', 'png']) == 0
    assert 'original size' not in capsys.readouterr().out
    sizes = {read_image(f'again/{name}').shape for name in below('again')}
    assert sizes == {(4 * small.shape[0], 4 * small.shape[1], 3)} and len(below('again')) == 5
    assert '--scale is 2, network rescaling.pth has scale 4' in fails(
        capsys, 'restore', '-i', 'small', '-o', 'x', '-w', 'rescaling.pth', '--scale', '2')
