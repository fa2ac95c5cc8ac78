"""Option files without a clone: `hcflow recipe`, and `hcflow prepare --recipe NAME --options FILE`."""
from pathlib import Path

import pytest
import yaml
from helpers import DATA, ROOT, SMALL

from hcflow_arch import InputError
from hcflow_model.commands import main
from hcflow_model.data.prepare import Settings
from hcflow_model.data.prepare.dataset_block import dataset_block
from hcflow_model.options import check
from hcflow_model.options.read import read_option_file
from hcflow_model.options.recipes import read_recipe, recipe_files, recipe_for_data, training_recipe

TRAINING = [name for name in recipe_files() if 'train' in name]


def prepare(*argv):
    return main(['prepare', '-i', str(DATA / 'val_gt'), '-o', 'datasets/own', '--workers', '1', *argv])


def test_all_option_files_are_recipes(capsys):
    assert list(recipe_files()) == sorted(path.stem for path in (ROOT / 'options').glob('*.yml'))
    assert main(['recipe']) == 0
    lines = capsys.readouterr().out.splitlines()
    table = dict(line.split(maxsplit=1) for line in lines[2:2 + len(recipe_files())])
    assert list(table) == list(recipe_files()) and all(table.values())
    assert table['train_HCFlow_x4_fast'].strip() == ('HCFlow for x4 super-resolution of general images in a tenth of '
                                                     'the iterations')


def test_a_recipe_is_written_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / 'options' / 'train_HCFlow_x8.yml').read_text()
    assert main(['recipe', 'train_HCFlow_x8']) == 0 and capsys.readouterr().out == text
    assert main(['recipe', 'train_HCFlow_x8.yml', '-o', 'new/my.yml']) == 0 and Path('new/my.yml').read_text() == text
    Path('new/my.yml').write_text('mine')
    assert main(['recipe', 'train_HCFlow_x8', '-o', 'new/my.yml']) == 1 and Path('new/my.yml').read_text() == 'mine'
    assert '-o new/my.yml exists' in capsys.readouterr().err
    assert main(['recipe', 'train_HCFlow_x8', '-o', 'new/my.yml', '--overwrite']) == 0
    assert Path('new/my.yml').read_text() == text


def test_unknown_recipes(capsys):
    assert main(['recipe', 'train_HCFlow_x4_fats']) == 1
    assert "no recipe 'train_HCFlow_x4_fats' (did you mean train_HCFlow_x4_fast?)" in capsys.readouterr().err
    with pytest.raises(InputError, match='no recipe'):
        read_recipe('../options/train_HCFlow_x4')


@pytest.mark.parametrize(('side', 'val'), [(480, 1), (100, 0)])
@pytest.mark.parametrize('recipe', TRAINING)
def test_all_recipes_take_prepared_data(recipe, side, val, tmp_path, monkeypatch):
    """What is written is accepted, and differs from the recipe in its name and data alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, 'check_dataset', lambda *args: None)  # there are no images
    before = yaml.safe_load(read_recipe(recipe))
    settings = Settings(before['scale'], val=val, hr_only='rescaling' in recipe)
    sizes = {folder: {'a': (side, side), 'b': (side, side)} for part in ('train', 'val')[:1 + val]
             for folder in settings.folders(part)}
    kept = training_recipe(recipe, settings.scale, settings.hr_only)['datasets']['train']
    block = dataset_block(Path('datasets', 'own'), settings, sizes, True, kept)
    Path('123.yml').write_text(recipe_for_data(recipe, '123', block['datasets']))
    opt = read_option_file('123.yml')
    check.check_structure(opt, True)
    assert opt.pop('name') == '123' and before.pop('name')
    old, new = before.pop('datasets'), opt.pop('datasets')
    assert new == block['datasets'] and ('val' in new) == bool(val)
    for key in old['train'].keys() & {'use_hflip', 'use_rot', 'batch_size_per_gpu', 'pin_memory', 'prefetch_mode'}:
        assert new['train'][key] == old['train'][key]
    gt_size = new['train']['gt_size']
    assert gt_size == min(old['train']['gt_size'], 160 if side == 480 else 96)
    assert new['train']['dataset_enlarge_ratio'] >= max(8, old['train']['dataset_enlarge_ratio'])
    if 'input_size' in before.get('network_d', {}):
        before['network_d']['input_size'] = gt_size
    assert opt == before
    comments = [line for line in read_recipe(recipe).splitlines() if line.startswith('#')]
    assert [line for line in Path('123.yml').read_text().splitlines() if line.startswith('#')][1:] == comments


@pytest.mark.parametrize(('recipe', 'arguments'), [('train_HCFlow_x4_fast', ['--crop', '64', '--val', '1', '--lmdb']),
                                                   ('train_HCFlow_rescaling_x4', ['--hr_only'])])
def test_prepare_writes_what_basicsr_trains(recipe, arguments, tmp_path, command, capsys):
    assert prepare(*arguments, '--recipe', recipe, '--options', 'my_x4.yml') == 0
    output, errors = capsys.readouterr()
    assert output == '' and 'option file: my_x4.yml (basicsr train -opt my_x4.yml)' in errors
    small = [f'network_g:{key}={value}' for key, value in SMALL.items() if key in read_option_file('my_x4.yml')[
        'network_g']]
    code, _, errors = command(
        'train', '-opt', 'my_x4.yml', '--force_yml', *small, 'train:total_iter=1', 'num_gpu=0',
        'datasets:train:num_worker_per_gpu=0', 'datasets:train:batch_size_per_gpu=2', 'logger:use_tb_logger=false',
        'logger:print_freq=1')
    assert code == 0, errors
    log, = Path('experiments', 'my_x4').glob('*.log')
    assert 'iter:       1' in log.read_text() and Path('experiments/my_x4/models/net_g_latest.pth').is_file()


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--recipe', 'train_HCFlow_x4'], '--recipe NAME and --options FILE go together'),
    (['--options', 'my.yml'], '--recipe NAME and --options FILE go together'),
    (['--options', 'my.yml', '--recipe', 'nothing'], "no recipe 'nothing'"),
    (['--options', 'my.yml', '--recipe', 'test_HCFlow_x4'], 'is for testing'),
    (['--options', 'my.yml', '--recipe', 'train_HCFlow_x8'], 'is for scale 8, --scale is 4'),
    (['--options', 'my.yml', '--recipe', 'train_HCFlow_x4', '--hr_only'], 'needs LR images; leave out --hr_only'),
    (['--options', 'my.yml', '--recipe', 'train_HCFlow_real_x4', '--hr_only'], 'into folders; give --lmdb'),
    (['--options', '..', '--recipe', 'train_HCFlow_x4'], "'--options' is ''|--options"),
    (['--options', f'{"a" * 200}.yml', '--recipe', 'train_HCFlow_x4'], "'--options' is")])
def test_refusals_before_the_work(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert prepare(*arguments) == 1
    errors = capsys.readouterr().err
    assert any(part in errors for part in message.split('|')) and errors.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_an_option_file_is_never_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ['--recipe', 'demo_train_HCFlow_x4', '--options', 'my.yml']
    assert prepare(*arguments) == prepare(*arguments) == 0  # the same again is no change
    Path('my.yml').write_text('mine')
    assert prepare(*arguments) == 1 and '--options my.yml is there and holds' in capsys.readouterr().err
    assert Path('my.yml').read_text() == 'mine'
