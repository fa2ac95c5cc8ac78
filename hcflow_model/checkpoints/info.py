"""What a checkpoint holds, and whether its weights are sound."""
import json
import math
import os

from hcflow_arch.flow.condition_numbers import MAX_CONDITION, condition_numbers
from hcflow_arch.flow.layers import ActNorm2d
from hcflow_model.utils.files import file_hash

from .named import fetched_hash
from .pretrained import build, find_checkpoint, read_checkpoint

TASKS = {'sr': 'super-resolution (sr)', 'rescaling': 'rescaling'}
MAX_NAMES = 5  # of bad tensors
# arguments of the network
NOT_SIZES = ('task', 'scale', 'temperature', 'quant_bins', 'start', 'memory', 'channels_last', 'compile')


def checkpoint_info(path: str | os.PathLike, param_key: str = 'params_ema') -> dict:
    """Look at a checkpoint, ours or a released one.

    Args:
        path: The file, or an experiment's folder, whose newest checkpoint is taken.
        param_key: Weights that are looked at: 'params_ema' (where there is none: 'params') or 'params'.

    Returns:
        file, size (bytes), sha256, fetched_sha256 (kept when the file was fetched by name; None: it was not), origin
        ('released' or 'basicsr': under keys; 'bare': ours, without), iteration (None: not stored), ema (whether
        averaged weights are inside), weights (key of those looked at, None: bare), task, scale, quant_bins (None in
        rescaling), temperature (default of the network), parameters (number, with the constants of Haar squeezes),
        network (arguments that were stored, or read from shapes), actnorms and actnorms_initialized (numbers),
        not_finite (number of values), not_finite_in (first names), matrices (number of 1x1 matrices), condition
        (largest condition number; None: there are no matrices, inf: one cannot be inverted), condition_of (its layer).

    Raises:
        InputError: The file is missing, broken, or of another network.
    """
    checkpoint = read_checkpoint(find_checkpoint(path), param_key)
    path, net = checkpoint.path, build(checkpoint)
    actnorms = [layer for layer in net.modules() if isinstance(layer, ActNorm2d)]
    bad = {name: int((~value.isfinite()).sum()) for name, value in net.state_dict().items()}
    bad = {name: count for name, count in bad.items() if count}
    conditions = condition_numbers(net)
    worst = max(conditions, key=conditions.get, default=None)
    return {
        'file': str(path), 'size': path.stat().st_size, 'sha256': file_hash(str(path)),
        'fetched_sha256': fetched_hash(path),
        'origin': 'released' if checkpoint.released else 'bare' if checkpoint.key is None else 'basicsr',
        'iteration': checkpoint.iteration, 'ema': checkpoint.has_ema, 'weights': checkpoint.key,
        'task': net.task, 'scale': net.scale, 'quant_bins': net.quant_bins if net.task == 'sr' else None,
        'temperature': net.temperature,
        'parameters': sum(parameter.numel() for parameter in net.parameters()), 'network': dict(net.arguments),
        'actnorms': len(actnorms), 'actnorms_initialized': sum(layer.is_initialized() for layer in actnorms),
        'not_finite': sum(bad.values()), 'not_finite_in': list(bad)[:MAX_NAMES],
        'matrices': len(conditions), 'condition': conditions.get(worst), 'condition_of': worst,
    }


def info_table(info: dict) -> str:
    """The lines of :func:`checkpoint_info` for people, names and values in two columns."""
    origin = {'released': "a release of the method's authors", 'basicsr': 'hcflow, in the format of BasicSR',
              'bare': 'hcflow, a bare state dict'}[info['origin']]
    weights = 'bare' if info['weights'] is None else 'params_ema and params' if info['ema'] else 'params, no EMA'
    unseen = (*NOT_SIZES, *(('num_subnet_grow_ch',) if info['task'] == 'sr' else ()))
    network = {key: value for key, value in info['network'].items() if key not in unseen}
    started = f'{info["actnorms_initialized"]} of {info["actnorms"]} started'
    if info['actnorms_initialized'] < info['actnorms']:
        started += ': a network that has not seen data yet'
    same = {None: '', info['sha256']: ', as it was fetched'}
    rows = {
        'file': info['file'], 'size': f'{info["size"] / 1e6:.1f} MB',
        'sha256': info['sha256'] + same.get(info['fetched_sha256'], ', CHANGED since it was fetched'), 'from': origin,
        'task': f'{TASKS[info["task"]]}, scale {info["scale"]}',
        'iteration': 'not stored' if info['iteration'] is None else str(info['iteration']),
        'weights': weights + (f' (below: {info["weights"]})' if info['ema'] else ''),
        'parameters': f'{info["parameters"]:,}'.replace(',', ' '),
        'network': ', '.join(f'{key} {_text(value)}' for key, value in network.items()) or 'the defaults of its task',
        'quant_bins': str(info['quant_bins']), 'temperature': f'{info["temperature"]:g} where none is given',
        'actnorms': started,
        'not finite': f'{info["not_finite"]} values' + (f', in {", ".join(info["not_finite_in"])}'
                                                        if info['not_finite'] else ''),
        'condition': _condition(info),
    }
    if info['task'] == 'rescaling':
        del rows['quant_bins']
    width = max(map(len, rows))
    return ''.join(f'{name:<{width}}  {value}\n' for name, value in rows.items())


def _condition(info):
    if not info['matrices']:
        return 'no 1x1 matrices'
    largest = info['condition']
    note = '' if largest < MAX_CONDITION else f'; above {MAX_CONDITION:g} decode loses precision'
    text = f'{largest:.4g}' if math.isfinite(largest) else 'inf (no inverse)'
    return f'{text} in {info["condition_of"]}, the largest of {info["matrices"]} matrices (1x1 convolutions){note}'


def _text(value):
    """As in an option file."""
    return json.dumps(value).replace('"', '') if isinstance(value, (dict, list, tuple)) else str(value)
