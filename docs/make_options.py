"""Write docs/options.md, every key of an option file in tables made from the code: `python docs/make_options.py`.

Keys, types, limits and meanings come from hcflow_model/options/schema.py, and from the signatures and docstrings of
networks, losses, metrics and schedulers. A key without a meaning and a meaning without a key are errors.
"""
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hcflow_model  # noqa: F401  isort: skip  (first: it makes `import basicsr` work)
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY

from hcflow_model.data.degrade import DEGRADATION_REGISTRY
from hcflow_model.options import schema
from hcflow_model.options.check_hcflow import SCHEDULERS
from hcflow_model.options.rules import TYPE_NAMES

OUTPUT = Path(__file__).parent / 'options.md'
LOSSES = ('NLLLoss', 'LatentLoss', 'L1Loss', 'MSELoss', 'CharbonnierLoss', 'PerceptualLoss', 'RandomPerceptualLoss',
          'GANLoss', 'RelativisticGANLoss')
METRICS = ('calculate_psnr', 'calculate_ssim', 'calculate_niqe', 'calculate_lpips', 'calculate_lr_psnr',
           'calculate_diversity')
# arguments that do not come from the file
GIVEN = ('self', 'params', 'optimizer', 'img', 'img2', 'lq', 'gt', 'samples', 'scale', 'net', 'kwargs')
TOP = 'at the top'
ANY = re.compile(r'(val|test)(_\d+)?$|train$')


class Row(NamedTuple):
    """One key: what it takes and what it means."""

    key: str
    values: str
    meaning: str


class Table(NamedTuple):
    """The keys of one block, or of one type of block."""

    title: str  # the type, '' where there is but one
    place: str  # blocks that have these keys, separated by commas
    rows: list[Row]


def tables() -> dict[str, Table]:
    """Every table, by the name of its block or type."""
    found = {name: Table('', place, _schema_rows(options)) for name, place, options in (
        ('general', TOP, schema.GENERAL),
        ('datasets', 'datasets.train, datasets.val, datasets.val_2, datasets.test_1, …', schema.DATASET),
        ('path', 'path', schema.PATH), ('train', 'train', schema.TRAIN), ('val', 'val', schema.VAL),
        ('logger', 'logger', schema.LOGGER), ('wandb', 'logger.wandb', schema.WANDB),
        ('dist_params', 'dist_params', schema.DIST_PARAMS))}
    compression = {key: option for key, option in schema.COMPRESSION.items() if key != 'type'}
    found['jpeg'] = Table('jpeg', 'train.compression', _schema_rows(compression))
    found['HCFlowRealModel'] = Table('HCFlowRealModel', TOP, _schema_rows(schema.REAL_ESRGAN))
    found['RealESRGANDataset'] = Table('RealESRGANDataset', 'datasets.train', _schema_rows(schema.REAL_ESRGAN_DATASET))
    network = ARCH_REGISTRY.get('HCFlowNet')
    found['HCFlowNet'] = _component('HCFlowNet', network, 'network_g', given=set(GIVEN) - {'scale'})
    for name in ('HCFlowVGGDiscriminator', 'UNetDiscriminatorSN'):
        found[name] = _component(name, ARCH_REGISTRY.get(name), 'network_d')
    for name in LOSSES:
        place = {'NLLLoss': 'train.nll_opt', 'LatentLoss': 'train.latent_opt'}.get(name) or (
            'train.gan_opt' if 'GAN' in name else 'train.perceptual_opt' if 'Perceptual' in name else
            'train.pixel_opt, train.lq_opt')
        found[name] = _component(name, LOSS_REGISTRY.get(name), place)
    for name in METRICS:
        found[name] = _component(name, METRIC_REGISTRY.get(name), 'val.metrics.NAME',
                                 _schema_rows({'better': schema.METRIC['better']}))
    # PyTorch's versions differ in the others
    others = set(inspect.signature(torch.optim.Adam).parameters) - {'lr', 'betas', 'eps', 'weight_decay', 'amsgrad'}
    found['Adam'] = _component('Adam', torch.optim.Adam, 'train.optim_g, train.optim_d',
                               _schema_rows({'lr_mul': schema.LR_MUL}), given=others)
    for name in ('bicubic', 'blur_noise_jpeg'):
        found[name] = _component(name, DEGRADATION_REGISTRY.get(name), 'train.degradation, val.degradation')
    for name in ('MultiStepLR', 'CosineAnnealingRestartLR'):
        found[name] = _component(name, SCHEDULERS[name], 'train.scheduler')
    return found


def _schema_rows(options):
    return [Row(key, _values_of(option), option.meaning) for key, option in options.items()]


def _values_of(option):
    types = option.types if isinstance(option.types, tuple) else (option.types,)
    names = 'a number' if set(types) == {int, float} else ' or '.join(dict.fromkeys(TYPE_NAMES[kind] for kind in types))
    limits = [f' ≥ {option.minimum}'] if option.minimum is not None else []
    limits += [f' ≤ {option.maximum}'] if option.maximum is not None else []
    return ', '.join(option.choices) or names + ','.join(limits)


