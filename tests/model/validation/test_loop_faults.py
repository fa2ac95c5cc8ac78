"""Validation that goes on: samples and images that cannot be used are left out, counted and named."""
import json
import shutil

import cv2
import numpy as np
import pytest
import test_loop
import torch
import yaml
from basicsr.utils.registry import METRIC_REGISTRY
from helpers import DATA, SMALL_NET, demo_options, loader, random_image, read_report
from test_loop import pair

from hcflow_arch import InputError
from hcflow_model.inference.draw import Sampler
from hcflow_model.validation.report import Report

PSNR = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
NAN, INF = float('nan'), float('inf')


@pytest.fixture
def make_model(tmp_path, far_pixels_pass, monkeypatch):
    """Make a model whose draws of the given numbers (from 0) hold three pixels of `value`."""
    def make(broken=(), value=NAN, is_train=True, **val):
        model = test_loop.make_model(tmp_path, is_train, **{'metrics': PSNR, **val})
        net, calls = model.net_g, []
        decode = net.decode

        def breaking(*args, **kwargs):
            sr = decode(*args, **kwargs)
            if len(calls) in broken:
                sr[:, 0, 2, :3] = value
            calls.append(sr)
            return sr

        monkeypatch.setattr(net, 'decode', breaking)
        model.calls = calls
        return model
    return make


def validate(model, images, save_img=True):
    model.validation(loader(images), 5, None, save_img)
    return {(row['image'], row['temperature'], row['metric']): row for row in model.report.rows}


def saved(tmp_path):
    return sorted(path.name for path in tmp_path.rglob('*.png'))


# ---- samples ----

@pytest.mark.parametrize('value', [NAN, INF])
def test_a_broken_sample_is_drawn_again(value, make_model, tmp_path, warnings):
    model = make_model(broken=(1,), value=value, temperatures=[0.8], num_samples=2)
    rows = validate(model, [pair(), pair(1)])
    assert len(model.calls) == 5 and saved(tmp_path) == [f'image{i}_t0.8_{n}_5.png' for i in (0, 1) for n in (1, 2)]
    assert rows['image0', 't0.8', 'clipped']['mean'] == 0.5 and rows['image1', 't0.8', 'clipped']['mean'] == 0
    assert model.metric_results['clipped_t0.8'] == 0.25 and not any(
        f'{name}_t0.8' in model.metric_results for name in ('redraws', 'nonfinite'))
    assert rows['image0', 't0.8', 'psnr']['num_samples'] == 2
    last = model.calls[2].clamp(0, 1)[0].mul(255).round().permute(1, 2, 0).numpy()[..., ::-1]
    image = cv2.imread(str(tmp_path / 'visualization' / 'image0' / 'image0_t0.8_2_5.png'))
    assert np.abs(image - last).max() <= 1 and warnings == []


def test_a_sample_that_stays_broken_is_named_and_neither_saved_nor_measured(make_model, tmp_path, warnings):
    metrics = {**PSNR, 'diversity': {'type': 'calculate_diversity'}}
    model = make_model(broken=range(1, 5), temperatures=[0.8], num_samples=2, metrics=metrics, sheets=1)
    model.report = Report(model.opt, final=True)  # draws sheets
    rows = validate(model, [pair(), pair(1)])
    assert saved(tmp_path) == ['image0_sheet_5.png', 'image0_t0.8_1_5.png', 'image1_t0.8_1_5.png',
                               'image1_t0.8_2_5.png']
    assert rows['image0', 't0.8', 'psnr']['num_samples'] == 1 and rows['image1', 't0.8', 'psnr']['num_samples'] == 2
    assert ('image0', 't0.8', 'diversity') not in rows and ('image1', 't0.8', 'diversity') in rows
    assert rows['image0', 't0.8', 'nonfinite']['mean'] == 1.5 and rows['image0', 't0.8', 'redraws']['mean'] == 1
    assert rows['image0', 't0.8', 'clipped']['mean'] == 0.5
    assert model.metric_results['nonfinite_t0.8'] == 0.75
    assert all(np.isfinite(value) for value in model.metric_results.values())
    assert warnings == ['Dataset set: 1 of 2 images left out or measured in part:\n  image0: sample 2 at temperature '
                        '0.8 has 3 of 320 pixels that are not finite, after 4 draws; it is neither saved nor measured.']


