"""What self-ensemble, chosen samples and refined small images bring: python -m benchmarks.sampling [--parts refine]."""
import argparse
import time
from pathlib import Path

import hcflow_arch  # noqa: F401  isort: skip  (first: makes `import basicsr` work)
import numpy as np
import torch
from basicsr.metrics import calculate_psnr

from hcflow_model import HCFlowRescaler, HCFlowUpscaler
from hcflow_model.images.arrays import to_array, to_tensor
from hcflow_model.images.bicubic import bicubic_guide
from hcflow_model.images.files import find_images, read_image
from hcflow_model.inference.choice import best, mean_image
from hcflow_model.utils.tables import aligned

FOLDER = Path(__file__).parents[1] / 'tests' / 'data' / 'val_gt'
TEMPERATURE = 0.8


def psnr_y(image: np.ndarray, gt: np.ndarray) -> float:
    """As the tables of the paper have it."""
    return float(calculate_psnr(image[:gt.shape[0], :gt.shape[1]], gt, 4, test_y_channel=True))


def small_of(image: np.ndarray, scale: int) -> np.ndarray:
    """The bicubic LR image, in 8 bits."""
    height, width = (length // scale * scale for length in image.shape[:2])
    return to_array(bicubic_guide(to_tensor(image[:height, :width]).contiguous(), scale), 3, np.dtype(np.uint8))


def averages(rows: list[tuple[str, list[list[float]]]], names: list[str]) -> str:
    """A table: of each row the mean of each value over the pictures."""
    return aligned([names, *([name, *(f'{value:.3f}' for value in np.mean(values, 0))] for name, values in rows)])


def ensemble(images: list[np.ndarray], args: argparse.Namespace) -> str:
    """Gain of the self-ensemble in both tasks."""
    upscaler, rescaler = HCFlowUpscaler(args.sr), HCFlowRescaler(args.rescaling)
    rows = []
    for name, source, call in (('upscale', lambda image: small_of(image, upscaler.scale), upscaler),
                               ('restore', rescaler.downscale, rescaler.restore)):
        values = []
        for image in images:
            small, results = source(image), []
            for self_ensemble in (False, True):
                start = time.process_time()
                result = call(small, temperature=0, self_ensemble=self_ensemble)
                results += [psnr_y(result, image), time.process_time() - start]
            values.append([results[0], results[2], results[2] - results[0], results[3] / results[1]])
        rows.append((name, values))
        rows.append((f'{name}, least gain', [min(values, key=lambda value: value[2])]))
    return averages(rows, ['temperature 0', 'psnr_y', 'with ensemble', 'gain', 'times as long'])


def samples(images: list[np.ndarray], args: argparse.Namespace) -> str:
    """Samples that are chosen, and their mean, beside all of them and temperature 0."""
    upscaler, rows = HCFlowUpscaler(args.sr), {}
    for image in images:
        small = small_of(image, upscaler.scale)
        drawn = upscaler.samples(small, args.num_samples, TEMPERATURE)
        scores = {by: upscaler.scores(small, drawn, by) for by in ('nll', 'lr_psnr')}
        shown = {f'all {args.num_samples}': drawn, **{f'best by {by}': [drawn[best(values, by)[0]]]
                                                     for by, values in scores.items()},
                 f'mean of {args.num_samples}': [mean_image(drawn)], 'temperature 0': [upscaler(small, 0)]}
        for name, pictures in shown.items():
            rows.setdefault(name, []).append([np.mean([psnr_y(picture, image) for picture in pictures]), *(
                np.mean(upscaler.scores(small, pictures, by)) for by in ('lr_psnr', 'nll'))])
    return averages(list(rows.items()), [f'at {TEMPERATURE}', 'psnr_y', 'lr_psnr', 'nll'])


def refine(images: list[np.ndarray], args: argparse.Namespace) -> str:
    """Gain of refined small images, by steps and weight."""
    rescaler, rows = HCFlowRescaler(args.rescaling), []
    wanted = [(steps, 0.05) for steps in args.steps] + [(args.steps[-1], weight) for weight in (0, 1)]
    own = [rescaler.downscale(image) for image in images]
    before = [[psnr_y(rescaler.restore(small, temperature=t), image) for t in (0, 1)]
              for small, image in zip(own, images, strict=True)]
    for steps, weight in wanted:
        values = []
        for image, first, guide in zip(images, before, (small_of(image, 4) for image in images), strict=True):
            start = time.process_time()
            small = rescaler.downscale(image, steps, weight)
            seconds = time.process_time() - start
            restored = [psnr_y(rescaler.restore(small, temperature=t), image) for t in (0, 1)]
            near = small[:guide.shape[0], :guide.shape[1]]
            values.append([restored[0], restored[0] - first[0], 0, restored[1] - first[1],
                           psnr_y(near, guide), seconds / image[..., 0].size * 1e6])
        least = min(value[1] for value in values)
        rows.append((f'{steps}, {weight:g}', [[*value[:2], least, *value[3:]] for value in values]))
    return averages(rows, ['steps, weight', 'psnr_y', 'gain', 'least gain', 'gain at 1', 'small to bicubic',
                           'CPU s per HR megapixel'])


def main() -> None:
    """Print the tables of docs/sampling.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--sr', default='x4', help='super-resolution network (default: x4)')
    parser.add_argument('--rescaling', default='rescaling-x4', help='rescaling network (default: rescaling-x4)')
    parser.add_argument('--images', default=FOLDER, help='folder of HR images (default: the bundled held-out ones)')
    parser.add_argument('--num_samples', type=int, default=16)
    parser.add_argument('--steps', type=int, nargs='+', default=[0, 5, 20])
    parser.add_argument('--parts', nargs='+', choices=['ensemble', 'samples', 'refine'],
                        default=['ensemble', 'samples', 'refine'])
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = [read_image(path) for path in find_images(args.images)[0]]
    for part in args.parts:
        print(f'{globals()[part](images, args)}\n', flush=True)


if __name__ == '__main__':
    main()