def _component(name, function, place, more=(), given=GIVEN):
    """The arguments of what a `type` names, from its signature; meanings from its docstring or the schema."""
    texts = schema.COMPONENTS.get(name)
    known = {} if texts is not None else dict(_arguments_of_docstring(function))
    parameters = {key: parameter for key, parameter in inspect.signature(function).parameters.items()
                  if key not in given}
    meanings = texts if texts is not None else {key: meaning for key, (_, meaning) in known.items()}
    shared = texts is schema.PLAIN_LOSS  # one text for several types
    strange = [key for key in parameters if key not in meanings]
    strange += [key for key in meanings if key not in parameters and key not in GIVEN and not shared]
    if strange:
        raise KeyError(f'{name}: {strange} stand in the signature without a meaning, or the reverse')
    rows = []
    for key, parameter in parameters.items():
        meaning, _, default = meanings[key].partition(' Default: ')
        kind = known[key][0] if key in known else _kind_of(parameter.default)
        default = f'default {_in_yaml(default)}' if default else _default(parameter)
        rows.append(Row(key, ', '.join(filter(None, (kind, default))), meaning))
    return Table(name, place, [*rows, *more])


def _kind_of(default):
    kind = type(default)
    return 'a number' if kind in (int, float) else TYPE_NAMES.get(kind, '')


def _default(parameter):
    default = parameter.default
    if default is inspect.Parameter.empty:
        return 'must be given'
    return f'default {_in_yaml(str(list(default) if isinstance(default, tuple) else default))}'


def _in_yaml(text):
    for python, yaml in (('None', '~'), ('True', 'true'), ('False', 'false')):
        text = re.sub(rf'^{python}\b', yaml, text)
    return text.translate({ord('('): '[', ord(')'): ']'}) if text.startswith('(') else text


def _arguments_of_docstring(function) -> Iterator[tuple[str, tuple[str, str]]]:
    """(name, (type, meaning)) of each argument in the Args of a Google docstring."""
    lines = inspect.getdoc(function).split('\n')
    lines = lines[lines.index('Args:') + 1:]
    name = kind = meaning = None
    for line in [*lines, 'end']:
        start = re.match(r'    (\w+) \((.+?)\): (.*)', line)
        if start or (line and not line.startswith('    ')):
            if name:
                yield name, (_plain(kind), meaning)
            if not start:
                return
            name, kind, meaning = start.groups()
        elif line.strip():
            meaning += f' {line.strip()}'


def _plain(kind):
    words = {'int': 'a whole number', 'float': 'a number', 'str': 'text', 'dict': 'a block', 'bool': 'true or false',
             'Sequence[int]': 'a list', 'Sequence[float]': 'a list',
             'Sequence[str]': 'a list', 'str | None': 'text or ~', 'dict[str, float]': 'a block',
             'dict or list': 'a block or a list'}
    return words.get(kind, kind)


def unexplained(opt: dict) -> list[str]:
    """Keys of an option file that no table has, as 'train.optim_g.lr'."""
    known = {name: {row.key for row in table.rows} | ({'type'} if table.title else set())
             for name, table in tables().items()}
    missing = []

    def check(place, block, name, kind=None):
        if name not in known:
            missing.append(f'{place}.type: {name}')
        else:
            missing.extend(f'{place}.{key}' for key in block if key not in known[name] | known.get(kind, set()))

    check('', opt, 'general', opt['model_type'])
    for phase, dataset in opt['datasets'].items():
        if not ANY.match(phase):
            missing.append(f'datasets.{phase}')
        check(f'datasets.{phase}', dataset, 'datasets', dataset['type'])
    for name in ('path', 'train', 'val', 'logger', 'dist_params'):
        check(name, opt.get(name) or {}, name)
    components = {name: opt.get(name) for name in ('network_g', 'network_d')}
    components.update({f'train.{key}': value for key, value in opt.get('train', {}).items() if isinstance(value, dict)})
    components['val.degradation'] = (opt.get('val') or {}).get('degradation')
    components.update({f'val.metrics.{key}': value for key, value in ((opt.get('val') or {}).get('metrics') or
                                                                      {}).items()})
    for place, block in components.items():
        if block is not None:
            check(place, block, block['type'])
    check('logger.wandb', (opt.get('logger') or {}).get('wandb') or {}, 'wandb')
    return missing


def document() -> str:
    """The text of options.md."""
    found = tables()
    lines = ['# Every option', '',
             'Made by `python docs/make_options.py` from the code, and held against it by a test.', '',
             'An option file is a block of blocks in YAML. `~` is the same as leaving a key out. Write small numbers '
             'as `!!float 1e-4`: plain `1e-4` is text in YAML. Wherever a block has a `type`, any registered name will '
             'do, also one from another package; those that come with this package and the usual ones of BasicSR are '
             'below.', '', '| key | values | meaning |', '|---|---|---|']
    merged = {}  # types with the same arguments in the same place are told once
    for table in found.values():
        merged.setdefault((table.place, *table.rows), []).append(table.title)
    for (place, *rows), titles in merged.items():
        lines.append(f'| **{place}** | {_types(titles)} | |')
        prefix = '' if place == TOP else place.split(', ')[0] + '.'
        lines += [f'| `{prefix}{row.key}` | {_cell(row.values)} | {_cell(row.meaning)} |' for row in rows]
    return '\n'.join([*lines, ''])


def _types(titles):
    return '' if titles == [''] else f'**type: {" or ".join(titles)}**'


def _cell(text):
    return text.replace('|', '\\|').rstrip('.') or ' '


if __name__ == '__main__':
    OUTPUT.write_text(document(), encoding='utf-8')
