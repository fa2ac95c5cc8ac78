"""Make the small training and held-out sets of this folder from photographs that the scikit-image wheel carries.

    python tests/data/make_data.py [OUT_DIR]

writes train_gt.lmdb, train_lq_x4.lmdb, val_gt and val_lq_x4 to OUT_DIR (by default the folder of this script),
replacing what an earlier run left there. Nothing is downloaded. README.md names the authors and licences.
"""
import argparse
import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import hcflow_model.pipeline.repairs  # noqa: F401  (makes `import basicsr` work on today's torchvision)

# isort: split
import cv2
import lmdb
import numpy as np
import skimage.data
from basicsr.metrics import calculate_psnr
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.matlab_functions import imresize

PHOTOS = Path(skimage.data.__file__).parent
SCALE = 4
TILE = 128  # side of an HR training sub-image
COMPRESS_LEVEL = 9  # of the PNGs, in the LMDBs and on disk
MIN_DETAIL = 2.  # sub-images whose grey levels bicubic x4 restores better than this (RMS) are flat: left out

# (file, factor the photograph is scaled by before it is tiled)
TRAIN = [
    ('astronaut.png', 1),
    ('astronaut.png', .5),
    ('coffee.png', 1),
    ('coffee.png', .5),
    ('hubble_deep_field.jpg', .5),
    ('camera.png', 1),
    ('grass.png', 1),
    ('gravel.png', 1),
    ('brick.png', .5),
    ('coins.png', 1),
]

# (name, file, top, left, height, width) of the window; no part of these photographs is used for training
HELD_OUT = [
    ('cat', 'chelsea.png', 24, 100, 192, 256),
    ('rocket', 'rocket.jpg', 171, 230, 256, 192),
    ('tower', 'rocket.jpg', 264, 0, 160, 160),
]


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize a uint8 image with MATLAB's bicubic kernel and round it to uint8 again."""
    return (imresize(image.astype(np.float32) / 255, scale) * 255).round().clip(0, 255).astype(np.uint8)


def read_photo(file: str) -> np.ndarray:
    """Read a photograph as BGR; grey ones get three equal channels."""
    image = cv2.imread(str(PHOTOS / file), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f'scikit-image does not carry {file} in {PHOTOS}')
    return image


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESS_LEVEL])


def tile_starts(size: int) -> list[int]:
    """Spread about size / TILE tiles evenly over a side; the starts fall on LR pixels."""
    count = max(1, round(size / TILE))
    return [int(start) // SCALE * SCALE for start in np.linspace(0, size - TILE, count)]


def detail(hr: np.ndarray, lr: np.ndarray) -> float:
    """Root mean square, in grey levels, of what a bicubic enlargement of lr lacks of hr."""
    enlarged = cv2.resize(lr, hr.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return float(np.sqrt(np.mean((hr.astype(np.float64) - enlarged) ** 2)))


def cut_photo(file: str, shrink: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut one photograph into (HR, LR) sub-images.

    The whole photograph is downscaled and then cut, so that no sub-image has an artificial border.
    """
    hr = read_photo(file)
    if shrink != 1:
        hr = resize(hr, shrink)
    height, width = (side // SCALE * SCALE for side in hr.shape[:2])
    hr = hr[:height, :width]
    lr = resize(hr, 1 / SCALE)
    pairs = []
    for top in tile_starts(height):
        for left in tile_starts(width):
            y, x, side = top // SCALE, left // SCALE, TILE // SCALE
            pair = hr[top:top + TILE, left:left + TILE], lr[y:y + side, x:x + side]
            if detail(*pair) >= MIN_DETAIL:
                pairs.append(pair)
    return pairs


def make_lmdb(folder: Path, lmdb_path: Path, keys: list[str]) -> None:
    """Pack the PNGs of a folder into an LMDB without spare pages and without the lock file, which readers ignore."""
    loose = folder.with_suffix('.lmdb')
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_lmdb_from_imgs(str(folder), str(loose), [f'{key}.png' for key in keys], keys,
                            compress_level=COMPRESS_LEVEL, map_size=2 ** 24)
    lmdb_path.mkdir(parents=True)
    with lmdb.open(str(loose), readonly=True, lock=False) as env:
        env.copy(str(lmdb_path), compact=True)
    shutil.copyfile(loose / 'meta_info.txt', lmdb_path / 'meta_info.txt')


def make_train(out: Path) -> None:
    """Write train_gt.lmdb and train_lq_x4.lmdb."""
    print(f'{"training photograph":<24}{"scaled by":>10}{"sub-images":>12}')
    with tempfile.TemporaryDirectory() as scratch:
        gt, lq = Path(scratch) / 'gt', Path(scratch) / 'lq'
        keys, counts = [], {}
        for file, shrink in TRAIN:
            pairs = cut_photo(file, shrink)
            name = Path(file).stem
            for hr, lr in pairs:
                counts[name] = counts.get(name, 0) + 1
                keys.append(f'{name}_s{counts[name]:03d}')
                write_png(gt / f'{keys[-1]}.png', hr)
                write_png(lq / f'{keys[-1]}.png', lr)
            print(f'{file:<24}{shrink:>10}{len(pairs):>12}')
        make_lmdb(gt, out / 'train_gt.lmdb', keys)
        make_lmdb(lq, out / 'train_lq_x4.lmdb', keys)
    print(f'{"total":<34}{len(keys):>12}\n')


def make_held_out(out: Path) -> None:
    """Write val_gt and val_lq_x4."""
    print(f'{"held-out picture":<24}{"size":>10}{"bicubic PSNR-Y":>18}')
    for name, file, top, left, height, width in HELD_OUT:
        hr = read_photo(file)[top:top + height, left:left + width]
        lr = resize(hr, 1 / SCALE)
        write_png(out / 'val_gt' / f'{name}.png', hr)
        write_png(out / 'val_lq_x4' / f'{name}.png', lr)
        psnr = calculate_psnr(resize(lr, SCALE), hr, crop_border=SCALE, test_y_channel=True)
        print(f'{name:<24}{f"{height}x{width}":>10}{psnr:>15.2f} dB')
    print()


def main() -> None:
    """Remake the four folders and list their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out_dir', nargs='?', type=Path, default=Path(__file__).resolve().parent)
    out = parser.parse_args().out_dir
    folders = [out / name for name in ('train_gt.lmdb', 'train_lq_x4.lmdb', 'val_gt', 'val_lq_x4')]
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
    make_train(out)
    make_held_out(out)
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) / 1e6 for folder in folders]
    print(f'{"folder":<24}{"size":>10}')
    for folder, size in zip(folders, sizes, strict=True):
        print(f'{folder.name:<24}{size:>7.2f} MB')
    print(f'{"total":<24}{sum(sizes):>7.2f} MB')


if __name__ == '__main__':
    main()
