"""What has nothing to compute imports no PyTorch, and what computes images neither BasicSR nor torchvision."""
import subprocess
import sys

import pytest
import torch
from helpers import DATA, perturb, small_net

from hcflow_model import commands

HCFLOW = 'from hcflow_model.commands import main'  # as the installed scripts have it
BASICSR = 'from hcflow_model.cli import main'
HEAVY = {'torch', 'numpy', 'cv2', 'basicsr', 'torchvision'}
FOR_IMAGES = {'basicsr', 'torchvision', 'scipy', 'lpips'}
COMMANDS = list(commands._parser()[1])


def imported(tmp_path, script, *argv):
    """Exit code, output, and which of the packages above a command imports, in a process of its own."""
    code = (f'import sys\n{script}\ntry: code = main({list(argv)!r})\nexcept SystemExit as end: code = end.code\n'
            f'print("imported:", *({HEAVY | FOR_IMAGES!r} & set(sys.modules)))\nsys.exit(code)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    output, _, names = done.stdout.rpartition('imported:')
    assert 'Traceback' not in done.stderr
    return done.returncode, output + done.stderr, set(names.split())


@pytest.mark.parametrize(('script', 'argv', 'code', 'text'), [
    (HCFLOW, ['--help'], 0, 'COMMAND'),
    (HCFLOW, [], 0, 'COMMAND'),
    (HCFLOW, ['--version'], 0, 'hcflow 0'),
    *[(HCFLOW, [name, '--help'], 0, f'hcflow {name}') for name in COMMANDS],
    (HCFLOW, ['upscale', '-i', 'x'], 2, '--output'),
    (HCFLOW, ['enlarge'], 2, 'invalid choice'),
    (BASICSR, ['--help'], 0, 'basicsr'),
    (BASICSR, ['--version'], 0, 'basicsr 1'),
    (BASICSR, [], 0, 'basicsr'),
    (BASICSR, ['train', '--help'], 0, '--auto_resume'),
    (BASICSR, ['train'], 2, '-opt'),
    (BASICSR, ['train', '-opt', 'missing.yml'], 1, 'missing.yml'),
], ids=lambda value: ' '.join(value) if isinstance(value, list) else None)
def test_answers_at_once(tmp_path, script, argv, code, text):
    got, output, names = imported(tmp_path, script, *argv)
    assert got == code and text in output and not names & HEAVY


def test_wrong_inputs_wait_for_no_torch(tmp_path):
    for argv in (['upscale', '-i', 'missing.png', '-o', 'out', '-w', 'w.pth'], ['prepare', '-i', 'a', '-o', 'a/b']):
        code, output, names = imported(tmp_path, HCFLOW, *argv)
        assert code == 1 and 'hcflow: error:' in output and 'torch' not in names


@pytest.mark.slow
def test_images_need_neither_basicsr_nor_torchvision(tmp_path):
    for task in ('sr', 'rescaling'):
        torch.save({'params': perturb(small_net(4, task), 0.02).state_dict()}, tmp_path / f'{task}.pth')
    lq, hr = str(DATA / 'val_lq_x4' / 'cat.png'), str(DATA / 'val_gt' / 'cat.png')
    for argv in (['upscale', '-i', lq, '-o', 'out', '-w', 'sr.pth'], ['info', 'sr.pth'],
                 ['downscale', '-i', hr, '-o', 'small', '-w', 'rescaling.pth'],
                 ['restore', '-i', 'small', '-o', 'restored', '-w', 'rescaling.pth']):
        code, output, names = imported(tmp_path, HCFLOW, *argv)
        assert code == 0 and 'torch' in names and not names & FOR_IMAGES, output
    assert len(list(tmp_path.glob('*/cat.png'))) == 3


def test_python_needs_neither(tmp_path):
    torch.save({'params': perturb(small_net(4), 0.02).state_dict()}, tmp_path / 'sr.pth')
    code = ('import sys, numpy as np\nfrom hcflow_model import HCFlowUpscaler\n'
            'assert HCFlowUpscaler("sr.pth")(np.zeros((8, 8, 3), np.uint8)).shape == (32, 32, 3)\n'
            f'assert not {FOR_IMAGES!r} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
