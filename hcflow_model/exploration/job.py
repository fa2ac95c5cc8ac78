"""What `hcflow explore` does: checks its arguments, computes, and writes pictures and figures."""
import argparse
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.utils import tensor2img
from PIL import Image
from tqdm import tqdm

from hcflow_arch import InputError
from hcflow_arch.checks import check_temperature, fit_to_scale
from hcflow_model.checkpoints.pretrained import find_checkpoint, load_pretrained
from hcflow_model.images.arrays import check_array, planes, spread_colours, to_tensor
from hcflow_model.images.bicubic import bicubic_resize, round8
from hcflow_model.images.drawing import encode_png
from hcflow_model.images.files import read_image, write_image
from hcflow_model.inference.draw import DrawCounts, Sample, Sampler, check_seed, noise_of, samples_of
from hcflow_model.inference.tile_size import SHARE, free_memory, memory_needed
from hcflow_model.inference.tiling import Tile
from hcflow_model.metrics.hcflow_metric import calculate_diversity, calculate_lr_psnr
from hcflow_model.utils.devices import find_device
from hcflow_model.utils.files import check_folder, file_hash, file_name, real_path, write_bytes
from hcflow_model.utils.memory import keep_freed_memory
from hcflow_model.utils.tables import BICUBIC, aligned, json_safe, number, temperature_label
from hcflow_model.validation.report import versions
from hcflow_model.validation.sheet import draw_sheet

from . import latents as exploration
from . import sheets as exploration_sheets

MIN_SIDE = 4  # of an LR image: less leaves nothing to measure inside the border
FRAME_MS, END_MS = 100, 700  # of an animation
KEPT = 'kept'


def read_colours(path: str | Path) -> np.ndarray:
    """An image file as (H, W, 3), BGR, or (H, W, 1), grey, without alpha."""
    array = spread_colours(check_array(str(path), read_image(path)))
    return array[..., planes(array)[0].channels]


