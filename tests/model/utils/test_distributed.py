"""Two gloo processes that validate together leave what one process leaves, and fail together."""
import csv
import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from helpers import DATA, NLL_OPT, ROOT, SMALL, SMALL_NET, Images, cpu_options, demo_options, perturb, random_image

from hcflow_arch import InputError
from hcflow_model import HCFlowModel, cli
from hcflow_model.utils.distributed import settle, together
from hcflow_model.utils.errors import input_error
from hcflow_model.validation.report import Report

PSNR = {'type': 'calculate_psnr', 'crop_border': 0}
BROKEN = 1  # image that cannot be read in the last case


class Seen(Images):
    """Remembers which images were read."""

    def __init__(self, images, name):
        super().__init__(images, name)
        self.seen = []

    def __getitem__(self, index):
        self.seen.append(index)
        if self.images[index] is None:
            raise InputError(f'/data/image{index}.png is broken.')
        return super().__getitem__(index)


def pairs(count):
    return [{'gt': random_image(3, 16, 20, seed=i), 'lq': random_image(3, 4, 5, seed=100 + i)} for i in range(count)]


def work(rank, world_size, root):
    """Validate and test sets of several sizes; leave what every rank knows in root/RANK.json."""
    torch.set_num_threads(1)
    known = {'code': command(rank, world_size, root)}  # leaves the processes connected
    for case, images in {'three': pairs(3), 'one': pairs(1), 'broken': [*pairs(BROKEN), None, *pairs(1)]}.items():
        for is_train in (True, False):
            name = f'{case}_{"train" if is_train else "test"}'
            dataset = Seen(images, 'set')
            model = make_model(root / name, is_train, rank, world_size)
            try:
                model.validation(torch.utils.data.DataLoader(dataset), 7 if is_train else name, None, True)
                error = None
            except InputError as caught:
                error = str(caught).replace(str(root), 'ROOT')
            known[name] = {'rows': model.report.rows, 'error': error, 'seen': dataset.seen,
                           'best': getattr(model, 'best_metric_results', None),
                           'results': getattr(model, 'metric_results', None)}
    if world_size > 1:
        known['failures'] = [failure_of(rank, error) for error in (InputError('x is 1.'), KeyError('y'))]
    (root / f'{rank}.json').write_text(json.dumps(known))
    if world_size > 1:
        settle()
        dist.destroy_process_group()


def command(rank, world_size, root):
    """`basicsr test` on the bundled pictures, of which one is broken. Returns its exit code."""
    os.chdir(root)
    if world_size > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR='127.0.0.1',
                          MASTER_PORT=(root / 'port').read_text())
    flags = ['--launcher', 'pytorch'] if world_size > 1 else []
    return cli.main(['test', '-opt', 'opt.yml', *flags])


def prepare(root):
    """What :func:`command` needs."""
    shutil.copytree(DATA / 'val_gt', root / 'gt')
    shutil.copytree(DATA / 'val_lq_x4', root / 'lq')
    (root / 'lq' / 'rocket.png').write_bytes(b'')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        (root / 'port').write_text(str(free.getsockname()[1]))
    dataset = {'name': 'set', 'type': 'PairedImageDataset', 'dataroot_gt': 'gt', 'dataroot_lq': 'lq',
               'io_backend': {'type': 'disk'}}
    opt = demo_options({
        **SMALL_NET, 'name': 'command', 'num_gpu': 0,
        'datasets': {'test_1': dataset}, 'val': {
            'save_img': True, 'temperatures': [0, 0.8], 'seed': 0, 'sheets': 2, 'metrics': {'psnr': PSNR}}})
    for block in ('train', 'logger'):
        del opt[block]
    (root / 'opt.yml').write_text(yaml.safe_dump(opt))


def make_model(root, is_train, rank, world_size):
    opt = cpu_options(root, SMALL, {**NLL_OPT})
    opt.update(dist=world_size > 1, rank=rank, world_size=world_size, is_train=is_train)
    opt['val'].update(seed=3, num_samples=2, temperatures=[0, 0.8], sheets=2, bicubic=True, metrics={
        'psnr': PSNR, 'diversity': {'type': 'calculate_diversity'}})
    opt['path']['results_root'] = str(root / 'results')
    opt['datasets'] = {'val': {'name': 'set'}}
    torch.manual_seed(0)
    model = HCFlowModel(opt)
    perturb(model.get_bare_model(model.net_g), 0.05)
    model.report = Report(opt, final=True)
    return model


def failure_of(rank, error):
    """What a rank gets when rank 1 raises `error`, and whether the ranks can go on talking."""
    def fail():
        if rank == 1:
            raise error
        return rank

    try:
        together({'dist': True}, fail)
    except Exception as caught:
        return [type(caught).__name__, str(caught), together({'dist': True}, lambda: 10 + rank)]


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """[folder of one process, folder of two]."""
    folders = []
    for world_size in (1, 2):
        root = tmp_path_factory.mktemp(f'processes{world_size}')
        prepare(root)
        mp.spawn(work, (world_size, root), nprocs=world_size)
        folders.append(root)
    return folders


def known_by(root, rank=0):
    return json.loads((root / f'{rank}.json').read_text())


def values_of(folder):
    """([row without figures], figures) of metrics.csv, in order."""
    with open(folder / 'metrics.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    return ([(row['image'], row['temperature'], row['metric'], row['num_samples']) for row in rows],
            [float(row[key]) for row in rows for key in ('mean', 'std')])


