"""Validation of small models on images of a few pixels: what is drawn, saved, measured and kept."""
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import tensor2img
from helpers import L1, NLL_OPT, SMALL, cpu_options, loader, perturb, random_image, read_report

from hcflow_model import HCFlowModel
from hcflow_model.inference.draw import Sample, Sampler
from hcflow_model.utils.tables import number, temperature_label
from hcflow_model.validation.report import Report

pytestmark = pytest.mark.usefixtures('far_pixels_pass')
PSNR = {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': False}


def pair(seed=0, gt_size=(16, 20), lq_size=(4, 5)):
    """A picture of 8-bit values, as files give them."""
    gt, lq = random_image(3, *gt_size, seed=seed), random_image(3, *lq_size, seed=seed + 100)
    return {'gt': (gt * 255).round() / 255, 'lq': (lq * 255).round() / 255}


def make_model(tmp_path, is_train=True, network=None, ema_decay=0, **val):
    opt = cpu_options(tmp_path, {**SMALL, **(network or {})}, NLL_OPT, ema_decay=ema_decay)
    opt.update(is_train=is_train, val={'save_img': False, 'sheets': 0, 'seed': 0, **val})
    opt['path']['results_root'] = str(tmp_path / 'results')
    opt['datasets'] = {'val': {'name': 'set'}}
    model = HCFlowModel(opt)
    perturb(model.net_g, 0.05)
    return model


def validate(model, images=None, current_iter=5, save_img=False, tb_logger=None, name='set'):
    model.validation(loader(images or [pair()], name), current_iter, tb_logger, save_img)


def saved(tmp_path):
    folder = tmp_path / 'visualization'
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*.png'))


def rows_of(model):
    return {(row['image'], row['temperature'], row['metric']): row for row in model.report.rows}


# ---- samples and files ----

def test_files_of_training(tmp_path):
    model = make_model(tmp_path, temperatures=[0, 0.9], num_samples=2)
    validate(model, [pair(), pair(1)], current_iter=7, save_img=True)
    labels = ('t0.9_1', 't0.9_2', 't0_1')
    assert saved(tmp_path) == [f'image{i}/image{i}_{label}_7.png' for i in (0, 1) for label in labels]
    with torch.no_grad():
        sr = model.net_g.eval()(pair()['lq'][None], temperature=0)[0]
    image = cv2.imread(str(tmp_path / 'visualization' / 'image0' / 'image0_t0_1_7.png'))[..., ::-1]
    assert np.abs(image / 255 - sr.permute(1, 2, 0).numpy()).max() < 0.51 / 255


@pytest.mark.parametrize(('suffix', 'end'), [(None, ''), ('mine', '_mine')])
def test_files_of_a_test(suffix, end, tmp_path):
    model = make_model(tmp_path, is_train=False, temperatures=[1.0], suffix=suffix)
    validate(model, current_iter='test', save_img=True, name='Set5')
    assert saved(tmp_path) == [f'Set5/image0_t1_1{end}.png']


NAMES = ['caf\udce9', '\udcff\udcfe', 'n' * 251, 'ä' * 125, 'key\0with NUL', '..', '.', ' ', "a'b \n\x1b[31m", '%s {0}']


@pytest.mark.parametrize('is_train', [False, True])
def test_names_that_a_file_system_or_an_lmdb_can_hold(is_train, tmp_path):
    model = make_model(tmp_path, is_train=is_train, temperatures=[0, 0.5], sheets=1, metrics={'psnr': PSNR})
    batches = loader([pair()] * len(NAMES))
    batches.dataset.paths = [f'folder/{name}' if name == '..' else f'folder/{name}.png' for name in NAMES]
    item_of = type(batches.dataset).__getitem__

    class Named(type(batches.dataset)):
        def __getitem__(self, index):
            return {**item_of(self, index), 'lq_path': self.paths[index], 'gt_path': self.paths[index]}

    batches.dataset.__class__ = Named
    model.report = Report(model.opt, final=True)
    model.validation(batches, 123456, None, True)
    pictures = [path for path in (tmp_path / 'visualization').rglob('*.png') if path.is_file()]
    assert len(pictures) == 2 * len(NAMES) + 1 and all(len(os.fsencode(path.name)) <= 255 for path in pictures)
    assert len({row['image'] for row in model.report.rows}) == len(NAMES)
    assert len((tmp_path / 'results' / 'metrics.csv').read_bytes().decode()) > 0


def test_sets_with_equal_names_of_images(tmp_path):
    model = make_model(tmp_path, temperatures=[0])
    model.opt['datasets'] = {'train': {'name': 'x'}, 'val': {'name': 'a'}, 'val_2': {'name': 'b/c'}}
    for name, seed in (('a', 0), ('b/c', 5)):
        validate(model, [pair(seed)], name=name, save_img=True)
    files = saved(tmp_path)
    assert len(files) == 2 and files[0] == 'a/image0/image0_t0_1_5.png'
    assert len({(tmp_path / 'visualization' / file).read_bytes() for file in files}) == 2


def test_no_files_unless_asked(tmp_path):
    validate(make_model(tmp_path))
    assert saved(tmp_path) == []


@pytest.mark.parametrize(('temperature', 'label'), [(0, 't0'), (0., 't0'), (0.9, 't0.9'), (1., 't1'), (0.85, 't0.85')])
def test_temperature_label(temperature, label):
    assert temperature_label(temperature) == label


def test_samples_differ_except_at_temperature_0(tmp_path):
    model = make_model(tmp_path, temperatures=[0, 0.9], num_samples=3, metrics={'psnr': PSNR})
    validate(model, save_img=True)
    files = saved(tmp_path)
    assert len(files) == 4
    images = [cv2.imread(str(tmp_path / 'visualization' / file)) for file in files]
    assert len({image.tobytes() for image in images}) == 4
    rows = rows_of(model)
    assert rows['image0', 't0', 'psnr']['num_samples'] == 1 and rows['image0', 't0.9', 'psnr']['num_samples'] == 3


def test_self_ensemble(tmp_path):
    model = make_model(tmp_path, temperatures=[0, 0.9], self_ensemble=True)
    validate(model, save_img=True)
    lq, sampler = pair()['lq'][None], Sampler(model.net_g)
    for file, label in zip(saved(tmp_path), (0.9, 0), strict=True):
        wanted = sampler.draw_image(lq, [Sample(label)], 0, self_ensemble=True)[label, 1][0]
        assert np.array_equal(cv2.imread(str(tmp_path / 'visualization' / file)), tensor2img(wanted))


def test_noise_does_not_depend_on_the_place_in_the_set(tmp_path):
    model = make_model(tmp_path, temperatures=[0.9], num_samples=2)
    validate(model, [pair(), pair(1), pair()], save_img=True)
    images = [cv2.imread(str(tmp_path / 'visualization' / file)).tobytes() for file in saved(tmp_path)]
    assert images[:2] == images[4:] and len(set(images)) == 4


def test_seed_makes_noise_reproducible(tmp_path):
    model = make_model(tmp_path, temperatures=[0.9], num_samples=2, metrics={'psnr': PSNR})

    def results(seed):
        model.opt['val']['seed'] = seed
        validate(model, [pair(), pair(1)])
        return dict(model.metric_results)

    first = results(1)
    torch.manual_seed(99)
    assert results(1) == first
    assert results(2) != first
    state = torch.get_rng_state()
    assert results(None) != results(None)
    assert torch.equal(torch.get_rng_state(), state)  # training goes on as without a validation


def test_default_temperatures(tmp_path):
    model = make_model(tmp_path, metrics={'psnr': PSNR})
    validate(model)
    assert list(model.metric_results) == ['nll', 'psnr_t0', 'psnr_t0.9']


def test_ema_is_what_is_validated(tmp_path):
    model = make_model(tmp_path, ema_decay=0.9, temperatures=[0], metrics={'psnr': PSNR})
    perturb(model.net_g_ema, 0.05, seed=3)
    validate(model)
    with_ema = model.metric_results['psnr_t0']
    model.net_g.load_state_dict(model.net_g_ema.state_dict())
    del model.net_g_ema
    validate(model)
    assert model.metric_results['psnr_t0'] == pytest.approx(with_ema)


def test_training_goes_on_in_training_mode(tmp_path):
    model = make_model(tmp_path)
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    validate(model)
    assert model.net_g.training and all(module.training for module in model.net_g.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.net_g.state_dict().items())


def test_tiles(tmp_path, log, monkeypatch):
    """The likelihood is one number of the whole image; graphs of the tiles are kept for all images."""
    made, init = [], Sampler.__init__
    monkeypatch.setattr(Sampler, '__init__', lambda self, *args: made.append(args[1]) or init(self, *args))
    images = [pair(i, (80, 96), (20, 24)) for i in (0, 1)]
    for tile, has_nll in ((16, False), (24, True)):
        model = make_model(tmp_path, temperatures=[0.5], tile=tile, metrics={'psnr': PSNR})
        validate(model, images)
        assert made.pop() == tile and not made
        assert ('nll' in model.metric_results) == has_nll and 'psnr_t0.5' in model.metric_results
        assert len([text for _, text in log if 'nll' in text and 'val.tile = 16' in text]) == 1


# ---- log, best values, several sets ----

class TensorBoard:
    def __init__(self):
        self.scalars = {}

    def add_scalar(self, name, value, step):
        self.scalars[name, step] = value


def test_best_values(tmp_path, log):
    model = make_model(tmp_path, temperatures=[0], metrics={'psnr': PSNR, 'worst': {**PSNR, 'better': 'lower'}})
    board, seen = TensorBoard(), {}
    for current_iter in (1, 2, 3):
        perturb(model.net_g, 0.05, seed=current_iter)
        validate(model, current_iter=current_iter, tb_logger=board)
        seen[current_iter] = dict(model.metric_results)
        for name, value in seen[current_iter].items():
            assert board.scalars[f'metrics/set/{name}', current_iter] == value
    best = model.best_metric_results['set']
    for name, choose in (('psnr_t0', max), ('worst_t0', min), ('nll', min)):
        values = {current_iter: results[name] for current_iter, results in seen.items()}
        assert best[name]['val'] == choose(values.values()) and values[best[name]['iter']] == best[name]['val']
    text = [line for _, line in log if line.startswith('Validation set')][-1]
    value, best = seen[3]['psnr_t0'], best['psnr_t0']
    assert f'# psnr_t0: {value:.4f}\tBest: {best["val"]:.4f} @ {best["iter"]} iter' in text


def test_two_sets_are_kept_apart(tmp_path):
    model = make_model(tmp_path, temperatures=[0], metrics={'psnr': PSNR})
    for name, seed in (('a', 0), ('b', 5)):
        validate(model, [pair(seed)], name=name)
    assert set(model.best_metric_results) == {'a', 'b'}
    assert model.best_metric_results['a']['psnr_t0'] != model.best_metric_results['b']['psnr_t0']
    assert {row['dataset'] for row in model.report.rows} == {'a', 'b'}


# ---- what a test leaves behind ----

def test_report_of_a_test(tmp_path, log):
    model = make_model(tmp_path, is_train=False, temperatures=[0, 0.9], num_samples=2, bicubic=True,
                       metrics={'psnr': PSNR}, sheets=1)
    validate(model, [pair(), pair(1)])
    rows, content = read_report(tmp_path / 'results')
    assert {(row['image'], row['temperature'], row['metric']) for row in rows} == {
        (image, *what) for image in ('image0', 'image1')
        for what in (('', 'nll'), ('bicubic', 'psnr'), ('0', 'psnr'), ('0.9', 'psnr'))}
    for label, results in content['averages']['set'].items():
        for metric, value in results.items():
            means = [float(row['mean']) for row in rows
                     if (row['temperature'], row['metric']) == (label.replace('all', ''), metric)]
            assert len(means) == 2 and value == pytest.approx(np.mean(means))
    table = [text for _, text in log if text.startswith('Results of')][-1]
    assert 'bicubic' in table and 'nll' in table
    assert saved(tmp_path) == ['set/image0_sheet.png']  # of the first image alone


def test_nll_is_told_without_temperatures(tmp_path, log):
    model = make_model(tmp_path, is_train=False, temperatures=[], bicubic=True, metrics={'psnr': PSNR})
    validate(model)
    lines = [line.split() for line in [text for _, text in log if text.startswith('Results of')][-1].splitlines()]
    nll = number(rows_of(model)['image0', '', 'nll']['mean'])
    assert lines[3] == ['set', '-', '-', nll] and [line[1] for line in lines[3:]] == ['-', 'bicubic']


def test_last_validation_of_training_reports(tmp_path):
    model = make_model(tmp_path, temperatures=[0], metrics={'psnr': PSNR}, sheets=1)
    (tmp_path / 'models').mkdir()
    validate(model)
    assert not (tmp_path / 'results').exists() and saved(tmp_path) == []
    model.save(-1, -1)
    validate(model)
    content = json.loads((tmp_path / 'results' / 'metrics.json').read_text())
    assert content['checkpoint'] == str(Path(tmp_path, 'models', 'net_g_latest.pth'))
    assert len(content['checkpoint_sha256']) == 64
    assert saved(tmp_path) == ['image0/image0_sheet_5.png']


def test_progress_bar(tmp_path, capsys):
    model = make_model(tmp_path, pbar=True)
    validate(model)
    bar = capsys.readouterr().err
    assert 'set image0' in bar and '1/1' in bar
    model.opt['val']['pbar'] = False
    validate(model)
    assert 'image0' not in capsys.readouterr().err


def test_nll_is_reported_where_it_is_not_trained(tmp_path):
    opt = cpu_options(tmp_path, SMALL, {'pixel_opt': L1})
    model = HCFlowModel(opt)
    validate(model)
    assert np.isfinite(model.metric_results['nll'])
