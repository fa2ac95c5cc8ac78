"""Folders of images for tests of hcflow prepare, and runs of it."""
import cv2
import numpy as np

from hcflow_model.data.prepare import Settings, prepare
from hcflow_model.data.prepare.sources import find_images

SUB = Settings(4, 32, 32)


def write_images(folder, count=6, height=48, width=64):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f'p{index}.png'), image)
    return folder


def write_mostly_flat(folder):
    """Like write_images; most of every image has no detail."""
    for path in write_images(folder).iterdir():
        image = cv2.imread(str(path))
        image[:, 24:] = 9
        cv2.imwrite(str(path), image)
    return folder


def run(photos, out, settings=SUB, **arguments):
    return prepare(find_images(photos), out, settings, progress=False, **arguments)


def contents(out):
    """{relative path: bytes} of the images."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob('*.png'))}