def test_temperature_0_is_not_drawn_again(make_model, tmp_path, warnings):
    model = make_model(broken=(0,), temperatures=[0, 0.8], bicubic=True)
    rows = validate(model, [pair()])
    assert len(model.calls) == 2 and saved(tmp_path) == ['image0_t0.8_1_5.png']
    assert 'psnr_t0' not in model.metric_results and ('image0', 'bicubic', 'psnr') in rows
    assert (rows['image0', 't0', 'nonfinite']['mean'], rows['image0', 't0.8', 'nonfinite']['mean']) == (3, 0)
    assert 'temperature 0 has 3 of 320 pixels that are not finite, after 1 draws' in warnings[0]


def test_counts_that_were_seen_once_are_followed(make_model):
    model = make_model(broken=(1, 2, 3, 4), temperatures=[0.8])
    for current_iter, nonfinite in enumerate((None, 3, 0)):
        model.validation(loader([pair()]), current_iter, None, False)
        assert model.metric_results.get('nonfinite_t0.8') == nonfinite
    assert model.best_metric_results['set']['nonfinite_t0.8'] == {'better': 'lower', 'val': 0, 'iter': 2}


def test_pixels_far_out_of_range_are_counted(make_model, monkeypatch, tmp_path):
    monkeypatch.setattr('hcflow_model.inference.draw.FAR', 50.)
    model = make_model(broken=(0,), value=1e4, is_train=False, temperatures=[0.8], num_samples=2)
    rows = validate(model, [pair(), pair(1)])
    assert rows['image0', 't0.8', 'out_of_range']['mean'] == 1.5
    assert rows['image0', 't0.8', 'psnr']['num_samples'] == 2 and len(saved(tmp_path)) == 4
    assert json.loads((tmp_path / 'results' / 'metrics.json').read_text())['averages']['set']['0.8'][
        'out_of_range'] == 0.75
    assert model.report.table().splitlines()[2].split()[-2] == '0.7500'


def test_an_nll_that_is_not_finite(make_model, monkeypatch):
    model = make_model(temperatures=[0])
    values = iter([NAN, 2.])
    monkeypatch.setattr('hcflow_model.validation.loop.calculate_nll', lambda *args, **kwargs: next(values))
    validate(model, [pair(), pair(1)])
    assert model.metric_results['nll'] == 2
    assert model.report.problems['set'] == {'image0': ['its nll is nan; it is left out.']}


# ---- images ----

def test_sizes_that_do_not_belong_together(make_model, tmp_path, warnings):
    model = make_model(temperatures=[0])
    rows = validate(model, [pair(gt_size=(40, 40)), pair(1)])
    assert {image for image, *_ in rows} == {'image1'} and saved(tmp_path) == ['image1_t0_1_5.png']
    assert 'image0: gt is 40x40 and lq 4x5; at scale 4' in warnings[0]


@pytest.mark.parametrize('key', ['lq', 'gt'])
@pytest.mark.parametrize('value', [NAN, 300.])
def test_pixels_of_float_files(key, value, make_model, warnings):
    broken = pair()
    broken[key][0, 1, 2] = value
    model = make_model(temperatures=[0])
    rows = validate(model, [broken, pair(1)])
    assert {image for image, *_ in rows} == {'image1'}
    assert f'image0: {key} has values from' in warnings[0]


@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory.'), MemoryError('Unable to allocate 12 GiB'),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")], ids=repr)
def test_images_that_are_too_large(error, make_model, monkeypatch, tmp_path, warnings):
    draw_image = Sampler.draw_image

    def draw_or_fail(sampler, lq, *args):
        if lq.shape[3] > 5:
            raise error
        return draw_image(sampler, lq, *args)

    monkeypatch.setattr(Sampler, 'draw_image', draw_or_fail)
    model = make_model(temperatures=[0], is_train=False)
    large = {'gt': random_image(3, 16, 24), 'lq': random_image(3, 4, 6)}
    with pytest.raises(InputError, match=r'1 image\(s\) left out or measured in part \(1 in set\)'):
        validate(model, [large, pair(1)])
    assert 'image0: it needs more memory than there is' in warnings[-1]
    assert saved(tmp_path) == ['image1_t0_1.png'] and model.report.averages('set')['t0']['psnr'] > 0


