"""The page itself: what stands where, and what happens when."""
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import gradio as gr

from hcflow_arch import InputError
from hcflow_model.inference.draw import check_seed
from hcflow_model.inference.upscaler import HCFlowImages, HCFlowRescaler, HCFlowUpscaler
from hcflow_model.utils.memory import enough_memory

from .shown import (
    BEST,
    BICUBIC,
    ORIGINAL,
    RESTORED,
    STD,
    Shown,
    Stopped,
    bundled_pictures,
    read_picture,
    rescale,
    shrunk,
    stoppable,
    super_resolve,
)

CSS = """
.gradio-container > main {width: 100%; max-width: 1280px !important; margin: auto}
.slider img {image-rendering: pixelated}
.all-pictures .grid-wrap {min-height: 0 !important; max-height: none !important}
.all-pictures .grid-container {grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)) !important}
.error {color: var(--error-text-color, #b91c1c); font-weight: 600}
"""
WORKING = 'Working …'
POLL_SECONDS = 0.2
CACHE_SECONDS = 3600  # files of earlier pictures are kept as long
FORMATS = {'PNG': '.png', 'JPEG': '.jpg', 'WebP': '.webp'}
HIGH = 'high resolution: shrink it first, and compare'
LOW = 'low resolution: make it larger'


