"""docs/options.md is what the code says, and explains every key that a shipped option file uses."""
import importlib.util

import pytest
from helpers import ROOT

from hcflow_model.options import read as safe_yaml
from hcflow_model.options import schema as option_schema

SPEC = importlib.util.spec_from_file_location('make_options', ROOT / 'docs' / 'make_options.py')
make_options = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_options)


def test_the_page_is_up_to_date():
    written = (ROOT / 'docs' / 'options.md').read_text(encoding='utf-8')
    assert written == make_options.document(), 'run `python docs/make_options.py`'


@pytest.mark.parametrize('path', sorted((ROOT / 'options').glob('*.yml')), ids=lambda path: path.stem)
def test_every_key_of_shipped_files_is_explained(path):
    assert make_options.unexplained(safe_yaml.read_option_file(str(path))) == []


def test_unexplained_keys_are_found():
    opt = safe_yaml.read_option_file(str(ROOT / 'options' / 'train_HCFlow_plusplus_x4.yml'))
    opt['colour'] = opt['train']['optim_g']['momentum'] = opt['datasets']['val']['gt_sizes'] = 1
    opt['network_g']['depth'] = opt['val']['metrics']['psnr']['border'] = opt['logger']['wandb']['team'] = 1
    opt['train']['gan_opt']['type'] = 'OtherLoss'
    assert sorted(make_options.unexplained(opt)) == [
        '.colour', 'datasets.val.gt_sizes', 'logger.wandb.team', 'network_g.depth', 'train.gan_opt.type: OtherLoss',
        'train.optim_g.momentum', 'val.metrics.psnr.border']


@pytest.mark.parametrize('block', ['TRAIN', 'VAL', 'PATH', 'LOGGER', 'WANDB', 'DIST_PARAMS', 'GENERAL'])
def test_every_key_of_the_schema_has_a_row(block):
    schema = getattr(option_schema, block)
    rows = {row.key: row for row in make_options.tables()[block.lower()].rows}
    assert list(rows) == list(schema)
    assert all(rows[key].meaning == option.meaning and rows[key].values for key, option in schema.items())


def test_a_new_argument_needs_a_meaning(monkeypatch):
    """What keeps docstrings, texts and signatures together."""
    monkeypatch.delitem(option_schema.COMPONENTS['Adam'], 'lr')
    with pytest.raises(KeyError, match=r"Adam: \['lr'\]"):
        make_options.tables()
    monkeypatch.setitem(option_schema.COMPONENTS['Adam'], 'lr', 'rate')
    monkeypatch.setitem(option_schema.COMPONENTS['Adam'], 'speed', 'of nothing')
    with pytest.raises(KeyError, match=r"Adam: \['speed'\]"):
        make_options.tables()
