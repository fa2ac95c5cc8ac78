from collections import OrderedDict

import pytest
import yaml
from helpers import demo_options

from hcflow_arch import InputError
from hcflow_model.options.read import MAX_ALIASES, MAX_DEPTH, check_plain, parse_option_text, read_option_file

LAUGHS = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 10))


def load(text, force_yml=()):
    return parse_option_text(text, 'a.yml', force_yml)


def test_aliases_are_blocks_of_their_own():
    """BasicSR pops `type` out of one optimizer, and the other must still have it."""
    opt = load('a: &x {type: Adam, betas: [1, 2]}\nb: *x\n')
    opt['a'].pop('type')
    opt['a']['betas'].append(3)
    assert opt['b'] == {'type': 'Adam', 'betas': [1, 2]}


@pytest.mark.parametrize('text', [
    LAUGHS, 'a0: &a0 [x]\n' + ''.join(f'a{i}: &a{i} [*a{i - 1}]\n' for i in range(1, 3000)), 'a: &a [*a]',
    'a: &a {b: *a}', '&a {b: [*a]}'], ids=['laughs', 'chain', 'list', 'block', 'all'])
def test_aliases_do_not_grow_without_bound(text):
    with pytest.raises(InputError, match=r'an alias \(\*name\) lies in a block that has an anchor'):
        load(text)


def test_number_of_aliases():
    assert load(f'a: &a [x]\nb: [{"*a, " * MAX_ALIASES}]')['b'] == [['x']] * MAX_ALIASES
    with pytest.raises(InputError, match=f'more than {MAX_ALIASES} aliases'):
        load(f'a: &a [x]\nb: [{"*a, " * (MAX_ALIASES + 1)}]')


@pytest.mark.parametrize('number', ['9' * 100_000, '0x' + 'f' * 100_000, '0b' + '1' * 100_000, '1' + ':1' * 50_000,
                                    '1' + ':1' * 50_000 + '.5', '-0' + '7' * 100_000, '1.' + '0' * 100_000,
                                    '!!int ' + '9' * 100_000, '!!float ' + '9' * 100_000])
def test_numbers_without_end(number):
    with pytest.raises(InputError, match='a number of more than 100 digits') as caught:
        load(f'a: {number}')
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize('text', ['{a: ' * 900 + '1' + '}' * 900, 'a: ' + '[' * 900 + ']' * 900,
                                  'a: ' + '[' * 100_000], ids=['blocks', 'lists', 'brackets'])
def test_depth(text):
    with pytest.raises(InputError, match='nest'):
        load(text)


def test_what_is_just_allowed():
    text = 'a: ' + '[' * (MAX_DEPTH - 1) + ']' * (MAX_DEPTH - 1)
    assert load(text) and load('a: ' + str(list(range(5_000))))


@pytest.mark.parametrize('text', ['a: 1\na: 2', 'a: {b: 1, b: 2}', '1: a', 'on: a', '~: a', '[1]: a', '{a: 1}: b'])
def test_keys(text):
    with pytest.raises(InputError, match='stands twice|is no text'):
        load(text)


@pytest.mark.parametrize(('value', 'message'), [
    (float('nan'), "'a.b' is nan; it must be a finite number"), (float('-inf'), "'a.b' is -inf"),
    (b'x', "'a.b' is b'x'"), ({1}, 'reads it as a set'), (10 ** 30, "'a.b' is 10+; whole numbers"),
    ([1, {'c': float('inf')}], r"'a.b.c' is inf")])
def test_values_that_no_option_has(value, message):
    check_plain({'a': {'b': [1, 2.5, None, True, 'x', {}]}})
    with pytest.raises(InputError, match=message):
        check_plain({'a': {'b': value}})


@pytest.mark.parametrize('path', ['/dev/zero', '.', 'none', 'a\0b', 'x' * 5000])
def test_paths_that_are_no_files(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='cannot be read'):
        read_option_file(path)


def test_numbers_and_order():
    opt = load('z: !!float 1e-4\nm: {y: 1, b: ~, a: true}\nf: !!float 3\n')
    assert isinstance(opt, OrderedDict) and isinstance(opt['m'], OrderedDict)
    assert list(opt) == ['z', 'm', 'f'] and list(opt['m']) == ['y', 'b', 'a']
    assert opt['z'] == 1e-4 and opt['m'] == {'y': 1, 'b': None, 'a': True} and isinstance(opt['f'], float)


def test_reads_what_basicsrs_own_loader_reads():
    text = yaml.safe_dump(demo_options(), sort_keys=False)
    assert load(text) == yaml.load(text, Loader=yaml.Loader)


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'holds no options'), (b'- a\n- b\n', 'holds no options'), (b'just text', 'holds no options'),
    (b'a: [1, 2', 'is not valid YAML'), (b'a: b: c', 'is not valid YAML'), (b'\ta: 1', 'is not valid YAML'),
    (b'\x89PNG\r\n\x1a\n\xff\xfe', 'cannot be read: it is not text'), (b'a: "\x00"', 'is not valid YAML'),
    (b'a: !!python/name:os.mkdir', 'is not valid YAML: .*python'),
    (b'a: 2021-13-01', r'is not valid YAML: a value does not fit its type \(month'),
    (b'a: !!float x', r'is not valid YAML: a value does not fit its type \(could not convert'),
    (b'a: 1\n---\nb: 2\n', 'is not valid YAML: expected a single document')])
def test_option_files_that_are_none(content, message, tmp_path):
    (tmp_path / 'a.yml').write_bytes(content)
    with pytest.raises(InputError, match=rf'Option file .*a\.yml {message}'):
        read_option_file(str(tmp_path / 'a.yml'))


def test_option_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / 'none.yml', tmp_path):
        with pytest.raises(InputError, match=rf'Option file {path} cannot be read: (No such file|it is no file)'):
            read_option_file(str(path))


# ---- --force_yml ----

OPT = 'name: a\ntrain: {ema_decay: 0, optim_g: {lr: 1}}\n'


@pytest.mark.parametrize(('entry', 'value'), [
    ('name=b', 'b'), ('train:ema_decay=0.999', 0.999), ('train:optim_g:lr=!!float 1e-4', 1e-4), (' name = b ', 'b'),
    ('train:optim_g:betas=[0.9, 0.99]', [0.9, 0.99]), ('name=~', None), ('name=None', None), ('name=TRUE', True),
    ("train:milestones=[1, [2, '3']]", [1, [2, '3']]), ('train:warmup_iter=-1', -1), ('train:x=-0.5', -0.5)])
def test_force_yml(entry, value):
    opt = load(OPT, [entry, 'train:last=1'])
    for key in entry.partition('=')[0].strip().split(':'):
        opt = opt[key]
    assert opt == value and type(opt) is type(value)


@pytest.mark.parametrize('entry', [
    'name', '=b', 'name=a=b', 'no:key=1', 'name:key=1', 'train:optim_g:lr:x=1',
    'x"]=1;import os;os.mkdir("ran");opt["x=1', 'train"]["x=1', "a']=1", 'name;x=1',
    "name=[__import__('os').mkdir('ran')]", 'name=[open("ran", "w")]', 'name=[1, 2', 'name=[x for x in ()]',
    'name=' + '[' * 2000,
    'name=!!floatx', 'name=!!float', f'name={"9" * 100_000}', f'name=-{"9" * 100_000}'])
def test_force_yml_takes_nothing_else(entry):
    with pytest.raises(InputError, match='--force_yml') as caught:
        load(OPT, [entry])
    assert '\n' not in str(caught.value)
