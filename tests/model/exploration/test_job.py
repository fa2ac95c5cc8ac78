"""The command from its arguments to its files, with a small network."""
import io
import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import tensor2img
from helpers import perturb, random_image, small_net
from PIL import Image

from hcflow_model import calculate_nll
from hcflow_model.commands import main
from hcflow_model.exploration import job as exploration_job
from hcflow_model.exploration.job import animate, read_colours, to_rgb
from hcflow_model.images import drawing as sheet_drawing
from hcflow_model.images.bicubic import bicubic_guide
from hcflow_model.inference.draw import noise_of
from hcflow_model.utils.files import file_hash


def save_network(path, **kwargs):
    net = perturb(small_net(**kwargs), 0.03).eval()
    torch.save({'params': net.state_dict(), 'network_g': {'type': 'HCFlowNet', **net.arguments}}, path)
    return net


def to_file(path, image):
    """(1, 3, H, W) RGB in [0, 1] -> an 8-bit file."""
    assert cv2.imwrite(str(path), tensor2img(image))


def read_rgb(path):
    return to_rgb(read_colours(path))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with a network, an HR image hr.png, its LR image lr.png and an edit of it, edited.png."""
    folder = tmp_path_factory.mktemp('explore')
    net = save_network(folder / 'net.pth')
    gt = (random_image(1, 3, 32, 48) * 255).round() / 255
    edited = gt.clone()
    edited[:, :, 4:16, 8:20] = gt[:, :, 16:28, 30:42]
    for name, image in (('lr', bicubic_guide(gt, 4)), ('hr', gt), ('edited', edited)):
        to_file(folder / f'{name}.png', image)
    return folder, net


def arguments(folder, **changes):
    given = {'-i': folder / 'lr.png', '--weights': folder / 'net.pth', '-o': folder / 'out', **changes}
    words = [[key, *(value if isinstance(value, list) else [value] * (value is not True))]
             for key, value in given.items() if value is not None]
    return ['explore', *(str(word) for option in words for word in option)]


@pytest.fixture(scope='module')
def explored(data):
    """(folder of all that one run with every part wrote, its JSON)."""
    folder, _ = data
    assert main(arguments(folder, **{'--gt': folder / 'hr.png', '--temperatures': [0, 0.4, 0.9], '-n': 3, '--seed': 5,
                                     '--interpolate': 4, '--edit': folder / 'edited.png'})) == 0
    return folder / 'out', json.loads((folder / 'out' / 'lr_explore.json').read_text())


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_files(explored):
    folder, _ = explored
    samples = ['t0_1', *(f't{t}_{i}' for t in (0.4, 0.9) for i in (1, 2, 3))]
    edits = [f'edit_{name}_{what}' for name in ('input', 'own') for what in ('kept', 't0', 't0.4', 't0.9')]
    names = [f'lr_{name}.png' for name in (*samples, *edits, 'sheet', 'walk', 'edit')]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, 'lr_walk.gif', 'lr_explore.json'])
    assert {read(folder / f'lr_{name}.png').shape for name in (*samples, *edits)} == {(32, 48, 3)}


def test_samples_are_those_of_the_network(explored, data):
    folder, (_, net) = explored[0], data
    lq = read_rgb(data[0] / 'lr.png')
    for temperature in (0.4, 0.9):
        for i in (1, 2, 3):
            latents = noise_of(5, i).latents(net, range(8), range(12), temperature)
            with torch.no_grad():
                wanted = net.decode(lq, latents=latents)
            got = read_rgb(folder / f'lr_t{temperature}_{i}.png')
            assert (got - wanted).abs().max() <= 0.5 / 255 + 1e-5


def test_sheet_shows_the_std_of_the_files(data, rows_of_tiles, tmp_path):
    folder, _ = data
    assert main(arguments(folder, **{'-o': tmp_path, '--temperatures': [0.9], '-n': 3})) == 0
    files = np.stack([read(tmp_path / f'lr_t0.9_{i}.png').astype(np.float64) for i in (1, 2, 3)])
    std = files.std(axis=0, ddof=1).mean(axis=2)
    tile = rows_of_tiles[1][3]
    assert tile.title == 'std over 3 samples (grey levels)' and tile.caption == f'mean {std.mean():.2f}'
    factor = 6  # 48 pixels are drawn as 288
    wanted = sheet_drawing._colour((std / np.quantile(std, 0.995)).clip(0, 1))
    got = tile.image[:32 * factor:factor, :48 * factor:factor]
    assert np.abs(got.astype(int) - wanted).max() <= 3
    content = json.loads((tmp_path / 'lr_explore.json').read_text())
    assert content['temperatures']['0.9']['diversity'] == pytest.approx(std.mean(), rel=1e-6)
    assert 'nll' not in content and 'psnr' not in content['temperatures']['0.9']


def test_figures(explored, data):
    (folder, content), (source, net) = explored, data
    gt, lq = read(source / 'hr.png'), read(source / 'lr.png')
    assert content['nll']['nll'] == pytest.approx(calculate_nll(gt, lq, net, seed=5), rel=1e-6)
    crop = slice(4, -4), slice(4, -4)
    psnrs = []
    for i in (1, 2, 3):
        mse = np.mean((read(folder / f'lr_t0.4_{i}.png')[crop].astype(float) - gt[crop])**2)
        psnrs.append(10 * np.log10(255**2 / mse))
    assert content['temperatures']['0.4']['psnr'] == pytest.approx(np.mean(psnrs), rel=1e-6)
    assert list(content['temperatures']) == ['bicubic', '0', '0.4', '0.9']
    noise = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        latents = net.encode(read_rgb(source / 'hr.png'), read_rgb(source / 'lr.png'), noise).latents
    for level, z in zip(content['latents'], latents, strict=True):
        assert (level['height'], level['width'], level['channels']) == (*z.shape[2:], z.shape[1])
        assert level['mean'] == pytest.approx(z.mean().item(), abs=1e-5)
        assert level['std'] == pytest.approx(z.std().item(), rel=1e-3)
    assert content['checkpoint_sha256'] == file_hash(source / 'net.pth') and content['seed'] == 5


def test_walk_ends_at_the_samples(explored):
    folder, content = explored
    assert content['walk'] == {'temperature': 0.9, 'steps': 4}
    with Image.open(folder / 'lr_walk.gif') as animation:
        assert animation.n_frames == 6 and animation.size == (288, 192)  # there and back, 6 times enlarged
    strip = read(folder / 'lr_walk.png')
    for i in (1, 2):
        sample = read(folder / f'lr_t0.9_{i}.png').repeat(6, 0).repeat(6, 1)
        x, y = cv2.minMaxLoc(cv2.matchTemplate(strip, sample, cv2.TM_SQDIFF))[2]
        np.testing.assert_array_equal(strip[y:y + 192, x:x + 288], sample)


def test_exact_animations():
    frames = [(random_image(1, 3, 300, 300, seed=i) * 255).round() / 255 for i in range(3)]
    for kind in ('png', 'webp'):
        with Image.open(io.BytesIO(animate(frames, kind))) as animation:
            assert animation.n_frames == 4
            for index, frame in enumerate((0, 1, 2, 1)):
                animation.seek(index)
                got = np.asarray(animation.convert('RGB'))
                np.testing.assert_array_equal(got, (frames[frame][0] * 255).round().byte().permute(1, 2, 0).numpy())


def test_edit(explored, data):
    (folder, content), (source, net) = explored, data
    np.testing.assert_array_equal(read(folder / 'lr_edit_own_kept.png'), read(source / 'edited.png'))  # a bijection
    kept, normalized = (read(folder / f'lr_edit_input_{what}.png') for what in ('kept', 't0.4'))
    assert (kept != read(source / 'edited.png')).any() and (kept != normalized).any()
    results = content['edit']['results']
    assert list(results) == [f'{name} {what}' for name in ('input', 'own') for what in ('kept', 't0', 't0.4', 't0.9')]
    wanted = calculate_nll(kept, read(source / 'lr.png'), net, seed=5)
    assert results['input kept']['nll'] == pytest.approx(wanted, rel=1e-6)


def test_an_image_that_was_not_edited_comes_back(data, tmp_path):
    folder, _ = data
    assert main(arguments(folder, **{'-o': tmp_path, '--temperatures': [0], '--edit': folder / 'hr.png'})) == 0
    for name in ('input', 'own'):
        np.testing.assert_array_equal(read(tmp_path / f'lr_edit_{name}_kept.png'), read(folder / 'hr.png'))


def test_crop_grey_and_16_bits(data, tmp_path):
    folder, _ = data
    grey = read(folder / 'lr.png')[..., 0].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / 'grey.png'), grey)
    torch.testing.assert_close(read_rgb(tmp_path / 'grey.png')[0, 1], torch.from_numpy(grey / 65535).float())
    assert main(arguments(folder, **{'-i': tmp_path / 'grey.png', '-o': tmp_path, '--gt': folder / 'hr.png',
                                     '--temperatures': [0], '--crop': [3, 1, 6, 5]})) == 0
    assert read(tmp_path / 'grey_t0_1.png').shape == (20, 24, 3)
    assert json.loads((tmp_path / 'grey_explore.json').read_text())['latents'][1]['height'] == 5


def test_a_ground_truth_smaller_than_the_lr_image_says_is_not_padded(data, tmp_path):
    folder, _ = data
    gt = read(folder / 'hr.png')[:30, :47]
    cv2.imwrite(str(tmp_path / 'gt.png'), gt)
    assert main(arguments(folder, **{'-o': tmp_path, '--gt': tmp_path / 'gt.png', '--temperatures': [0]})) == 0
    mse = np.mean((read(tmp_path / 'lr_t0_1.png')[4:26, 4:43].astype(float) - gt[4:-4, 4:-4])**2)
    psnr = json.loads((tmp_path / 'lr_explore.json').read_text())['temperatures']['0']['psnr']
    assert psnr == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-6)


def test_colours_under_alpha_0_are_not_seen(data, tmp_path):
    folder, _ = data
    pixels = read(folder / 'lr.png')
    alpha = np.full(pixels.shape[:2], 255, np.uint8)
    alpha[:, :5] = 0
    pixels[:, :5] = 0
    cv2.imwrite(str(tmp_path / 'clear.png'), np.dstack([pixels, alpha]))
    pixels[:, :5] = pixels[:, 5:6]
    np.testing.assert_array_equal(read_colours(tmp_path / 'clear.png'), pixels)


BAD = [
    ({'-i': 'missing.png'}, 'missing.png'),
    ({'-i': 'broken.png'}, 'broken.png'),
    ({'-i': 'loop.png'}, 'loop.png'),
    ({'--weights': 'missing.pth'}, 'missing.pth'),
    ({'--weights': 'broken.png'}, 'broken.png'),
    ({'--weights': 'rescaling.pth'}, "task 'rescaling', here one for 'sr' is needed"),
    ({'--gt': 'lr.png'}, 'lr.png and'),
    ({'--edit': 'lr.png'}, 'gt is 8x12 and lq 8x12; at scale 4'),
    ({'-i': '.'}, 'Is a directory'),
    ({'--device': 'gpu'}, "device is 'gpu'"),
    ({'-o': 'lr.png'}, 'is a file; give a folder'),
    ({'--temperatures': [-1]}, 'a value of --temperatures is -1'),
    ({'--temperatures': ['nan']}, 'a value of --temperatures is nan'),
    ({'--temperatures': [0.5, 0.5]}, 'two are equal'),
    ({'-n': 0}, '--num_samples is 0'),
    ({'--seed': -1}, '--seed is -1'),
    ({'--interpolate': 1}, '--interpolate is 1'),
    ({'--interpolate': 3, '--temperatures': [0]}, 'at temperature 0 there is one'),
    ({'--crop': [8, 0, 5, 5]}, '--crop 8 0 5 5 does not lie inside the LR image of 12x8'),
    ({'--crop': [0, 0, 3, 3]}, 'at least 4x4'),
]


@pytest.mark.parametrize(('changes', 'message'), BAD)
def test_bad_input_is_one_error_and_no_file(data, tmp_path, monkeypatch, capsys, changes, message):
    folder, _ = data
    monkeypatch.chdir(folder)
    (folder / 'broken.png').write_bytes(b'no image')
    if not (folder / 'loop.png').is_symlink():
        (folder / 'loop.png').symlink_to('loop.png')
    if changes.get('--weights') == 'rescaling.pth':
        save_network(folder / 'rescaling.pth', task='rescaling')
    assert main(arguments(folder, **{'-o': tmp_path / 'out', **changes})) == 1
    out, error = capsys.readouterr()
    assert error.startswith('hcflow: error: ') and error.count('\n') == 1 and message in error and out == ''
    assert not (tmp_path / 'out').exists()


def test_images_that_do_not_fit_into_memory(data, tmp_path, monkeypatch, capsys):
    folder, net = data
    needed = exploration_job.memory_needed(net, 8, 12)
    monkeypatch.setattr(exploration_job, 'free_memory', lambda device: needed)
    assert main(arguments(folder, **{'-o': tmp_path, '--temperatures': [0]})) == 1
    assert '12x8 pixels needs about' in capsys.readouterr().err
    assert main(arguments(folder, **{'-o': tmp_path, '--temperatures': [0], '--crop': [0, 0, 6, 6]})) == 0


def test_nothing_is_overwritten_unasked(data, tmp_path, capsys):
    folder, _ = data
    quick = {'-o': tmp_path, '--temperatures': [0]}
    assert main(arguments(folder, **quick)) == 0
    before = (tmp_path / 'lr_sheet.png').stat().st_mtime_ns
    assert main(arguments(folder, **quick)) == 1
    assert 'is there already' in capsys.readouterr().err
    assert (tmp_path / 'lr_sheet.png').stat().st_mtime_ns == before
    assert main(arguments(folder, **quick, **{'--overwrite': True})) == 0
    assert (tmp_path / 'lr_sheet.png').stat().st_mtime_ns > before


def test_an_input_is_never_overwritten(data, tmp_path, capsys):
    folder, _ = data
    image = tmp_path / 'lr_t0_1.png'
    image.write_bytes((folder / 'hr.png').read_bytes())
    assert main(arguments(folder, **{'-o': tmp_path, '--temperatures': [0], '--gt': image, '--overwrite': True})) == 1
    assert 'would be overwritten' in capsys.readouterr().err
    assert image.read_bytes() == (folder / 'hr.png').read_bytes()
