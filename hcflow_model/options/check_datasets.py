"""Datasets of an option file are looked at before training: folders, LMDBs, sizes of pairs and patches."""
import os
import re
from pathlib import Path

import torch
from basicsr.utils import scandir
from basicsr.utils.registry import DATASET_REGISTRY

from hcflow_arch import InputError
from hcflow_model.data.lmdb import open_lmdb
from hcflow_model.data.pairs import paired_paths
from hcflow_model.images.files import IMAGE_ENDINGS
from hcflow_model.images.png import png_size
from hcflow_model.utils.registries import is_known

from . import schema as option_schema
from .rules import require

FLAT_DATASETS = ('PairedImageDataset', 'SingleImageDataset', 'HROnlyDataset')  # they do not look into subfolders
ROOTS_OF = {'PairedImageDataset': ('dataroot_gt', 'dataroot_lq'), 'SingleImageDataset': ('dataroot_lq',),
            'HROnlyDataset': ('dataroot_gt',)}  # the first is that of the meta_info_file
NUM_SIZES = 100  # so many sizes in an LMDB are compared with its meta_info.txt: each costs a read


def check_dataset(name: str, dataset: dict, opt: dict) -> None:
    """Check one block of `datasets`.

    Args:
        name (str): Its place, such as 'datasets.train', for messages.
        dataset (dict): The block.
        opt (dict): All options.

    Raises:
        InputError: A folder or LMDB that is missing or empty, pairs or patches that do not fit the scale.
    """
    if dataset['type'] in FLAT_DATASETS:  # BasicSR takes some keys that stand there empty for given
        for key in [key for key, value in dataset.items() if value is None]:
            del dataset[key]
    _check_loading(name, dataset)
    if not is_known(dataset['type'], DATASET_REGISTRY):
        return  # its folders may be files, its images arrays
    backend = (dataset.get('io_backend') or {}).get('type')
    if backend not in (None, 'disk', 'lmdb', 'memcached'):
        raise InputError(f"'{name}.io_backend.type' is {backend!r}; allowed are disk, lmdb and memcached.")
    if dataset['type'] in FLAT_DATASETS:
        require(name, dataset, ('io_backend', *ROOTS_OF[dataset['type']]), option_schema.DATASET)
        require(f'{name}.io_backend', dataset['io_backend'], ('type',))
    sizes, num_images = {}, {}
    for key in ('dataroot_gt', 'dataroot_lq'):
        root = dataset.get(key)
        if root is None:
            continue
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
    if dataset.get('meta_info_file') is not None:
        _check_meta_info_file(name, dataset, backend)
    scale, in_training = opt.get('scale'), dataset.get('phase') == 'train'
    if in_training and len(num_images) == 2 and not sizes and dataset['type'] == 'PairedImageDataset':
        _check_partners(name, dataset)
    if scale is not None and len(sizes) == 2 and dataset['type'] == 'PairedImageDataset':
        _check_pairs(name, sizes['dataroot_gt'], sizes['dataroot_lq'], scale)
    if in_training and dataset['type'] in FLAT_DATASETS:
        _check_training_set(name, dataset, scale, sizes.get('dataroot_gt', {}), min(num_images.values(), default=None))


def read_lmdb_meta(name: str, root: str) -> dict[str, tuple[int, int]]:
    """{key: (height, width)} from BasicSR's meta_info.txt of an LMDB, after comparing it with the images.

    Raises:
        InputError: No LMDB as BasicSR makes it, a broken one, or one that its meta_info.txt does not describe.
    """
    for file in ('data.mdb', 'meta_info.txt'):
        if not (Path(root) / file).is_file():
            raise InputError(f"'{name}': {root} is not an LMDB as BasicSR makes it: {file} is missing.")
    if not root.endswith('.lmdb'):
        raise InputError(f"'{name}': {root} must end with .lmdb, or BasicSR does not take it as an LMDB.")
    sizes = {}
    for number, line in enumerate(_lines(name, Path(root) / 'meta_info.txt'), 1):
        match = re.match(r'([^.\s]+)\.\S+ \((\d+),(\d+)(?:,\d+)?\)', line)
        if not match:
            raise InputError(f"'{name}': line {number} of meta_info.txt in {root} is {line[:80]!r}; it must be as "
                             "'baboon.png (480,500,3) 1', without a dot in the name.")
        if match.group(1) in sizes:
            raise InputError(f"'{name}': meta_info.txt in {root} lists {match.group(1)} twice.")
        sizes[match.group(1)] = (int(match.group(2)), int(match.group(3)))
    if not sizes:
        raise InputError(f"'{name}': no images found in {root} (meta_info.txt lists none).")
    with open_lmdb(root).begin(buffers=True) as transaction:
        for number, (key, size) in enumerate(sizes.items()):
            content = transaction.get(key.encode())
            if content is None:
                raise InputError(f"'{name}': LMDB {root} has no {key!r}, which its meta_info.txt lists. Make it again.")
            found = png_size(content) if number < NUM_SIZES else None
            if found not in (None, size):
                raise InputError(f"'{name}': image {key} of {root} is {found[0]}x{found[1]}; its meta_info.txt says "
                                 f'{size[0]}x{size[1]}. Make it again.')
    return sizes


