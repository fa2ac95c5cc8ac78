import sys
from collections import OrderedDict

import pytest
import yaml
from helpers import demo_options

from hcflow_arch import InputError, basicsr_import
from hcflow_model.options.read import read_option_file, safe_ordered_yaml
from hcflow_model.pipeline.repairs import apply_force_yml, replaced


def test_version_is_that_of_the_basicsr_that_would_be_imported(tmp_path, monkeypatch):
    """It has no metadata, and is not imported."""
    (tmp_path / 'basicsr').mkdir()
    (tmp_path / 'basicsr' / '__init__.py').write_text('raise RuntimeError')
    (tmp_path / 'basicsr' / 'version.py').write_text("__version__ = '9.8.7'")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'basicsr')
    assert basicsr_import.basicsr_version() == '9.8.7'


@pytest.mark.parametrize('error', [None, KeyError, KeyboardInterrupt])
def test_replaced_values_come_back(error):
    class Owner:
        first, second = 1, 2

    try:
        with replaced([(Owner, 'first', 3), (Owner, 'second', 4), (Owner, 'first', 5)]):
            assert (Owner.first, Owner.second) == (5, 4)
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert (Owner.first, Owner.second) == (1, 2)
    with pytest.raises(AttributeError, match='none'), replaced([(Owner, 'first', 3), (Owner, 'none', 4)]):
        pass
    assert Owner.first == 1 and not hasattr(Owner, 'none')


# ---- option files ----

def test_safe_yaml_keeps_numbers_and_order():
    loader, _ = safe_ordered_yaml()
    opt = yaml.load('z: !!float 1e-4\na: 1e-4\nm: {y: 1, b: ~, a: true}\nf: !!float 3\n', Loader=loader)
    assert isinstance(opt, OrderedDict) and isinstance(opt['m'], OrderedDict)
    assert list(opt) == ['z', 'a', 'm', 'f'] and list(opt['m']) == ['y', 'b', 'a']
    assert opt['z'] == 1e-4 and opt['a'] == '1e-4' and opt['m'] == {'y': 1, 'b': None, 'a': True}
    assert isinstance(opt['f'], float)


def test_safe_yaml_reads_what_basicsrs_own_loader_reads():
    import basicsr.utils.options as options
    text = yaml.safe_dump(demo_options(), sort_keys=False)
    own = yaml.load(text, Loader=yaml.Loader)
    assert yaml.load(text, Loader=options.ordered_yaml()[0]) == own == yaml.load(text, Loader=safe_ordered_yaml()[0])


@pytest.mark.parametrize('text', [
    "!!python/object/apply:os.mkdir ['ran']", "a: !!python/object/apply:os.mkdir ['ran']",
    'a: !!python/name:os.mkdir', "a: !!python/object/new:os.mkdir ['ran']", 'a: !!python/module:os',
    'a: !!python/object:basicsr.utils.registry.Registry {}'])
def test_nothing_in_an_option_file_is_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.yml').write_text(text)
    with pytest.raises(InputError, match=r'a\.yml is not valid YAML: .*python') as caught:
        read_option_file('a.yml')
    assert not (tmp_path / 'ran').exists() and '\n' not in str(caught.value)


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'holds no options'), (b'- a\n- b\n', 'holds no options'), (b'just text', 'holds no options'),
    (b'a: [1, 2', 'is not valid YAML'), (b'a: b: c', 'is not valid YAML'), (b'\ta: 1', 'is not valid YAML'),
    (b'\x89PNG\r\n\x1a\n\xff\xfe', 'cannot be read: it is not text'), (b'a: "\x00"', 'is not valid YAML')])
def test_option_files_that_are_none(content, message, tmp_path):
    (tmp_path / 'a.yml').write_bytes(content)
    with pytest.raises(InputError, match=rf'Option file .*a\.yml {message}'):
        read_option_file(str(tmp_path / 'a.yml'))


def test_option_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / 'none.yml', tmp_path):
        with pytest.raises(InputError, match=rf'Option file {path} cannot be read: (No such file|it is no file)'):
            read_option_file(str(path))


# ---- --force_yml ----

OPT = {'name': 'a', 'train': {'ema_decay': 0, 'optim_g': {'lr': 1}}}


@pytest.mark.parametrize('entry', [
    'name=b', 'train:ema_decay=0.999', 'train:optim_g:lr=!!float 1e-4', 'train:optim_g:betas=[0.9, 0.99]', 'name=~',
    ' name = b ', "train:milestones=[1, [2, '3']]"])
def test_force_yml_takes_values(entry):
    apply_force_yml([entry], OPT)


@pytest.mark.parametrize('entry', [
    'name', '=b', 'name=a=b', 'no:key=1', 'name:key=1', 'train:optim_g:lr:x=1',
    'x"]=1;import os;os.mkdir("ran");opt["x=1', 'train"]["x=1', "a']=1", 'name;x=1',
    "name=[__import__('os').mkdir('ran')]", 'name=[open("ran", "w")]', 'name=[1, 2', 'name=[x for x in ()]',
    'name=!!floatx', 'name=!!float'])
def test_force_yml_takes_nothing_else(entry):
    with pytest.raises(InputError, match='--force_yml') as caught:
        apply_force_yml([entry], OPT)
    assert '\n' not in str(caught.value)
