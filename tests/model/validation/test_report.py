import csv
import hashlib
import json
import logging
from importlib import metadata

import basicsr
import numpy as np
import pytest

from hcflow_arch import InputError
from hcflow_model.utils.files import file_hash
from hcflow_model.validation.report import ImageResults, Report


def make_report(tmp_path, names=('Set5', 'Set14'), is_train=False, final=False, seed=3, **more):
    opt = {'name': 'run', 'is_train': is_train, 'path': {'results_root': str(tmp_path / 'results')},
           'datasets': {f'test_{i}': {'name': name} for i, name in enumerate(names)}, 'val': {'seed': seed},
           'option_file': 'a.yml', **more}
    return Report(opt, final=final)


def results_of(name, image, *rows, problems=()):
    """ImageResults of rows (label, metric, values)."""
    results = ImageResults(name, image)
    for row in rows:
        results.add(*row)
    results.problems += problems
    return results


def fill(report, name='Set5', images=('a', 'b')):
    """psnr of two images: bicubic 20, 30; t0 21, 31; t0.9 (22, 24), (32, 34); nll 1, 2. Returns the last results."""
    report.start(name)
    for i, image in enumerate(images):
        results = results_of(name, image, ('', 'nll', [i + 1.]), ('bicubic', 'psnr', [20. + 10 * i]),
                             ('t0', 'psnr', [21. + 10 * i]), ('t0.9', 'psnr', [22. + 10 * i, 24. + 10 * i]),
                             ('t0.9', 'diversity', [0.5]))
        report.add(results)
    return results


def read_csv(tmp_path):
    with open(tmp_path / 'results' / 'metrics.csv', newline='') as file:
        return list(csv.DictReader(file))


def read_json(tmp_path):
    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')
    return json.loads((tmp_path / 'results' / 'metrics.json').read_text(), parse_constant=refuse)


def test_csv(tmp_path):
    report = make_report(tmp_path)
    fill(report)
    report.finish('Set5', None)
    rows = read_csv(tmp_path)
    assert list(rows[0]) == ['dataset', 'image', 'temperature', 'metric', 'mean', 'std', 'num_samples']
    assert len(rows) == 10
    row = rows[8]
    assert [row[key] for key in ('dataset', 'image', 'temperature', 'metric')] == ['Set5', 'b', '0.9', 'psnr']
    assert float(row['mean']) == 33 and int(row['num_samples']) == 2
    assert float(row['std']) == pytest.approx(np.std([32, 34], ddof=1))
    assert [row['temperature'] for row in rows[:5]] == ['', 'bicubic', '0', '0.9', '0.9']
    assert [float(row['std']) for row in rows[:3]] == [0, 0, 0]


def test_json(tmp_path):
    checkpoint = tmp_path / 'net.pth'
    checkpoint.write_bytes(b'weights')
    report = make_report(tmp_path)
    for name in ('Set5', 'Set14'):
        fill(report, name)
        report.finish(name, str(checkpoint))
    content = read_json(tmp_path)
    averages = {'all': {'nll': 1.5}, 'bicubic': {'psnr': 25.}, '0': {'psnr': 26.},
                '0.9': {'psnr': 28., 'diversity': 0.5}}
    assert content['averages'] == {'Set5': averages, 'Set14': averages}
    assert (content['name'], content['option_file'], content['seed']) == ('run', 'a.yml', 3)
    assert content['checkpoint'] == str(checkpoint)
    assert content['checkpoint_sha256'] == hashlib.sha256(b'weights').hexdigest()
    assert content['versions'] == {'basicsr': basicsr.__version__, **{
        name: metadata.version(name) for name in ('hcflow', 'torch', 'numpy', 'lpips')}}


def test_infinite_psnr_and_nan(tmp_path):
    report = make_report(tmp_path)
    report.start('Set5')
    report.add(results_of('Set5', 'a', ('t0', 'psnr', [float('inf')]), ('t0', 'ssim', [float('nan')]),
                          ('t0.9', 'psnr', [float('inf'), float('inf')])))
    report.add(results_of('Set5', 'b', ('t0.9', 'psnr', [30., 40.])))
    report.finish('Set5', None)
    assert read_json(tmp_path)['averages']['Set5'] == {'0': {'psnr': 'inf', 'ssim': 'nan'}, '0.9': {'psnr': 'inf'}}
    assert [row['mean'] for row in read_csv(tmp_path)] == ['inf', 'nan', 'inf', '35.0']
    assert 'inf' in report.table()


def test_results_without_checkpoint(tmp_path):
    report = make_report(tmp_path, val=None)
    fill(report)
    report.finish('Set5', 'none.pth')
    content = read_json(tmp_path)
    assert (content['checkpoint_sha256'], content['seed']) == (None, None)
    assert file_hash(None) is None


