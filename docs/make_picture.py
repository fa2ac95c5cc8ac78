"""Make docs/sheet.png, the picture of the README: a photograph that was not trained on, upscaled by the network x4.

    python docs/make_picture.py
"""
import argparse
import sys
from pathlib import Path

import hcflow_model  # noqa: F401  isort: skip  (first: it makes `import basicsr` work)

from hcflow_arch import InputError
from hcflow_model import HCFlowUpscaler
from hcflow_model.images.arrays import to_tensor
from hcflow_model.images.bicubic import bicubic_resize
from hcflow_model.images.drawing import encode_png
from hcflow_model.images.files import read_image
from hcflow_model.utils.files import write_bytes
from hcflow_model.validation.sheet import draw_sheet

ROOT = Path(__file__).parents[1]
DATA = ROOT / 'tests' / 'data'
TEMPERATURE, NUM_SAMPLES = 0.8, 3
CROP = (slice(24, 152), slice(28, 188))  # rows and columns of HR, multiples of the scale


def make_picture(weights: str | Path | None, output: str | Path) -> None:
    """LR, bicubic, temperature 0, ground truth; three samples and their standard deviation."""
    upscaler = HCFlowUpscaler(weights)
    scale = upscaler.scale
    image, hr = (read_image(DATA / folder / 'cat.png') for folder in ('val_lq_x4', 'val_gt'))
    lq, gt = to_tensor(image), to_tensor(hr)
    rows = {'bicubic': [bicubic_resize(lq, scale).clamp(0, 1)], 't0': [to_tensor(upscaler(image, 0))],
            f't{TEMPERATURE}': [to_tensor(sample) for sample in upscaler.samples(image, NUM_SAMPLES, TEMPERATURE)]}
    rows = {label: [crop(image, 1) for image in images] for label, images in rows.items()}
    sheet = draw_sheet(crop(lq, scale), rows, scale, crop(gt, 1))
    write_bytes(Path(output), encode_png(sheet))


def crop(image, scale):
    """The part of (1, 3, h, w) that is shown."""
    rows, columns = (slice(part.start // scale, part.stop // scale) for part in CROP)
    return image[:, :, rows, columns]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', help='default: x4, which comes with the package')
    parser.add_argument('-o', '--output', default=ROOT / 'docs' / 'sheet.png', help='default: docs/sheet.png')
    args = parser.parse_args()
    try:
        make_picture(args.weights, args.output)
    except InputError as error:
        sys.exit(f'make_picture.py: error: {error}')