@pytest.mark.parametrize(('metric', 'small'), [
    ({'type': 'calculate_psnr', 'crop_border': 8}, (16, 20)), ({'type': 'calculate_ssim', 'crop_border': 4}, (16, 20)),
    ({'type': 'calculate_niqe', 'crop_border': 4}, (16, 20)),
    ({'type': 'calculate_niqe', 'crop_border': 4}, (108, 108))], ids=str)
def test_a_metric_is_left_out_where_it_does_not_fit(metric, small, make_model, warnings):
    model = make_model(temperatures=[0, 0.8], num_samples=2, metrics={'measured': metric, **PSNR})
    large = {'gt': random_image(3, 240, 240), 'lq': random_image(3, 60, 60)}
    small = {'gt': random_image(3, *small), 'lq': random_image(3, *(length // 4 for length in small))}
    rows = validate(model, [small, large])
    assert {image for image, *rest in rows if 'measured' in rest} == {'image1'}
    assert {image for image, *rest in rows if 'psnr' in rest} == {'image0', 'image1'}
    (problem,) = model.report.problems['set']['image0']
    assert f'val.metrics.measured {metric} cannot be computed of {small["gt"].shape[1]}x' in problem
    assert 'image0' in warnings[-1]


@pytest.mark.parametrize('metric', [{'type': 'calculate_psnr', 'crop_border': 8},
                                    {'type': 'calculate_ssim', 'crop_border': 0, 'input_order': 'WHC'}], ids=str)
def test_a_metric_that_fits_no_image_stops(metric, make_model):
    model = make_model(temperatures=[0], metrics={'measured': metric, **PSNR})
    message = 'image image0: val.metrics.measured .* cannot be computed of 16x20 .*, or flat.$'
    with pytest.raises(InputError, match=message):
        validate(model, [pair(), pair(1)])


def test_a_test_goes_on_where_a_metric_fits_no_image(make_model):
    model = make_model(temperatures=[0], is_train=False, metrics={'niqe': {'type': 'calculate_niqe', 'crop_border': 4}})
    with pytest.raises(InputError, match=r'1 image\(s\) left out or measured in part \(1 in set\)'):
        validate(model, [pair()])
    assert model.report.problems['set']['image0'][0].startswith('val.metrics.niqe')


def test_a_metric_of_a_set_of_samples_is_left_out(make_model, monkeypatch):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'of_samples', lambda samples: 1. if len(samples[0]) > 20 else 1 / 0)
    model = make_model(temperatures=[0.8], num_samples=2, metrics={'measured': {'type': 'of_samples'}, **PSNR})
    large = {'gt': random_image(3, 32, 32), 'lq': random_image(3, 8, 8)}
    validate(model, [pair(), large])
    (problem,) = model.report.problems['set']['image0']
    assert 'of 16x20 pixels (' in problem and 'division by zero' in problem


def test_a_metric_with_a_wrong_option_stops(make_model):
    model = make_model(temperatures=[0], metrics={'psnr': {'type': 'calculate_psnr', 'crop': 8}})
    with pytest.raises(InputError, match='image image0: val.metrics.psnr .*crop'):
        validate(model, [pair()])


def nothing_of_that_name(img):
    return no_such_name  # noqa: F821


@pytest.mark.parametrize(('bug', 'error'), [
    (nothing_of_that_name, NameError), (lambda img: img.no_such_attribute, AttributeError),
    (lambda img: {}['x'], KeyError), (lambda img: [][1], IndexError), (lambda img: len(1), TypeError),
    (lambda img: __import__('no_such'), ImportError), (lambda img: None, TypeError)])
def test_a_bug_in_a_metric_shows_its_traceback(bug, error, make_model, monkeypatch):
    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'bug', bug)
    model = make_model(temperatures=[0], metrics={'measured': {'type': 'bug'}})
    with pytest.raises(error) as caught:
        validate(model, [pair()])
    assert not isinstance(caught.value, InputError)


def test_what_a_metric_says_of_an_image_names_its_line(make_model, monkeypatch):
    def picky(img):
        if len(img) < 20:
            raise ValueError('at least 20 rows')
        return 1

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'picky', picky)
    model = make_model(temperatures=[0], metrics={'measured': {'type': 'picky'}})
    validate(model, [pair(), {'gt': random_image(3, 32, 32), 'lq': random_image(3, 8, 8)}])
    problem, = model.report.problems['set']['image0']
    assert f'(ValueError: at least 20 rows, {__file__}:' in problem