def to_rgb(colours: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W), RGB, float32 in [0, 1], of what :func:`read_colours` returned."""
    return to_tensor(colours).contiguous()  # grey: one channel seen three times


def _without_pixels(array):
    return torch.empty(1, 3, *array.shape[:2], device='meta')


class ExplorationJob:
    """One run of the command.

    Args:
        args: Its arguments, as argparse gives them.

    Raises:
        InputError: An argument that is not allowed, a file that is missing or does not fit, one that is there already.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.labels = _check_arguments(args)
        self.name, self.folder = Path(args.input).stem, Path(args.output)
        self.sheet_path = self._path('sheet.png')
        self._check_files()
        self.checkpoint = find_checkpoint(args.weights)
        device = find_device(args.device)
        keep_freed_memory(device)
        self.net = load_pretrained(self.checkpoint, task='sr', param_key=args.param_key, device=device)
        self.scale = self.net.scale
        lq = read_colours(args.input)
        self.window = self._window(*lq.shape[:2])
        self._check_memory(device)
        self.lq = to_rgb(self._part(lq, 1))
        self.gt, self.edited = (None if path is None else to_rgb(self._part(self._read_hr(path, lq), self.scale))
                                for path in (args.gt, args.edit))
        self.lq_on_device = self.lq.to(device)
        self.files = {}  # {path: content}: written together at the end, so that a stopped run leaves nothing

    def _check_files(self):
        check_folder(self.folder)
        given = {real_path(path) for path in (self.args.input, self.args.gt, self.args.edit) if path is not None}
        names = ['sheet.png', 'explore.json', *(f'{label}_{i + 1}.png' for label, count in self.labels.items()
                                                for i in range(count))]
        if self.args.interpolate is not None:
            names += ['walk.png', self._animation_name()]
        if self.args.edit is not None:
            names += ['edit.png', *(f'edit_{content}_{what}.png' for content in ('input', 'own')
                                    for what in (KEPT, *self.labels))]
        for path in map(self._path, names):
            if real_path(path) in given:
                raise InputError(f'{path} is an input, and would be overwritten; give another folder with -o.')
            if os.path.exists(path) and not self.args.overwrite:
                raise InputError(f'{path} is there already; give another folder with -o, or --overwrite.')

    def _animation_name(self):
        extension = self.args.animation
        return f'walk.{extension}' if extension != 'png' else 'walk_animated.png'

    def _read_hr(self, path, lq):
        image = read_colours(path)
        try:
            fit_to_scale(_without_pixels(image), self.scale, _without_pixels(lq))  # refuses sizes that do not fit
        except InputError as error:
            raise InputError(f'{path} and {self.args.input}: {error}') from error
        return image

    def _window(self, height, width):
        """(rows, columns) of the LR image that are looked at."""
        x, y, crop_width, crop_height = self.args.crop or (0, 0, width, height)
        if min(x, y) < 0 or min(crop_width, crop_height) < 1 or x + crop_width > width or y + crop_height > height:
            raise InputError(f'--crop {x} {y} {crop_width} {crop_height} does not lie inside the LR image of '
                             f'{width}x{height} pixels; give X Y WIDTH HEIGHT in LR pixels.')
        if min(crop_height, crop_width) < MIN_SIDE:
            raise InputError(f'The LR image is {crop_width}x{crop_height} pixels; at least {MIN_SIDE}x{MIN_SIDE} are '
                             'needed.')
        return range(y, y + crop_height), range(x, x + crop_width)

    def _part(self, array, scale):
        """The window of an image; an HR image that is smaller than the LR image says ends before it."""
        rows, columns = (slice(scale * part.start, scale * part.stop) for part in self.window)
        return array[rows, columns]

    def _check_memory(self, device):
        height, width = map(len, self.window)
        needed, free = memory_needed(self.net, height, width), free_memory(device)
        if free is not None and needed > SHARE * free:
            raise InputError(f'An LR image of {width}x{height} pixels needs about {needed / 2**30:.3g} GiB of memory, '
                             f'and {free / 2**30:.3g} GiB are free; look at a part of it with --crop X Y WIDTH HEIGHT.')

    def explore(self) -> str:
        """Compute and write everything. Returns the figures as text."""
        rows = self._sample()
        figures = {label: self._figures(samples) for label, samples in rows.items()}
        content = {
            'input': str(self.args.input), 'gt': self.args.gt, 'crop': self.args.crop, 'seed': self.args.seed,
            'num_samples': self.args.num_samples, 'checkpoint': str(self.checkpoint),
            'checkpoint_sha256': file_hash(self.checkpoint), 'param_key': self.args.param_key, 'versions': versions(),
            'temperatures': {label.removeprefix('t'): json_safe(values) for label, values in figures.items()},
        }
        captions = {label: _caption(values) for label, values in figures.items()}
        texts, known, statistics = [_figures_table(figures)], None, ()
        if self.gt is not None:
            known = exploration.likelihood(self.net, self.gt.to(self.lq_on_device), self.lq_on_device, self.args.seed)
            statistics = exploration.latent_statistics(known.latents)
            terms = {'nll': known.nll, **known.terms}
            content['nll'] = json_safe(terms)
            content['latents'] = [json_safe(s._asdict()) for s in statistics]
            captions['gt'] = '\n'.join(f'{name} {number(value)}' for name, value in terms.items())
            texts += [_nll_text(terms), _latents_table(statistics)]
        more = [exploration_sheets.latent_row(known.latents, statistics)] if known else []
        self._add('sheet.png', encode_png(draw_sheet(self.lq, rows, self.scale, self.gt, captions, True, more)))
        if self.args.interpolate is not None:
            content['walk'] = self._walk()
        if self.args.edit is not None:
            content['edit'], text = self._edit()
            texts.append(text)
        text = json.dumps(content, indent=2, allow_nan=False) + '\n'
        self._add('explore.json', text.encode())
        self._write()
        return '\n\n'.join(texts)

    def _sample(self):
        rows = {BICUBIC: [round8(bicubic_resize(self.lq, self.scale).clamp(0, 1))], **{key: [] for key in self.labels}}
        samples, images = samples_of(self.args.temperatures, self.args.num_samples), {}
        with tqdm(total=len(samples), unit='image', desc='samples', disable=None) as pbar:
            def write(sample, tile, sr):
                images[sample] = round8(sr.cpu())  # figures are of what is saved
                pbar.update()

            whole = Tile(*self.window, *self.window)
            self.counts = Sampler(self.net).draw(lambda *window: self.lq_on_device, [whole], samples, self.args.seed,
                                                 write)
        for sample, counts in self.counts.items():
            if counts.nonfinite:
                raise InputError(f'Sample {sample.number} at temperature {sample.temperature:g} has {counts.nonfinite} '
                                 f'pixels that are not finite. {exploration.UNTRAINED}')
            label = temperature_label(sample.temperature)
            self._add(f'{label}_{sample.number}.png', tensor2img(images[sample]))
            rows[label].append(images[sample])
        return rows

    def _latents(self, sample):
        """Of a sample, exactly as it was drawn."""
        counts = self.counts.get(sample, DrawCounts(0, 0, 0))
        return noise_of(self.args.seed, sample.number, counts.redraws, counts.clipped).latents(
            self.net, *self.window, sample.temperature, self.lq_on_device.device)

    def _figures(self, samples):
        images, lq = [tensor2img(sample) for sample in samples], tensor2img(self.lq)
        figures = {}
        if self.gt is not None:
            gt = tensor2img(self.gt)
            height, width = gt.shape[:2]
            figures['psnr'] = float(np.mean([calculate_psnr(image[:height, :width], gt, self.scale)
                                             for image in images]))
        figures['lr_psnr'] = float(np.mean([calculate_lr_psnr(image, lq, self.scale) for image in images]))
        if len(images) > 1:
            figures['diversity'] = calculate_diversity(images)
        return figures

    def _walk(self):
        temperature = max(self.args.temperatures)
        ends = (self._latents(Sample(temperature, number)) for number in (1, 2))
        frames = [exploration.decode_8bit(self.net, self.lq_on_device, latents)
                  for latents in exploration.walk(*ends, self.args.interpolate)]
        self._add('walk.png', encode_png(exploration_sheets.draw_strip(frames)))
        self._add(self._animation_name(), animate(frames, self.args.animation))
        return {'temperature': temperature, 'steps': self.args.interpolate}

    def _edit(self):
        parts = exploration.take_apart(self.net, self.edited.to(self.lq_on_device), self.lq_on_device)
        contents = {'input': self.lq_on_device, 'own': parts.own_lq}
        latents = {KEPT: parts.latents, **{label: exploration.normalize_latents(parts.latents, temperature)
                                           for label, temperature in zip(self.labels, self.args.temperatures,
                                                                         strict=True)}}
        results, figures = {}, {}
        for name, lq in contents.items():
            low, results[name] = parts.low(lq), {}
            for what, z in latents.items():
                image = exploration.decode_8bit(self.net, low, z)
                nll = exploration.likelihood(self.net, image.to(lq), lq, self.args.seed).nll
                lr_psnr = calculate_lr_psnr(tensor2img(image), tensor2img(lq), self.scale)
                figures[f'{name} {what}'] = {'nll': nll, 'lr_psnr': lr_psnr}
                results[name][what] = image, _caption(figures[f'{name} {what}'])
                self._add(f'edit_{name}_{what}.png', tensor2img(image))
        self._add('edit.png', encode_png(exploration_sheets.draw_edit(
            self.edited, {name: lq.cpu() for name, lq in contents.items()}, results, self.gt)))
        lines = [['LR content', 'latents', 'nll', 'lr_psnr']]
        lines += [[*key.split(), number(values['nll']), number(values['lr_psnr'])] for key, values in figures.items()]
        return ({'image': str(self.args.edit), 'results': {key: json_safe(values) for key, values in figures.items()}},
                aligned(lines, num_texts=2))

    def _add(self, name, what):
        self.files[self._path(name)] = what

    def _path(self, name):
        return self.folder / file_name(self.name, f'_{name}')

    def _write(self):
        for path, what in self.files.items():
            (write_bytes if isinstance(what, bytes) else write_image)(path, what)


