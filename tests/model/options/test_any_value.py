"""Any value in any option is accepted or one line: never a traceback of ours."""
import copy

import pytest
from helpers import command_line, demo_options, gan_opts

from hcflow_arch import InputError
from hcflow_model.options.check import check_checkpoints_exist, check_options, check_structure
from hcflow_model.options.read import check_plain
from hcflow_model.pipeline.parsing import complete_options

VALUES = [None, True, -1, 0, 0.5, 1e300, 2 ** 53, '', 'x', '../x', [], [None], ['x'], [[1]], {}, {'type': None},
          {'type': []}, {'type': 'x'}, {'a': {'b': []}}]


def places(block, above=()):
    for key, value in block.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def everything(command):
    opt = demo_options({
        'network_d': {'type': 'HCFlowVGGDiscriminator', 'input_size': 64}, 'val.suffix': None, 'plugins': [],
        **{f'train.{name}': block for name, block in gan_opts().items()}, 'datasets.train.filename_tmpl': '{}',
        'datasets.train.meta_info_file': None, 'datasets.val.mean': [0, 0, 0], 'path.resume_state': None,
        'path.ignore_resume_networks': None, 'logger.wandb': {'project': None}})
    if command == 'test':
        for block, key in ((opt, 'train'), (opt, 'logger'), (opt, 'network_d'), (opt['datasets'], 'train')):
            del block[key]
    return opt


@pytest.mark.slow
@pytest.mark.parametrize('model', ['HCFlowModel', 'SRModel'])
@pytest.mark.parametrize('command', ['train', 'test'])
def test_any_value_in_any_option(command, model, tmp_path):
    base = everything(command)
    refused = 0
    for place in places(base):
        for value in VALUES:
            opt = copy.deepcopy({**base, 'model_type': model})
            block = opt
            for key in place[:-1]:
                block = block[key]
            block[place[-1]] = copy.deepcopy(value)
            try:
                check_plain(opt)
                check_structure(opt, command == 'train')
                complete_options(opt, command_line(command), str(tmp_path))
                check_options(opt)
                check_checkpoints_exist(opt)
            except InputError as error:
                assert '\n' not in str(error)
                refused += 1
    assert refused > 300
