import pytest
import yaml
from bad_inputs import LAUGHS

from hcflow_arch import InputError
from hcflow_model.options.read import MAX_DEPTH, check_plain, read_option_file, safe_ordered_yaml


def load(text):
    return yaml.load(text, Loader=safe_ordered_yaml()[0])


def test_aliases_are_blocks_of_their_own():
    """BasicSR pops `type` out of one optimizer, and the other must still have it."""
    opt = load('a: &x {type: Adam, betas: [1, 2]}\nb: *x\n')
    opt['a'].pop('type')
    opt['a']['betas'].append(3)
    assert opt['b'] == {'type': 'Adam', 'betas': [1, 2]}


def test_aliases_do_not_grow_without_bound():
    with pytest.raises(yaml.YAMLError, match='expand to more than'):
        load(LAUGHS)
    chain = 'a0: &a0 [x]\n' + ''.join(f'a{i}: &a{i} [*a{i - 1}]\n' for i in range(1, 3000))
    with pytest.raises(yaml.YAMLError, match='nest deeper than'):
        load(chain)
    for text in ('a: &a [*a]', 'a: &a {b: *a}', '&a {b: [*a]}'):
        with pytest.raises(yaml.YAMLError, match='lies within what it names'):
            load(text)


@pytest.mark.parametrize('text', ['{a: ' * 900 + '1' + '}' * 900, 'a: ' + '[' * 900 + ']' * 900,
                                  'a: ' + '[' * 100_000], ids=['blocks', 'lists', 'brackets'])
def test_depth(text):
    with pytest.raises(yaml.YAMLError, match='nest'):
        load(text)


def test_what_is_just_allowed():
    text = 'a: ' + '[' * (MAX_DEPTH - 1) + ']' * (MAX_DEPTH - 1)
    assert load(text) and load('a: ' + str(list(range(5_000))))


@pytest.mark.parametrize('text', ['a: 1\na: 2', 'a: {b: 1, b: 2}', '1: a', 'on: a', '~: a', '[1]: a', '{a: 1}: b'])
def test_keys(text):
    with pytest.raises(yaml.YAMLError, match='stands twice|is no text'):
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
