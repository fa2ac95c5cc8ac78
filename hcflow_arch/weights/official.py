"""Translates the authors' released checkpoints to our state dicts: names only, the numbers do not change."""
import os
import re
from collections.abc import Mapping

import torch

from hcflow_arch.errors import InputError

from .safe_load import load_file

MAX_LEVELS = 4  # scale 16
# names inside parts that occur in several places
_FCN = {
    'conv1.weight': 'conv1.weight', 'conv1.actnorm.bias': 'norm1.bias', 'conv1.actnorm.logs': 'norm1.log_scale',
    'conv2.weight': 'conv2.weight', 'conv2.actnorm.bias': 'norm2.bias', 'conv2.actnorm.logs': 'norm2.log_scale',
    'conv3.weight': 'conv3.weight', 'conv3.bias': 'conv3.bias', 'conv3.logs': 'conv3.log_scale',
}
_STEP = {'actnorm.bias': 'actnorm.bias', 'actnorm.logs': 'actnorm.log_scale', 'permute.weight': 'conv1x1.weight'}
_PRIOR = {'weight': 'weight', 'bias': 'bias', 'logs': 'log_scale'}


def is_official_state_dict(state_dict: Mapping) -> bool:
    """Whether these are the names of a released checkpoint, also with the prefix `module.`."""
    return any(re.match(r'(module\.)?flow\.layers\.\d+\.', str(name)) for name in state_dict)


def load_official_state_dict(path_or_dict: str | os.PathLike | Mapping,
                             initialized: bool = True) -> tuple[dict[str, torch.Tensor], dict]:
    """Translate a released checkpoint.

    Args:
        path_or_dict: A state dict, or a file with one (.pth, loaded with `weights_only=True`, or .safetensors). Names
            may begin with `module.`.
        initialized: Mark its actnorms as initialized, as those of released checkpoints are. False for untrained weights
            with the released names. Default: True.

    Returns:
        State dict for HCFlowNet, and the keyword arguments that rebuild the network. A checkpoint does not contain
        `quant_bins`, so it keeps HCFlowNet's default for the scale.

    Raises:
        InputError: Not a released HCFlow checkpoint.
    """
    state_dict = path_or_dict
    if not isinstance(path_or_dict, Mapping):
        content = load_file(path_or_dict)
        state_dict = content.get('params', content)  # the key that load_file gives those of safetensors
    if not is_official_state_dict(state_dict):
        raise InputError(f'These are not the names of a released HCFlow checkpoint (flow.layers.…): '
                         f'{", ".join(map(str, list(state_dict)[:3]))} …')
    state_dict = {name.removeprefix('module.'): value for name, value in state_dict.items()}
    main_places = _main_places(state_dict)
    ours = {}
    for name, value in state_dict.items():
        new_name = _rename(name, main_places, state_dict)
        ours[new_name] = value
        if re.search(r'\b(actnorm|norm[12])\.log_scale$', new_name):
            ours[new_name.removesuffix('log_scale') + 'initialized'] = torch.tensor(initialized)
    return ours, arguments_of(ours)


def _main_places(state_dict: Mapping) -> dict[int, tuple[int, int]]:
    """Index in flow.layers -> (level, index in our main path). Splits and space-to-depth have no weights, so a
    gap in the indices with weights is the border of two levels."""
    haar = any(name.endswith('haar_weights') for name in state_dict)
    indices = sorted({int(match.group(1)) for match in (re.match(r'flow\.layers\.(\d+)\.', n) for n in state_dict)
                      if match})
    places, level, first = {}, 0, 0  # `first` is the index of the level's squeeze
    previous = None
    for index in indices:
        if previous is not None and index != previous + 1:
            level += 1
            first = index if haar else index - 1
        places[index] = (level, index - first)
        previous = index
    return places