def test_table(tmp_path):
    report = make_report(tmp_path)
    fill(report, 'Set5')
    fill(report, 'A longer name', images=('a',))
    lines = report.table().splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    cells = [line.split('  ') for line in lines]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    assert cells[0] == ['test set', 'temperature', 'psnr', 'diversity', 'nll']
    assert set(lines[1]) == {'-'}
    assert cells[2:] == [['Set5', 'bicubic', '25.00', '-', '-'], ['Set5', '0', '26.00', '-', '1.5000'],
                         ['Set5', '0.9', '28.00', '0.5000', '1.5000'],
                         ['A longer name', 'bicubic', '20.00', '-', '-'],
                         ['A longer name', '0', '21.00', '-', '1.0000'],
                         ['A longer name', '0.9', '23.00', '0.5000', '1.0000']]
    column = lines[0].index('psnr') + len('psnr')
    assert all(line[column - 1] != ' ' for line in lines[2:])  # numbers end below each other


def test_table_of_what_has_no_temperature(tmp_path):
    report = make_report(tmp_path)
    report.start('Set5')
    report.add(results_of('Set5', 'a', ('', 'nll', [1.])))
    assert report.table().splitlines()[2].split() == ['Set5', '-', '1.0000']


def test_empty_report(tmp_path):
    report = make_report(tmp_path)
    report.start('Set5')
    report.finish('Set5', None)
    assert read_csv(tmp_path) == [] and read_json(tmp_path)['averages'] == {'Set5': {}}
    assert report.averages('Set5') == {}


def test_a_new_start_forgets_the_earlier_validation(tmp_path):
    report = make_report(tmp_path)
    fill(report, 'Set5')
    fill(report, 'Set14')
    report.start('Set5')
    report.add(results_of('Set5', 'a', ('t0', 'psnr', [40.])))
    assert report.averages('Set5') == {'t0': {'psnr': 40.}}
    assert report.averages('Set14')['bicubic'] == {'psnr': 25.}


def test_captions(tmp_path):
    captions = fill(make_report(tmp_path)).captions()
    assert captions == {'': 'nll 2.0000', 'bicubic': 'psnr 30.00', 't0': 'psnr 31.00',
                        't0.9': 'psnr 33.00 diversity 0.5000'}
    assert ImageResults('Set5', 'none').captions() == {}


def test_problems(tmp_path):
    report = make_report(tmp_path)
    for _ in range(2):  # those of an earlier validation go
        report.start('Set5')
        report.add(results_of('Set5', 'a', problems=['a.png is empty.']))
        fill(report, 'Set14')
    report.finish('Set5', None)
    assert read_json(tmp_path)['problems'] == {'Set5': {'a': ['a.png is empty.']}}


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    report = make_report(tmp_path)
    fill(report)
    report.finish('Set5', None)
    before = (tmp_path / 'results' / 'metrics.csv').read_bytes()
    fill(report, 'Set14')

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('hcflow_model.utils.files.os.replace', full)
    with pytest.raises(InputError, match='Cannot write .*metrics.csv: No space left on device'):
        report.finish('Set14', None)
    assert (tmp_path / 'results' / 'metrics.csv').read_bytes() == before
    (tmp_path / 'file').touch()
    report.opt['path']['results_root'] = str(tmp_path / 'file' / 'folder')
    with pytest.raises(InputError, match='Cannot make the folder .*: Not a directory'):
        report.finish('Set14', None)


def test_files_only_at_the_end_of_training(tmp_path):
    report = make_report(tmp_path, is_train=True)
    fill(report)
    report.finish('Set5', None)
    assert not (tmp_path / 'results').exists()
    report = make_report(tmp_path, is_train=True, final=True)
    fill(report)
    report.finish('Set5', None)
    assert (tmp_path / 'results' / 'metrics.csv').exists()


def test_results_of_training_lie_below_the_root(tmp_path):
    report = make_report(tmp_path, is_train=True, final=True, path={}, root_path=str(tmp_path))
    fill(report)
    report.finish('Set5', None)
    assert sorted(path.name for path in (tmp_path / 'results' / 'run').iterdir()) == ['metrics.csv', 'metrics.json']


def test_table_is_logged_after_the_last_set(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(logging.getLogger('basicsr'), 'info', logged.append)
    report = make_report(tmp_path)
    fill(report, 'Set5')
    report.finish('Set5', None)
    assert logged == []
    fill(report, 'Set14')
    report.finish('Set14', None)
    text, = logged
    assert text.startswith('Results of run') and text.endswith(report.table())