def _lines(name, path):
    try:
        return [line for line in path.read_text(encoding='utf-8').splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is not text'
        raise InputError(f"'{name}': {path} cannot be read: {reason}.") from error


def _check_loading(name, dataset):
    mode = dataset.get('prefetch_mode')
    if mode not in (None, 'cpu', 'cuda'):
        raise InputError(f"'{name}.prefetch_mode' is {mode!r}; allowed are cpu, cuda and ~.")
    if mode == 'cuda' and not (torch.cuda.is_available() and dataset.get('pin_memory') is True):
        raise InputError(f"'{name}.prefetch_mode' is 'cuda', which needs a GPU and pin_memory: true.")
    template = dataset.get('filename_tmpl')
    if template is not None and (template.count('{}') != 1 or template.count('{') + template.count('}') != 2):
        raise InputError(f"'{name}.filename_tmpl' is {template!r}; it must hold one {{}}, which is the name of the HR "
                         "image, such as '{}x4'.")


def _check_meta_info_file(name, dataset, backend):
    """Its names must be files of the folder: BasicSR joins whatever stands there to the path."""
    meta_info_file = dataset['meta_info_file']
    if not Path(meta_info_file).is_file():
        raise InputError(f"'{name}.meta_info_file': {meta_info_file} does not exist.")
    if backend == 'lmdb' or dataset['type'] not in FLAT_DATASETS:
        return
    root = dataset[ROOTS_OF[dataset['type']][0]]
    names = [line.split()[0] for line in _lines(f'{name}.meta_info_file', Path(meta_info_file))]
    if not names:
        raise InputError(f"'{name}.meta_info_file': {meta_info_file} lists no images.")
    for image in names:
        if os.path.isabs(image) or '..' in Path(image).parts:
            raise InputError(f"'{name}.meta_info_file': {meta_info_file} lists {image!r}, which leads out of {root}; "
                             'its names must lie in the folder.')
        if not (Path(root) / image).is_file():
            raise InputError(f"'{name}.meta_info_file': {meta_info_file} lists {image!r}, which is not in {root}.")


def _count_images(root: str, recursive: bool) -> int:
    paths = Path(root).rglob('*') if recursive else Path(root).iterdir()
    return sum(path.suffix.lower() in IMAGE_ENDINGS for path in paths)


def _check_partners(name, dataset):
    """In training one image without the other is refused; BasicSR would name neither."""
    roots = [dataset['dataroot_lq'], dataset['dataroot_gt']]
    files = {os.path.join(root, file) for root in roots for file in scandir(root)}
    pairs = paired_paths(roots, ['lq', 'gt'], dataset.get('filename_tmpl', '{}'))
    alone = [sorted(pair.values(), key=files.__contains__) for pair in pairs if not files.issuperset(pair.values())]
    if alone:
        missing, found = alone[0]
        raise InputError(f"'{name}': {found} has no partner {missing} ({len(alone)} of {len(pairs)} have none). Add "
                         "it, take the file out, or set filename_tmpl where LR files are called otherwise ('{}x4').")


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
    if gt_size % (scale or 1):
        raise InputError(f"'{name}.gt_size' is {gt_size!r}; HR patches must be a multiple of the scale {scale}.")
    for key, (h, w) in gt_sizes.items():
        if min(h, w) < gt_size:
            raise InputError(f"'{name}.gt_size' is {gt_size}, but image {key} is {h}x{w}; take smaller patches.")
    batch_size, ratio = dataset['batch_size_per_gpu'], dataset.get('dataset_enlarge_ratio', 1)
    if num_images is not None and num_images * ratio < batch_size:
        raise InputError(f"'{name}' has {num_images} images, fewer than a batch of {batch_size}, so nothing would be "
                         'trained; set dataset_enlarge_ratio to repeat them, or take a smaller batch_size_per_gpu.')
