"""`hcflow page` in a real browser."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from helpers import DATA, ROOT, perturb, small_net

from hcflow_model import HCFlowUpscaler
from hcflow_model.checkpoints.pretrained import save_pretrained

pytestmark = pytest.mark.slow
LR, GT = DATA / 'val_lq_x4' / 'tower.png', DATA / 'val_gt' / 'tower.png'
TIMEOUT = 60_000  # ms; a machine may be busy


def start(folder, *arguments, **more):
    """The command, ended by the caller; what it writes beside its own temporary folder lies in `folder`."""
    env = {**os.environ, 'TMPDIR': str(folder / 'tmp'), 'HOME': str(folder / 'home'), 'OMP_NUM_THREADS': '1',
           'PYTHONPATH': str(ROOT), 'PYTHONDONTWRITEBYTECODE': '1', 'HF_HOME': str(folder / 'home' / 'hf')}
    for name in ('tmp', 'home', 'work'):
        (folder / name).mkdir(exist_ok=True)
    return subprocess.Popen([sys.executable, '-m', 'hcflow_model.commands', 'page', *map(str, arguments)],
                            cwd=folder / 'work', env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            **more)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    for task in ('sr', 'rescaling'):
        save_pretrained(perturb(small_net(task=task), 0.02), folder / f'{task}.pth')
    return folder


@pytest.fixture(scope='module')
def server(tmp_path_factory, weights):
    pytest.importorskip('gradio', reason='Gradio (the extra page) is not installed')
    folder, port = tmp_path_factory.mktemp('page'), free_port()
    process = start(folder, '--weights', weights / 'sr.pth', weights / 'rescaling.pth', '--port', port, '--max_upload',
                    1)
    assert process.stdout.readline() == f'The page is at http://127.0.0.1:{port} (Ctrl-C ends it).\n', (
        process.communicate()[1])
    yield SimpleNamespace(url=f'http://127.0.0.1:{port}', port=port, folder=folder)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ('', '') and process.returncode == 0
    left = [str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()]
    assert not left  # its own folder is gone, and there is nothing beside it


@pytest.fixture(scope='module')
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed')
    with api.sync_playwright() as playwright:
        chromium = shutil.which('chromium') or playwright.chromium.executable_path
        if not os.path.exists(chromium):
            pytest.skip('there is no chromium')
        browser = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield browser
        browser.close()


class View:
    """The page as somebody sees it."""

    def __init__(self, browser, url, width):
        self.context = browser.new_context(viewport={'width': width, 'height': 844}, accept_downloads=True)
        self.context.set_default_timeout(TIMEOUT)
        self.page, self.requests = self.context.new_page(), []
        self.page.on('request', lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector('.bundled')

    def upload(self, path, where='#picture'):
        for remove in self.page.locator(f'{where} button[aria-label="Clear"]').all():
            remove.click()
        self.page.set_input_files(f'{where} input[type=file]', path)

    def status(self):
        return self.page.locator('.block.status:visible').inner_text()

    def see(self, where, text):
        """Wait until an element shows a text."""
        self.page.wait_for_function(
            '([where, text]) => [...document.querySelectorAll(where)].some(e => e.innerText.includes(text))',
            arg=[where, text])

    def wait(self, text):
        """Wait until the line that says how it goes holds a text."""
        self.see('.block.status', text)

    def choose(self, side, name):
        self.page.get_by_label(side).locator('visible=true').click()
        self.page.get_by_role('option', name=name, exact=True).click()

    def download(self, button='.one'):
        with self.page.expect_download() as download:
            self.page.locator(f'{button}:visible').click()
        return download.value.path().read_bytes()

    def picture(self):
        """The picture that the download button gives."""
        return cv2.imdecode(np.frombuffer(self.download(), np.uint8), cv2.IMREAD_UNCHANGED)

    def sources(self):
        """Addresses of the pictures of the slider."""
        return self.page.locator('.slider:visible img').evaluate_all('images => images.map(image => image.src)')

    def width(self):
        return self.page.evaluate('document.documentElement.scrollWidth')


@pytest.fixture(params=[1280])
def view(browser, server, request):
    view = View(browser, server.url, request.param)
    yield view
    view.context.close()


def test_samples_of_one_seed_are_equal_and_those_of_upscale(view, weights):
    view.upload(LR)
    view.wait('seed 0')
    first, seen = view.picture(), view.sources()
    upscaler = HCFlowUpscaler(weights / 'sr.pth', device='cpu')
    assert np.array_equal(first, upscaler(cv2.imread(str(LR))))
    view.page.locator('#seed input').fill('1')
    view.page.locator('#seed input').press('Enter')
    view.wait('seed 1')
    other = view.picture()
    assert not set(seen) & set(view.sources())  # else the browser would show what it has seen
    assert np.array_equal(other, upscaler(cv2.imread(str(LR)), seed=1)) and not np.array_equal(first, other)
    view.page.locator('#seed input').fill('0')
    view.page.locator('.run:visible').click()
    view.wait('seed 0')
    assert np.array_equal(view.picture(), first)


def test_bundled_picture_with_figures_and_slider(view, server):
    view.page.locator('.bundled:visible button').first.click()
    view.wait('Done')
    assert 'bits per HR pixel' in view.status() and 'Samples differ by' in view.status()
    for text in ('PSNR', 'SSIM', 'LR-PSNR', 'bicubic', 'temperature 0', 'sample 3'):
        view.see('.figures', text)
    for text in ('LR', 'sample 1', 'standard deviation', 'ground truth'):
        view.see('.all-pictures', text)

    images = view.page.locator('.slider:visible img')
    assert sorted({source.split('/')[-1] for source in view.sources()}) == ['bicubic.png', 'sample_1.png']
    before = images.evaluate_all('images => images.map(image => image.getAttribute("style"))')
    box = view.page.locator('.slider:visible').bounding_box()
    middle = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    view.page.mouse.move(*middle)
    view.page.mouse.down()
    view.page.mouse.move(middle[0] - 80, middle[1], steps=4)
    view.page.mouse.up()
    assert images.evaluate_all('images => images.map(image => image.getAttribute("style"))') != before

    view.choose('Right', 'ground truth')
    view.page.wait_for_function(
        '[...document.querySelectorAll(".slider img")].some(image => image.src.includes("ground_truth.png"))')
    assert np.array_equal(view.picture(), cv2.imread(str(DATA / 'val_gt' / 'cat.png')))
    assert view.download('.zip').startswith(b'PK')
    assert not [url for url in view.requests if not url.startswith((server.url, 'data:', 'blob:'))]


def test_what_is_no_picture_is_one_message(view, tmp_path):
    for name in ('notes.txt', 'bad_picture.png'):
        (tmp_path / name).write_text('no picture')
        view.upload(tmp_path / name)
        view.wait(f'{name} is no image that can be read')
        assert str(tmp_path) not in view.status() and 'hcflow_page' not in view.status()
    view.upload(LR)
    view.wait('Done')


def test_a_file_that_is_too_large(view, tmp_path):
    (tmp_path / 'large.png').write_bytes(bytes(2**20 + 1))
    view.upload(tmp_path / 'large.png')
    view.page.get_by_text('maximum allowed size').first.wait_for()


def test_stop(view, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 1), np.uint8).repeat(3, 2)
    cv2.imwrite(str(tmp_path / 'large.png'), noise)
    view.upload(tmp_path / 'large.png')
    view.see('.all-pictures', 'bicubic')
    view.page.locator('.stop:visible').click()
    view.wait('Stopped')
    view.see('.all-pictures', 'bicubic')  # what was made before stays
    view.upload(LR)
    view.wait('Done')


def test_rescaling(view):
    view.page.get_by_role('tab', name='Rescaling').click()
    view.upload(GT, '#original')
    view.wait('Done')
    restored = view.picture()
    assert restored.shape == cv2.imread(str(GT)).shape
    view.choose('Right', 'small')
    view.page.get_by_text('Download small.png').wait_for()
    small = view.download()
    assert b'"height": 160' in small and f'{len(small):,} bytes' in view.status()
    view.page.get_by_label('JPEG', exact=True).check()
    view.page.get_by_text('Download small.jpg').wait_for()
    view.wait('bytes')
    small = view.download()
    assert small.startswith(b'\xff\xd8') and f'{len(small):,} bytes' in view.status()


@pytest.mark.parametrize('view', [390], indirect=True)
def test_phone(view):
    assert view.width() <= 390
    view.page.locator('.bundled:visible button').first.click()
    view.wait('Done')
    assert view.width() <= 390
    view.page.get_by_role('tab', name='Rescaling').click()
    view.page.locator('.bundled:visible button').first.click()
    view.wait('The small picture')
    assert view.width() <= 390


def get(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_strangers_get_nothing(server, weights):
    assert get(server.url) == 200
    assert get(f'{server.url}/gradio_api/file={weights / "sr.pth"}') == 403
    assert get(server.url, Host='example.com') == 400  # a page elsewhere, whose name leads here
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(5)
        other.connect(('127.0.0.2', server.port))  # another address of this machine


def test_port_in_use(server, tmp_path):
    process = start(tmp_path, '--port', server.port)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert error == (f'hcflow: error: Cannot listen on 127.0.0.1, port {server.port}: Address already in use. Give '
                     'another --port or --host.\n')
