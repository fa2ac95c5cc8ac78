"""Commands, links and pictures of README.md, CONTRIBUTING.md and docs/: they parse, they are there."""
import re
import shlex

import pytest
from helpers import ROOT

from hcflow_model import commands

PAGES = [*(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'benchmarks/README.md')),
         *sorted((ROOT / 'docs').glob('*.md'))]
PARSER, MODULES = commands._parser()


def command_lines(page):
    """Lines in bash blocks that begin with hcflow, continued ones as one."""
    blocks = re.findall(r'```bash\n(.*?)```', page.read_text(encoding='utf-8'), re.S)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    return [line.split(' > ')[0] for line in lines if line.startswith('hcflow ')]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_commands_parse(page):
    for line in command_lines(page):
        words = shlex.split(line)[1:]
        args = PARSER.parse_args(words)  # exits where a flag is unknown or missing
        assert args.command == words[0]


def test_commands_are_found():
    found = {line.split()[1] for page in PAGES for line in command_lines(page)}
    assert {'explore', 'upscale'} <= found <= set(MODULES)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r'\]\(([^)#]+)\)', page.read_text(encoding='utf-8')):
        assert target.startswith('https://') or (page.parent / target).exists(), target


@pytest.mark.parametrize(('name', 'end'), [('demo', 'basicsr train -opt options/demo_train_HCFlow_x4.yml'),
                                           ('test', 'pytest')])
def test_marked_commands(name, end):
    """.ci/run takes them out of the README, each one line, and both share an environment."""
    command, = re.findall(rf'<!-- {name} command -->\n```bash\n(.*)\n```\n', PAGES[0].read_text(encoding='utf-8'))
    assert command.startswith('python3 -m venv --upgrade-deps .venv && . .venv/bin/activate && pip install ')
    assert command.endswith(f' && {end}')


@pytest.mark.parametrize('name', sorted(MODULES))
def test_examples_parse(name):
    """The examples that --help shows."""
    for line in MODULES[name].EXAMPLES.strip().splitlines():
        words = shlex.split(line.split(' > ')[0])
        assert words[:2] == ['hcflow', name]
        PARSER.parse_args(words[1:])