CASES = [f'{case}_{kind}' for case in ('three', 'one', 'broken') for kind in ('train', 'test')]


@pytest.mark.slow
@pytest.mark.parametrize('folder', ['results/command', *(f'{case}/results' for case in CASES)])
def test_files_are_those_of_one_process(folder, roots):
    name = Path(folder).parts[0]
    (rows_one, values_one), (rows_two, values_two) = (values_of(root / folder) for root in roots)
    assert rows_one == rows_two and len(rows_one) > 5
    assert values_two == pytest.approx(values_one, rel=1e-6, abs=1e-6)
    one, two = (json.loads((root / folder / 'metrics.json').read_text()) for root in roots)
    assert {**one, 'averages': 0, 'checkpoint': 0} == {**two, 'averages': 0, 'checkpoint': 0}
    for label, averages in one['averages']['set'].items():
        assert two['averages']['set'][label] == pytest.approx(averages, rel=1e-6)
    one, two = ({str(path.relative_to(root)): path.read_bytes() for path in root.glob(f'{name}/**/*.png')}
                for root in roots)
    assert one == two and any('sheet' in path for path in one)


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_all_ranks_know_the_same_and_read_every_image_once(name, roots):
    one, first, second = known_by(roots[0])[name], known_by(roots[1])[name], known_by(roots[1], 1)[name]
    for key in ('rows', 'best', 'results', 'error'):
        assert first[key] == second[key], key
    assert first['error'] == one['error']
    if one['best']:
        assert first['best']['set'].keys() == one['best']['set'].keys()
        assert all(record['iter'] == 7 for record in first['best']['set'].values())
    count = {'three': 3, 'one': 1, 'broken': 3}[name.split('_')[0]]
    assert one['seen'] == list(range(count))
    assert (first['seen'], second['seen']) == (list(range(0, count, 2)), list(range(1, count, 2)))


@pytest.mark.slow
def test_what_is_left_out(roots):
    for root in roots:
        known = known_by(root)
        assert known['broken_train']['error'] is None and known['three_test']['error'] is None
        assert re.match(r'1 image\(s\) left out or measured in part \(1 in set\)', known['broken_test']['error'])
        content = json.loads((root / 'broken_test' / 'results' / 'metrics.json').read_text())
        assert content['problems'] == {'set': {f'item {BROKEN}': [f'/data/image{BROKEN}.png is broken.']}}


def test_the_command(roots):
    assert [known_by(roots[0])['code'], *(known_by(roots[1], rank)['code'] for rank in (0, 1))] == [1, 1, 1]
    for root in roots:
        rows, _ = values_of(root / 'results' / 'command')
        assert {image for image, *_ in rows} == {'cat', 'tower'}
        assert sorted(path.name for path in (root / 'results' / 'command').rglob('*.png')) == [
            f'{image}_{what}.png' for image in ('cat', 'tower') for what in ('sheet', 't0.8_1', 't0_1')
            if (image, what) != ('tower', 'sheet')]
        log, = (root / 'results' / 'command').glob('*.log')
        assert log.read_text().count('Results of command') == 1


def test_an_error_of_one_rank_is_an_error_of_all(roots):
    first, second = (known_by(roots[1], rank)['failures'] for rank in (0, 1))
    assert first == [['InputError', 'x is 1.', [10, 11]],
                     ['LostProcessError', "Rank 1 failed: KeyError('y')", [10, 11]]]
    assert second == [['InputError', 'x is 1.', [10, 11]], ['KeyError', "'y'", [10, 11]]]


def survive(rank, root, end):
    """Two processes of which the second ends without a word."""
    dist.init_process_group('gloo', init_method=f'file://{root}/store_{end}', rank=rank, world_size=2)
    dist.barrier()
    if rank == 1:
        os._exit(0)
    calls = {'all_reduce': lambda: dist.all_reduce(torch.ones(1)), 'barrier': dist.barrier,
             'together': lambda: together({'dist': True}, len, [])}
    try:
        calls[end]()
    except RuntimeError as error:
        (root / end).write_text(str(input_error(error)))


@pytest.mark.slow
@pytest.mark.parametrize('end', ['all_reduce', 'barrier', 'together'])
def test_the_end_of_another_process_is_one_line(end, tmp_path):
    mp.spawn(survive, (tmp_path, end), nprocs=2)
    assert (tmp_path / end).read_text().startswith('Another process of this run has ended')


def test_one_process_needs_no_others():
    assert together({'dist': False}, lambda value: value + 1, 1) == [2]
    with pytest.raises(KeyError):
        together({'dist': False}, {}.__getitem__, 'key')


def test_an_end_waits_for_the_thread_of_messages(monkeypatch):
    waits = []
    monkeypatch.setattr('hcflow_model.utils.distributed.time.sleep', waits.append)
    for connected in (False, True):
        monkeypatch.setattr(dist, 'is_initialized', lambda connected=connected: connected)
        settle()
        assert len(waits) == connected


def test_the_command_settles_whatever_happens(tmp_path, monkeypatch, command):
    (tmp_path / 'tests').symlink_to(DATA.parent)  # whose data the option file names
    calls = []
    monkeypatch.setattr('hcflow_model.pipeline.run.settle', lambda: calls.append(True))
    for error in (InputError('x'), KeyboardInterrupt()):
        def fail(root, error=error):
            raise error
        monkeypatch.setattr('basicsr.train.train_pipeline', fail)
        assert command('train', '-opt', str(ROOT / 'options' / 'demo_train_HCFlow_x4.yml'))[0] > 0
    assert len(calls) == 2