def _rename(name: str, main_places: Mapping[int, tuple[int, int]], state_dict: Mapping) -> str:
    match = re.match(r'flow\.layers\.(\d+)\.(.+)', name)
    if match:
        level, index = main_places[int(match.group(1))]
        prefix, rest = f'levels.{level}.main.{index}.', match.group(2)
        if rest == 'haar_weights':
            return prefix + rest
        fcn = name[:-len(rest)] + 'permute.weight' in state_dict  # steps without a 1x1 convolution have dense blocks
        return prefix + _rename_step(rest, name, fcn)
    match = re.match(r'flow\.level(\d+)_condFlow\.(.+)', name)
    if match:
        prefix, rest = f'levels.{match.group(1)}.', match.group(2)
        step = re.match(r'additional_flow_steps\.(\d+)\.(.+)', rest)
        if step:
            return f'{prefix}prior.{step.group(1)}.{_rename_step(step.group(2), name, True)}'
        if rest.startswith('f.') and rest[2:] in _PRIOR:
            matches = (re.search(r'additional_flow_steps\.(\d+)\.', other) for other in state_dict)
            steps = {int(match.group(1)) for match in matches if match}
            return f'{prefix}prior.{len(steps)}.head.{_PRIOR[rest[2:]]}'
        for old, new in ((r'conv_first', 'conv_first'), (r'trunk_conv1', 'conv_body')):
            if re.fullmatch(rf'{old}\.(weight|bias)', rest):
                return f'{prefix}feature_net.{new}.{rest.rsplit(".", 1)[1]}'
        rrdb = re.fullmatch(r'RRDB_trunk([01])\.(\d+)\.RDB([1-3])\.(conv[1-5]\.(?:weight|bias))', rest)
        if rrdb:
            part, block, dense, conv = rrdb.groups()
            return f'{prefix}feature_net.body{int(part) + 1}.{block}.rdb{dense}.{conv}'
    raise InputError(f"'{name}' is not a name of a released HCFlow checkpoint.")


def _rename_step(rest: str, name: str, fcn: bool) -> str:
    """Names within a flow step whose subnet is an FCN or else a dense block."""
    if rest in _STEP:
        return _STEP[rest]
    subnet = rest.removeprefix('affine.f.') if rest.startswith('affine.f.') else ''
    if fcn and subnet in _FCN:
        return 'coupling.subnet.' + _FCN[subnet]
    if not fcn and re.fullmatch(r'conv[1-5]\.(weight|bias)', subnet):
        return 'coupling.subnet.' + subnet
    raise InputError(f"'{name}' is not a name of a released HCFlow checkpoint.")


def arguments_of(ours: Mapping[str, torch.Tensor]) -> dict:
    """Constructor arguments of HCFlowNet, as far as names and shapes of our state dict determine them.

    Raises:
        InputError: Not a state dict of HCFlowNet, or one with a registered feature net, which shapes do not determine.
    """

    def count(pattern: str) -> int:
        return len({match.group(1) for match in (re.match(pattern, name) for name in ours) if match})

    num_levels = count(r'levels\.(\d+)\.')
    if num_levels > MAX_LEVELS:
        raise InputError(f'The checkpoint is not one of HCFlow: it has {num_levels} levels, a network up to '
                         f'{MAX_LEVELS}.')
    if any(re.match(r'levels\.\d+\.feature_net\.net\.', name) for name in ours):
        raise InputError('The checkpoint has a feature net of another package and does not say which: leave it in '
                         'the folder of its experiment, beside the option file.')
    rescaling = any(name.endswith('haar_weights') for name in ours)
    try:
        arguments = {
            'scale': 2**num_levels,
            'task': 'rescaling' if rescaling else 'sr',
            'num_flow_steps': count(r'levels\.0\.main\.(\d+)\.actnorm\.'),
            'num_cond_steps': count(r'levels\.0\.prior\.(\d+)\.actnorm\.'),
            'hidden_channels': ours['levels.0.prior.0.coupling.subnet.conv2.weight'].shape[0],
        }
        nets = [f'levels.{level}.feature_net.' for level in range(num_levels)]
        residual = [f'{net}body.0.conv1.weight' in ours for net in nets]
        if any(residual):
            arguments['feature_net'] = [
                {'type': 'ResidualFeatureNet', 'num_block': count(rf'{re.escape(net)}body\.(\d+)\.'),
                 'num_feat': ours[f'{net}conv_first.weight'].shape[0]} if is_residual else None
                for net, is_residual in zip(nets, residual, strict=True)]
        if not all(residual):
            net = nets[residual.index(False)]  # RRDBs are alike in all levels
            arguments.update(
                num_feat=ours[f'{net}conv_first.weight'].shape[0],
                num_block=tuple(count(rf'{re.escape(net)}body{part}\.(\d+)\.') for part in (1, 2)),
                num_grow_ch=ours[f'{net}body1.0.rdb1.conv1.weight'].shape[0])
        if rescaling:
            arguments['num_subnet_grow_ch'] = ours['levels.0.main.1.coupling.subnet.conv1.weight'].shape[0]
    except (KeyError, IndexError) as error:  # IndexError: a tensor of too few dimensions
        what = f'{error} is missing' if isinstance(error, KeyError) else 'its tensors have other shapes'
        raise InputError(f'The checkpoint is not one of HCFlow, or incomplete: {what}.') from error
    return arguments
