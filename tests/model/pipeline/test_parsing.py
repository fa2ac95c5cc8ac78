"""Options are completed as BasicSR's parse_options does it."""
import json
import random
import sys

import basicsr.utils.options
import pytest
import torch
from helpers import ROOT, command_line

from hcflow_model.options.read import read_option_file
from hcflow_model.pipeline.parsing import complete_options, options_parser

FILES = sorted((ROOT / 'options').glob('*.yml'))
OURS = ('root_path', 'option_file', 'force_yml')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize('flags', [{}, {'debug': True, 'auto_resume': True, 'force_yml': ['name=debugged', 'scale=2']}],
                         ids=['plain', 'flags'])
def test_same_as_basicsrs(path, flags, monkeypatch):
    command = 'train' if 'train_' in path.stem else 'test'
    args = command_line(command, opt=str(path), **flags)
    opt = read_option_file(args.opt, args.force_yml or [])
    complete_options(opt, args, '/root')
    ours, _ = options_parser(opt, args)('/root', command == 'train')
    drawn = torch.rand(1), random.random()

    argv = ['basicsr', '-opt', str(path), *[f'--{flag}' for flag in ('debug', 'auto_resume') if flags.get(flag)]]
    monkeypatch.setattr(sys, 'argv', argv + (['--force_yml', *flags['force_yml']] if flags else []))
    theirs, _ = basicsr.utils.options.parse_options('/root', command == 'train')
    ours = {key: value for key, value in ours.items() if key not in OURS}
    assert json.dumps(ours, sort_keys=True) == json.dumps(theirs, sort_keys=True)
    assert (torch.rand(1), random.random()) == drawn


def test_seed_that_is_drawn(monkeypatch):
    opt = read_option_file(str(FILES[0]), ['manual_seed=~', 'num_gpu=auto'])
    complete_options(opt, command_line(), '/root')
    random.seed(5)
    seed = options_parser(opt, command_line())('/root')[0]['manual_seed']
    random.seed(5)
    assert seed == random.randint(1, 10000) and opt['num_gpu'] == torch.cuda.device_count()
