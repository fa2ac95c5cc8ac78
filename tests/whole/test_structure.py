"""The structure that CONTRIBUTING.md describes: imports run down only, and a wheel holds every package."""
import ast
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers import ROOT

from hcflow_model.page.shown import bundled_pictures

# Rooms from the ground up; those of one row do not import each other.
ARCH = [{'errors', 'basicsr_import'}, {'convs', 'weights'}, {'checks', 'flow'}, {'features'}, {'hcflow_arch'}]
ARCH_APART = {'discriminator_arch'}  # knows errors alone
MODEL = [{'utils', 'metrics'}, {'images', 'losses'}, {'data'}, {'options'}, {'checkpoints'}, {'inference', 'pipeline'},
         {'validation'}, {'models', 'exploration', 'page'}, {'commands', 'cli'}]
MAX_LINES = 350


def files(package):
    return sorted((ROOT / package).rglob('*.py'))


def room_of(module):
    """The room of 'hcflow_model.images.files': 'images'."""
    return module.split('.')[1]


def imports_of(path):
    """Full names of what a file imports from the two packages: module, or module and name."""
    package = '.'.join(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split('.')[:len(package.split('.')) - node.level + 1] if node.level else []
            module = '.'.join([*parents, *([node.module] if node.module else [])])
            names = [f'{module}.{alias.name}' for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split('.')[0] in ('hcflow_arch', 'hcflow_model'))


def floor_of(floors, room):
    return next((number for number, rooms in enumerate(floors) if room in rooms), None)


@pytest.mark.parametrize(('package', 'floors'), [('hcflow_arch', ARCH), ('hcflow_model', MODEL)])
def test_imports_run_down(package, floors):
    upwards = []
    for path in files(package):
        parts = path.relative_to(ROOT / package).with_suffix('').parts
        floor = floor_of(floors, parts[0])
        if floor is None:
            continue
        for name in imports_of(path):
            if name.split('.')[0] != package or len(name.split('.')) < 2 or room_of(name) == parts[0]:
                continue
            other = floor_of(floors, room_of(name))
            if other is not None and other >= floor:
                upwards.append(f'{path.relative_to(ROOT)} imports {name}')
    assert not upwards


def test_every_room_has_its_floor():
    for package, floors, others in (('hcflow_arch', ARCH, ARCH_APART), ('hcflow_model', MODEL, {'spandrel_arch'})):
        rooms = {path.relative_to(ROOT / package).with_suffix('').parts[0] for path in files(package)}
        assert rooms - {'__init__'} == set().union(*floors) | others


def test_the_network_knows_nothing_of_training():
    for path in files('hcflow_arch'):
        assert not [name for name in imports_of(path) if name.startswith('hcflow_model')], path


def assignments(path):
    """Lines of a file that assign into a module or class of BasicSR, or into sys.argv."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    theirs = {'sys.argv'}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            theirs |= {alias.asname or alias.name for alias in node.names if alias.name.split('.')[0] == 'basicsr'}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'basicsr':
            theirs |= {alias.asname or alias.name for alias in node.names}
    theirs |= {'basicsr'} if any(name.startswith('basicsr.') for name in theirs) else set()

    def is_theirs(node):
        text = ast.unparse(node)
        return any(text == name or text.startswith((f'{name}.', f'{name}[')) for name in theirs)

    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            found = is_theirs(node.value) or ast.unparse(node) == 'sys.argv'
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ('setattr', 'delattr'):
            found = is_theirs(node.args[0]) or [ast.unparse(arg) for arg in node.args[:2]] == ['sys', "'argv'"]
        else:
            found = isinstance(node, ast.Call) and ast.unparse(node.func) == 'replaced'
        if found:
            yield f'{path}:{node.lineno}: {ast.unparse(node)}'


def test_only_the_pipeline_changes_basicsr():
    found = [line for package in ('hcflow_arch', 'hcflow_model') for path in files(package)
             if path.relative_to(ROOT).parts[:2] != ('hcflow_model', 'pipeline') for line in assignments(path)]
    assert not found


@pytest.mark.parametrize(('text', 'number'), [
    ('import basicsr.train\nbasicsr.train.build_model = 1\nbasicsr.data.x.y = 2', 2),
    ('from basicsr.utils import FileClient as F\nF._backends["lmdb"] = 1\ndel F._backends', 2),
    ('from basicsr import data\ndata.build, x = 1, 2\nsetattr(data, "a", 1)', 2),
    ('import sys\nsys.argv = []\nsys.argv[1:] = []\nsys.argv += [1]\nsetattr(sys, "argv", [])', 4),
    ('replaced([(a, "b", 1)])', 1),
    ('import basicsr.train\nmine.train = basicsr.train.build_model\nbasicsr = basicsr_train = 1', 0)])
def test_changes_are_seen(text, number, tmp_path):
    (tmp_path / 'a.py').write_text(text)
    assert len(list(assignments(tmp_path / 'a.py'))) == number


ATTRIBUTES = """
import importlib, inspect, pkgutil, runpy, sys
if sys.argv[1] == 'with':
    import hcflow_model
else:
    runpy.run_path(sys.argv[2])  # without it, BasicSR cannot be imported beside a torchvision of today
import basicsr.test, basicsr.train
for info in pkgutil.walk_packages(basicsr.__path__, 'basicsr.'):
    if not info.name.startswith(('basicsr.ops', 'basicsr.metrics.test')):
        importlib.import_module(info.name)
def show(owner, name):
    for key, value in sorted(vars(owner).items()):
        if inspect.isclass(value) and value.__module__ == name:
            show(value, value.__qualname__)
        if inspect.isroutine(value) or inspect.isclass(value) or inspect.isclass(owner):
            where = getattr(value, '__module__', None), getattr(value, '__qualname__', None)
            text = where if where != (None, None) else repr(value)
            print(owner.__name__, key, text)
for name in sorted(sys.modules):
    if name.split('.')[0] == 'basicsr':
        show(sys.modules[name], name)
"""


@pytest.mark.slow
def test_importing_the_package_leaves_basicsr_as_it_is():
    """Functions, classes and what classes hold: those of somebody else's program must be BasicSR's own."""
    repair = str(ROOT / 'hcflow_arch' / 'basicsr_import.py')
    without, with_it = (subprocess.run([sys.executable, '-c', ATTRIBUTES, which, repair], capture_output=True,
                                       text=True, check=True, env={**os.environ, 'PYTHONHASHSEED': '0'}
                                       ).stdout.splitlines() for which in ('without', 'with'))
    assert without == with_it
    assert any('FileClient _backends' in line for line in without) and len(without) > 1000


def test_direction_is_seen():
    """The reading of imports, on a file known to import from below in each way of writing."""
    names = set(imports_of(ROOT / 'hcflow_model' / 'inference' / 'draw.py'))
    assert {'hcflow_arch.HCFlowNet', 'hcflow_arch.checks.fit_to_scale'} <= names
    assert any(name.startswith('hcflow_model.inference.') for name in names)


def test_files_hold_one_idea():
    long = {str(path.relative_to(ROOT)): lines for package in ('hcflow_arch', 'hcflow_model') for path in files(package)
            if (lines := len(path.read_text(encoding='utf-8').splitlines())) > MAX_LINES}
    assert not long


@pytest.mark.slow
def test_a_wheel_holds_every_file(tmp_path):
    """What `pip install .` would install, built in a copy, so that nothing is left in the checkout."""
    for name in ('hcflow_arch', 'hcflow_model', 'options', 'tests/data/val_gt'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'README.md', 'LICENSE', 'pyproject.toml'):
        shutil.copy(ROOT / name, tmp_path)
    code = 'from setuptools import build_meta; print(build_meta.build_wheel("wheels"))'
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / 'wheels').glob('*.whl')
    held = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    recipes = {f'hcflow_model/recipes/{path.name}' for path in (ROOT / 'options').glob('*.yml')}
    pictures = {f'hcflow_model/pictures/{path.name}' for path in bundled_pictures()}
    weights = {str(path.relative_to(ROOT)) for path in (ROOT / 'hcflow_model' / 'weights_data').glob('*')}
    assert len(recipes) > 10 and len(pictures) == 3
    code = {str(path.relative_to(ROOT)) for package in ('hcflow_arch', 'hcflow_model') for path in files(package)}
    assert held == recipes | pictures | weights | code
