"""Datasets of an option file are looked at before training: folders, LMDBs, sizes of pairs and patches."""
import re
from pathlib import Path

from hcflow_arch import InputError

from .option_rules import require

IMAGE_ENDINGS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')

FLAT_DATASETS = ('PairedImageDataset', 'SingleImageDataset', 'HROnlyDataset')  # they do not look into subfolders


def check_dataset(name: str, dataset: dict, opt: dict) -> None:
    """Check one block of `datasets`.

    Args:
        name (str): Its place, such as 'datasets.train', for messages.
        dataset (dict): The block.
        opt (dict): All options.

    Raises:
        InputError: A folder or LMDB that is missing or empty, pairs or patches that do not fit the scale.
    """
    if not isinstance(dataset.get('io_backend') or {}, dict):
        raise InputError(f"'{name}.io_backend' is {dataset['io_backend']!r}; it must be a block such as "
                         '{type: disk}.')
    backend = (dataset.get('io_backend') or {}).get('type')
    if backend not in (None, 'disk', 'lmdb', 'memcached'):
        raise InputError(f"'{name}.io_backend.type' is {backend!r}; allowed are disk, lmdb and memcached.")
    sizes, num_images = {}, {}
    for key in ('dataroot_gt', 'dataroot_lq'):
        root = dataset.get(key)
        if root is None:
            continue
        if not isinstance(root, str):
            raise InputError(f"'{name}.{key}' is {root!r}; it must be the path of a folder.")
        if not Path(root).is_dir():
            raise InputError(f"'{name}.{key}': {root} does not exist (looked from {Path.cwd()}). "
                             'Set it to your data; BasicSR keeps datasets under datasets/.')
        if backend == 'lmdb':
            sizes[key] = read_lmdb_meta(f'{name}.{key}', root)
            num_images[key] = len(sizes[key])
        elif dataset.get('meta_info_file') is None:
            flat = dataset['type'] in FLAT_DATASETS
            num_images[key] = _count_images(root, recursive=not flat)
            if not num_images[key]:
                raise InputError(f"'{name}.{key}': no images found in {root}{' itself' if flat else ''}.")
    meta_info_file = dataset.get('meta_info_file')
    if meta_info_file is not None and not Path(str(meta_info_file)).is_file():
        raise InputError(f"'{name}.meta_info_file': {meta_info_file} does not exist.")
    scale = opt.get('scale')
    if scale is not None and len(sizes) == 2 and dataset['type'] == 'PairedImageDataset':
        _check_pairs(name, sizes['dataroot_gt'], sizes['dataroot_lq'], scale)
    if dataset.get('phase') == 'train' and dataset['type'] in FLAT_DATASETS:
        _check_training_set(name, dataset, scale, sizes.get('dataroot_gt', {}), min(num_images.values(), default=None))


def read_lmdb_meta(name: str, root: str) -> dict[str, tuple[int, int]]:
    """{key: (height, width)} from BasicSR's meta_info.txt of an LMDB."""
    for file in ('data.mdb', 'meta_info.txt'):
        if not (Path(root) / file).is_file():
            raise InputError(f"'{name}': {root} is not an LMDB as BasicSR makes it: {file} is missing.")
    if not root.endswith('.lmdb'):
        raise InputError(f"'{name}': {root} must end with .lmdb, or BasicSR does not take it as an LMDB.")
    sizes = {}
    for line in (Path(root) / 'meta_info.txt').read_text().splitlines():
        match = re.match(r'(\S+?)\.\w+ \((\d+),(\d+)(?:,\d+)?\)', line)
        if match:
            sizes[match.group(1)] = (int(match.group(2)), int(match.group(3)))
    if not sizes:
        raise InputError(f"'{name}': no images found in {root} (meta_info.txt lists none).")
    return sizes


def _count_images(root: str, recursive: bool) -> int:
    paths = Path(root).rglob('*') if recursive else Path(root).iterdir()
    return sum(path.suffix.lower() in IMAGE_ENDINGS for path in paths)


def _check_pairs(name, gt_sizes, lq_sizes, scale):
    if gt_sizes.keys() != lq_sizes.keys():
        odd = sorted(gt_sizes.keys() ^ lq_sizes.keys())
        raise InputError(f"'{name}': dataroot_gt and dataroot_lq do not hold the same keys; "
                         f'{odd[:3]} stand in one only.')
    for key, (h, w) in gt_sizes.items():
        lq_h, lq_w = lq_sizes[key]
        if (h, w) != (lq_h * scale, lq_w * scale):
            raise InputError(f"'{name}': image {key} is {h}x{w} in dataroot_gt and {lq_h}x{lq_w} in dataroot_lq; "
                             f'at scale {scale} HR must be {lq_h * scale}x{lq_w * scale}.')


def _check_training_set(name, dataset, scale, gt_sizes, num_images):
    require(name, dataset, ('gt_size', 'batch_size_per_gpu', 'num_worker_per_gpu', 'use_hflip', 'use_rot'))
    gt_size = dataset['gt_size']
    if isinstance(gt_size, bool) or not isinstance(gt_size, int) or gt_size <= 0 or gt_size % (scale or 1):
        raise InputError(f"'{name}.gt_size' is {gt_size!r}; HR patches must be a multiple of the scale {scale}.")
    for key, (h, w) in gt_sizes.items():
        if min(h, w) < gt_size:
            raise InputError(f"'{name}.gt_size' is {gt_size}, but image {key} is {h}x{w}; take smaller patches.")
    batch_size, ratio = dataset['batch_size_per_gpu'], dataset.get('dataset_enlarge_ratio', 1)
    if num_images is not None and num_images * ratio < batch_size:
        raise InputError(f"'{name}' has {num_images} images, fewer than a batch of {batch_size}, so nothing would be "
                         'trained; set dataset_enlarge_ratio to repeat them, or take a smaller batch_size_per_gpu.')