def animate(frames: list[torch.Tensor], format_: str) -> bytes:
    """An endless animation, there and back, of images (1, 3, H, W): the content of a 'gif', 'png' or 'webp' file."""
    height, width = exploration_sheets.frame_size(*frames[0].shape[2:])
    images = [Image.fromarray(np.ascontiguousarray(tensor2img(frame)[..., ::-1])).resize((width, height), Image.NEAREST)
              for frame in frames]
    last = len(images) - 1
    order = [*range(last + 1), *range(last - 1, 0, -1)]
    file = io.BytesIO()
    images[0].save(file, format=format_, save_all=True, append_images=[images[i] for i in order[1:]], loop=0,
                   duration=[END_MS if i in (0, last) else FRAME_MS for i in order],
                   **({'lossless': True} if format_ == 'webp' else {}))
    return file.getvalue()


def _check_arguments(args) -> dict[str, int]:
    """{label of a temperature: how many samples}."""
    for temperature in args.temperatures:
        check_temperature('a value of --temperatures', temperature)
    labels = {temperature_label(t): 1 if t == 0 else args.num_samples for t in args.temperatures}
    if len(labels) != len(args.temperatures):
        raise InputError(f'--temperatures {args.temperatures}: two are equal; give each once.')
    check_seed(args.seed, '--seed')
    for name, value, least in (('--num_samples', args.num_samples, 1), ('--interpolate', args.interpolate, 2)):
        if value is not None and value < least:
            raise InputError(f'{name} is {value}; it must be a whole number from {least}.')
    if args.interpolate is not None and max(args.temperatures) == 0:
        raise InputError('--interpolate walks between two samples, and at temperature 0 there is one; give a '
                         'temperature above 0.')
    return labels


def _caption(values):
    return ' '.join(f'{name} {number(value)}' for name, value in values.items())


def _figures_table(figures):
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    return aligned([['temperature', *names], *(
        [label.removeprefix('t'), *(number(values[name]) if name in values else '-' for name in names)]
        for label, values in figures.items())])


def _nll_text(terms):
    parts = [f'{name} {number(value)}' for name, value in terms.items() if name != 'nll']
    return f'nll {number(terms["nll"])} bits per HR pixel: {", ".join(parts)}'


def _latents_table(statistics):
    lines = [['latents of the ground truth', 'mean', 'std', 'excess kurtosis', 'beyond 3']]
    lines += [[f'level {s.level}, {s.channels} channels of {s.width}x{s.height}', f'{s.mean:.4f}', f'{s.std:.4f}',
               f'{s.excess_kurtosis:.4f}', f'{100 * s.beyond_3:.2f} %'] for s in statistics]
    return aligned([*lines, ['N(0, 1)', '0.0000', '1.0000', '0.0000', '0.27 %']])
