"""Commands and pictures in README.md and docs/: they parse, they are there."""
import re
import shlex

import pytest
from helpers import ROOT

from hcflow_model import commands

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
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
def test_pictures_are_there(page):
    for name in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', page.read_text(encoding='utf-8')):
        assert (page.parent / name).is_file()


@pytest.mark.parametrize('name', sorted(MODULES))
def test_examples_parse(name):
    """The examples that --help shows."""
    for line in MODULES[name].EXAMPLES.strip().splitlines():
        words = shlex.split(line.split(' > ')[0])
        assert words[:2] == ['hcflow', name]
        PARSER.parse_args(words[1:])
