"""Bad input of every kind: one line that says what is wrong, the exit code, and nothing of earlier runs lost."""
import hashlib
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
import yaml
from bad_inputs import MODELS, NAME, ROWS, options
from helpers import small_net

STATES = f'experiments/{NAME}/training_states'


@pytest.fixture
def earlier(command):
    """A folder of images and LMDBs, with what an earlier run of the same name left."""
    for folder, side in (('gt', 32), ('lq', 8)):
        Path(folder).mkdir()
        image = cv2.imencode('.png', np.full((side, side, 3), 99, np.uint8))[1].tobytes()
        with lmdb.open(f'{folder}.lmdb', map_size=2 ** 20) as environment, environment.begin(write=True) as transaction:
            for key in 'ab':
                Path(folder, f'{key}.png').write_bytes(image)
                transaction.put(key.encode(), image)
        Path(f'{folder}.lmdb', 'meta_info.txt').write_text(''.join(f'{key}.png ({side},{side},3) 1\n' for key in 'ab'))
    for folder in (MODELS, STATES, f'tb_logger/{NAME}', f'results/{NAME}/visualization'):
        Path(folder).mkdir(parents=True)
    torch.save({'params': small_net().state_dict()}, f'{MODELS}/net_g_5.pth')
    torch.save({'epoch': 0, 'iter': 5, 'optimizers': [], 'schedulers': []}, f'{STATES}/5.state')
    for file in (f'experiments/{NAME}/train.log', f'experiments/{NAME}/opt.yml', f'results/{NAME}/metrics.csv',
                 f'results/{NAME}/visualization/a.png', f'tb_logger/{NAME}/events.out.tfevents.1'):
        Path(file).write_text('of the earlier run')
    return command


def hashes():
    """{file: hash} of everything below the current folder; a folder that is empty counts too, but not Python's own."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else '' for path in
            Path().rglob('*') if '__pycache__' not in path.parts and (path.is_file() or not any(path.iterdir()))}


@pytest.mark.slow
@pytest.mark.parametrize(('changes', 'words', 'arguments', 'prepare', 'name'), [row[1:] for row in ROWS],
                         ids=[row[0] for row in ROWS])
def test_bad_input(changes, words, arguments, prepare, name, earlier):
    Path('opt.yml').write_text(yaml.safe_dump(options(changes)))
    if prepare:
        prepare()
    before = hashes()
    code, _, errors = earlier(name, '-opt', 'opt.yml', *arguments)
    lines = errors.splitlines()
    after = hashes()

    assert code == 1 and 'Traceback' not in errors
    assert [line for line in lines if 'basicsr: error:' in line] == lines[-1:]
    assert lines[-1].startswith('basicsr: error: ') and words in lines[-1]
    new = after.keys() - before.keys()
    assert all(file.endswith('.log') and NAME in file for file in new), new  # the log of a run that began
    assert {file: after.get(file) for file in before} == before


def test_number_of_rows():
    assert len(ROWS) >= 60 and len({row[0] for row in ROWS}) == len(ROWS)