class Page:
    """The page of two networks, which run for one request at a time.

    Args:
        folder: Takes all files that are made, in a folder for each session.
        upscaler, rescaler: The networks, each with a tab.
    """

    def __init__(self, folder: Path, upscaler: HCFlowUpscaler, rescaler: HCFlowRescaler):
        self.folder, self.upscaler, self.rescaler = folder, upscaler, rescaler
        self._stops = {}  # {session: its threading.Event}

    def blocks(self) -> gr.Blocks:
        """What Gradio serves."""
        with gr.Blocks(title='HCFlow', analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as blocks:
            gr.Markdown('# HCFlow')
            with gr.Tabs():
                with gr.Tab(f'Super-resolution ×{self.upscaler.scale}'):
                    self._super_resolution()
                with gr.Tab(f'Rescaling ×{self.rescaler.scale}'):
                    self._rescaling()
            blocks.unload(self._leave)
        return blocks

    def stop_all(self) -> None:
        """Stop what is being worked on."""
        for stop in self._stops.values():
            stop.set()

    def _super_resolution(self):
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                picture = gr.File(label='Picture', height=130, elem_id='picture')
                pictures, status = _bundled(), _status()
                kind = gr.Radio([LOW, HIGH], value=LOW, label='The picture is of')
                with gr.Accordion('Ground truth of a low-resolution picture', open=False):
                    gt = gr.File(show_label=False, height=130, elem_id='gt')
                temperature = gr.Slider(0, 1, self.upscaler.default_temperature, step=0.05, label='Temperature',
                                        elem_id='temperature')
                num_samples = gr.Slider(1, 8, 3, step=1, label='Samples', elem_id='num_samples')
                seed = gr.Number(0, precision=0, minimum=0, label='Seed', elem_id='seed')
                run, stop = _buttons()
            results = Results(status, BICUBIC, 'sample 1')
        inputs = [picture, kind, gt, temperature, num_samples, seed]

        def show(shown, path, kind, gt, temperature, num_samples, seed):
            file = read_picture(path)
            shown.profile = file.profile
            if kind == HIGH:
                lr, truth = shrunk(file.pixels, self.upscaler.scale)
            else:
                lr, truth = file.pixels, None if gt is None else read_picture(gt).pixels
            return super_resolve(self.upscaler, shown, lr, truth, temperature, int(num_samples), _seed(seed))

        taken = pictures.click(lambda index: (_bundled_path(index), HIGH, None), pictures, [picture, kind, gt],
                               show_progress='hidden', api_visibility='private')
        self._connect(self.upscaler, show, inputs, results, [picture.upload, gt.upload, temperature.release,
                                                            num_samples.release, seed.submit, run.click], taken, stop)

    def _rescaling(self):
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                picture = gr.File(label='Picture', height=130, elem_id='original')
                pictures, status = _bundled(), _status()
                stored = gr.Radio(list(FORMATS), value='PNG', label='The small picture is stored as', elem_id='stored')
                quality = gr.Slider(1, 100, 90, step=1, label='Quality of JPEG and WebP', elem_id='quality')
                temperature = gr.Slider(0, 1, self.rescaler.default_temperature, step=0.05, label='Temperature')
                seed = gr.Number(0, precision=0, minimum=0, label='Seed')
                run, stop = _buttons()
            results = Results(status, BICUBIC, RESTORED)
        inputs = [picture, stored, quality, temperature, seed]

        def show(shown, path, stored, quality, temperature, seed):
            file = read_picture(path)
            shown.profile = file.profile
            return rescale(self.rescaler, shown, file.pixels, FORMATS[stored], int(quality), temperature, _seed(seed))

        taken = pictures.click(_bundled_path, pictures, picture, show_progress='hidden', api_visibility='private')
        self._connect(self.rescaler, show, inputs, results, [picture.upload, stored.input, quality.release,
                                                            temperature.release, seed.submit, run.click], taken, stop)

    def _connect(self, images, show, inputs, results, triggers, taken, stop):
        def run(request: gr.Request, *values):
            *values, left, right = values
            yield from self._run(images, show, values, results, (left, right), request.session_hash)

        event = {'fn': run, 'inputs': [*inputs, results.left, results.right], 'outputs': results.outputs(),
                 'show_progress': 'minimal', 'show_progress_on': results.status, 'concurrency_id': 'network',
                 'concurrency_limit': 1, 'trigger_mode': 'always_last', 'api_visibility': 'private'}
        gr.on(triggers, **event)
        taken.then(**event)
        stop.click(self._stop, queue=False, show_progress='hidden', api_visibility='private')

    def _run(self, images: HCFlowImages, show: Callable, values: list, results: 'Results', chosen: tuple[str, str],
             session: str) -> Iterator[dict]:
        """Updates of the page while a picture is worked on, in a thread of its own."""
        stop = self._stops[session] = threading.Event()
        folder = self.folder / session / images.task
        shutil.rmtree(folder, ignore_errors=True)  # what was shown before
        folder.mkdir(parents=True)
        folder = Path(tempfile.mkdtemp(dir=folder))  # of another name each time: browsers keep what they have seen
        shown, start, news = Shown(folder, None), time.monotonic(), queue.SimpleQueue()

        def work():
            with enough_memory(), stoppable(images, shown.remarks, stop.is_set, news.put):
                for _ in show(shown, *values):
                    news.put(shown.copy())  # the work goes on

        yield {results.status: WORKING}
        with ThreadPoolExecutor(1) as pool:
            try:
                future = pool.submit(work)
                while not (future.done() and news.empty()):
                    with suppress(queue.Empty):
                        new = news.get(timeout=POLL_SECONDS)
                        yield (results.update(new, chosen, WORKING) if isinstance(new, Shown) else
                               {results.status: f'{WORKING} {new:.0%}'})
                future.result()
                yield results.update(shown, chosen, f'Done in {time.monotonic() - start:.1f} s.')
            except Stopped:
                yield results.update(shown, chosen, 'Stopped.')
            except InputError as error:
                yield results.update(shown, chosen, str(error), is_error=True)
            finally:
                stop.set()  # where nobody looks any more

    def _stop(self, request: gr.Request):
        if request.session_hash in self._stops:
            self._stops[request.session_hash].set()

    def _leave(self, request: gr.Request):
        self._stop(request)
        shutil.rmtree(self.folder / request.session_hash, ignore_errors=True)


class Results:
    """The part of a tab that shows what was made.

    Args:
        status: Says how the work goes.
        left, right: What the slider shows where the user has chosen nothing else.
    """

    def __init__(self, status: gr.Markdown, left: str, right: str):
        self.status, self.defaults, self.files = status, (left, right), gr.State({})
        with gr.Column(scale=5, min_width=300), gr.Column(visible=False) as self.all:
            self.slider = gr.ImageSlider(show_label=False, elem_classes='slider', buttons=['fullscreen'])
            with gr.Row():
                self.left = gr.Dropdown([left], value=left, label='Left', min_width=120)
                self.right = gr.Dropdown([right], value=right, label='Right', min_width=120)
            self.figures = gr.Dataframe(interactive=False, show_label=False, visible=False, elem_classes='figures')
            self.gallery = gr.Gallery(object_fit='contain', height='auto', show_label=False,
                                      elem_classes='all-pictures', buttons=['download', 'fullscreen'])
            with gr.Row():
                self.one = gr.DownloadButton(min_width=160, elem_classes='one')
                self.zip = gr.DownloadButton('Download all (ZIP)', min_width=160, elem_classes='zip')
        for side in (self.left, self.right):
            side.input(self._choose, [self.left, self.right, self.files], [self.slider, self.one],
                       show_progress='hidden', api_visibility='private')

    def outputs(self) -> list:
        """Components that :meth:`update` changes."""
        return [self.files, self.status, self.all, self.slider, self.left, self.right, self.figures, self.gallery,
                self.one, self.zip]

    def update(self, shown: Shown, chosen: tuple[str, str], status: str, is_error: bool = False) -> dict:
        """Values of the components."""
        files = {name: str(path) for name, path in shown.files.items()}
        remarks = ' '.join([status, *shown.remarks])
        out = {self.files: files, self.all: gr.update(visible=bool(files)),
               self.status: f'<span class="error">{_escaped(remarks)}</span>' if is_error else _escaped(remarks)}
        names = [name for name in files if name != STD]
        if not names:
            return out
        left, right = (_nearest(name, default, names) for name, default in zip(chosen, self.defaults, strict=True))
        head, *rows = shown.figures or [[]]
        return {**out, self.slider: (files[left], files[right]),
                self.left: gr.update(choices=names, value=left), self.right: gr.update(choices=names, value=right),
                self.figures: gr.update(visible=bool(rows), value={'headers': head, 'data': rows}),
                self.gallery: [(path, name) for name, path in files.items()],
                self.one: _download(right, files), self.zip: str(shown.archive())}

    @staticmethod
    def _choose(left, right, files):
        return (files[left], files[right]), _download(right, files)


def _nearest(name, default, names):
    """The name if it is there, else the default, else what was made last."""
    return next((wanted for wanted in (name, default, BEST, ORIGINAL) if wanted in names), names[-1])


def _download(name, files):
    return gr.update(value=files[name], label=f'Download {Path(files[name]).name}')


def _status():
    return gr.Markdown('Drop a picture, or take one of these.', elem_classes='status', container=True)


def _bundled():
    samples = [[str(path)] for path in bundled_pictures()]
    return gr.Dataset(components=[gr.Image(visible=False)], samples=samples, label='Or take one of these', type='index',
                      elem_classes='bundled')


def _bundled_path(index):
    return str(bundled_pictures()[index])


def _buttons():
    with gr.Row():
        return (gr.Button('Run', variant='primary', min_width=100, elem_classes='run'),
                gr.Button('Stop', variant='stop', min_width=100, elem_classes='stop'))


def _seed(value):
    return check_seed(0 if value is None else value)


def _escaped(text):
    """Markdown shows it as it is: file names may hold anything."""
    return ''.join(f'&#{ord(char)};' if char in r'\`*_{}[]<>()#+-!|&~$' else char for char in text)