@pytest.fixture
def run(tmp_path, command):
    """Run `basicsr test` on copies of the bundled pictures that `damage` has changed. Returns exit code and errors."""
    def run(damage):
        shutil.copytree(DATA / 'val_gt', 'gt')
        shutil.copytree(DATA / 'val_lq_x4', 'lq')
        damage()
        sets = {f'test_{i}': {'name': name, 'type': 'PairedImageDataset', 'dataroot_gt': gt, 'dataroot_lq': lq,
                              'io_backend': {'type': 'disk'}}
                for i, (name, gt, lq) in enumerate((('mine', 'gt', 'lq'), ('whole', str(DATA / 'val_gt'),
                                                                           str(DATA / 'val_lq_x4'))))}
        opt = demo_options({**SMALL_NET, 'name': 'test', 'datasets': sets, 'val': {
            'save_img': True, 'temperatures': [0], 'seed': 0, 'sheets': 0, 'metrics': PSNR}})
        for block in ('train', 'logger'):
            del opt[block]
        (tmp_path / 'opt.yml').write_text(yaml.safe_dump(opt))
        code, _, errors = command('test', '-opt', 'opt.yml')
        return code, errors
    return run


def test_broken_files_are_left_out_of_a_test(run, tmp_path):
    def damage():
        cat = tmp_path / 'lq' / 'cat.png'
        cat.write_bytes(cat.read_bytes()[:-50])
        (tmp_path / 'gt' / 'rocket.png').write_bytes(b'')
        for name in 'abcd':
            shutil.copy(tmp_path / 'gt' / 'tower.png', tmp_path / 'gt' / f'{name}.png')
        shutil.copy(tmp_path / 'lq' / 'tower.png', tmp_path / 'lq' / 'b.png')
        cv2.imwrite(str(tmp_path / 'lq' / 'c.png'), cv2.imread(str(tmp_path / 'lq' / 'tower.png'))[:1, :1])
        cv2.imwrite(str(tmp_path / 'gt' / 'd.png'), cv2.imread(str(tmp_path / 'gt' / 'tower.png'))[:20, :20])
        shutil.copy(tmp_path / 'lq' / 'tower.png', tmp_path / 'lq' / 'd.png')
        shutil.copy(tmp_path / 'lq' / 'tower.png', tmp_path / 'lq' / 'e.png')

    code, errors = run(damage)
    assert code == 1
    assert errors.splitlines()[-1] == (
        f'basicsr: error: 6 image(s) left out or measured in part (6 in mine): see the warnings above, or problems in '
        f'{tmp_path}/results/test/metrics.json. All others are done.')
    rows, content = read_report(tmp_path / 'results' / 'test')
    problems = content['problems'].pop('mine')
    assert content['problems'] == {} and set(problems) == {'a', 'c', 'cat', 'd', 'e', 'rocket'}
    for name, parts in {'a': ('lq/a.png', 'No such file'), 'e': ('gt/e.png', 'No such file'), 'd': ('20x20',),
                        'c': ('gt is 160x160 and lq 1x1; at scale 4', 'gt/c.png'),
                        'cat': ('lq/cat.png', 'broken'), 'rocket': ('gt/rocket.png', '0 bytes')}.items():
        text, = problems[name]
        assert all(part in text for part in parts) and f'  {name}: {text}' in errors
    assert {(row['dataset'], row['image']) for row in rows} == {('mine', 'b'), ('mine', 'tower')} | {
        ('whole', name) for name in ('cat', 'rocket', 'tower')}
    folder = tmp_path / 'results' / 'test' / 'visualization'
    assert len(list(folder.glob('mine/*.png'))) == 2 and len(list(folder.glob('whole/*.png'))) == 3
    assert 'Results of test' in errors and 'whole' in errors


def test_whole_files_pass(run, tmp_path):
    code, errors = run(lambda: None)
    assert code == 0 and 'left out' not in errors
    assert json.loads((tmp_path / 'results' / 'test' / 'metrics.json').read_text())['problems'] == {}
