"""Datasets of an option file are looked at before training: folders, LMDBs, sizes of pairs and patches."""
import os
from pathlib import Path

import torch
from basicsr.utils import FileClient
from basicsr.utils.registry import DATASET_REGISTRY

from hcflow_arch import InputError
from hcflow_model.data.listing import images_in_file, images_in_folder, images_in_lmdb, words_in_file
from hcflow_model.data.lmdb import reading
from hcflow_model.data.mixture import blocks_of
from hcflow_model.data.pairs import paired_paths, pairs_in_file
from hcflow_model.images.files import IMAGE_ENDINGS
from hcflow_model.images.png import png_size
from hcflow_model.utils.registries import is_known

from . import schema as option_schema
from .rules import check_block, check_type, named, require

FLAT_DATASETS = ('PairedImageDataset', 'SingleImageDataset', 'HROnlyDataset')  # they do not look into subfolders
ROOTS_OF = {'PairedImageDataset': ('dataroot_gt', 'dataroot_lq'), 'SingleImageDataset': ('dataroot_lq',),
            'HROnlyDataset': ('dataroot_gt',)}  # the first is that of the meta_info_file
NUM_SIZES = 100  # sizes of an LMDB that are compared with its meta_info.txt: each costs a read


def check_dataset(name: str, dataset: dict, opt: dict) -> None:
    """Check one block of `datasets`.

    Args:
        name (str): Its place, such as 'datasets.train', for messages.
        dataset (dict): The block.
        opt (dict): All options.

    Raises:
        InputError: A folder or LMDB that is missing or empty, pairs or patches that do not fit the scale.
    """
    blocks = blocks_of(name, dataset)
    for block in blocks:
        if block.get('batch_size_per_gpu'):
            block['batch_size_per_gpu'] = 1  # all folders together fill a batch
        check_dataset(name, block, opt)
    if blocks:
        return
    if dataset['type'] in FLAT_DATASETS:  # BasicSR takes some empty keys for given
        for key in [key for key, value in dataset.items() if value is None]:
            del dataset[key]
    _check_loading(name, dataset)
    foreign = not is_known(dataset['type'], DATASET_REGISTRY)
    backend = _check_backend(f'{name}.io_backend', dataset.get('io_backend'), foreign)
    if foreign:
        return  # its folders may be files, its images arrays
    if dataset['type'] in FLAT_DATASETS:
        require(name, dataset, ('io_backend', *ROOTS_OF[dataset['type']]), option_schema.DATASET)
        require(f'{name}.io_backend', dataset['io_backend'], ('type',))
    sizes, num_images = {}, {}
    for key in ('dataroot_gt', 'dataroot_lq'):
        root = dataset.get(key)
        if root is None:
            continue
        if not os.path.isdir(root):
            raise InputError(f"'{name}.{key}': {root or 'an empty name'} does not exist (looked from {Path.cwd()}). "
                             'Set it to your data; BasicSR keeps datasets under datasets/.')
        if backend == 'lmdb':
            sizes[key] = read_lmdb_meta(f'{name}.{key}', root)
            num_images[key] = len(sizes[key])
        elif dataset.get('meta_info_file') is None:
            flat = dataset['type'] in FLAT_DATASETS
            num_images[key] = len(images_in_folder(root)) if flat else _has_images(root)
            if not num_images[key]:
                raise InputError(f"'{name}.{key}': no images found in {root}{' itself' if flat else ''}.")
    for key in ('meta_info_file', 'meta_info'):
        if isinstance(dataset.get(key), str):
            num_listed = _check_meta_info_file(f'{name}.{key}', dataset, dataset[key], backend)
            num_images.update({'listed': num_listed} if num_listed else {})
    scale, in_training = opt.get('scale'), dataset.get('phase') == 'train'
    if not sizes and dataset['type'] == 'PairedImageDataset':
        _check_partners(name, dataset, in_training)
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
    with named(name):
        sizes = images_in_lmdb(root)
    if not sizes:
        raise InputError(f"'{name}': no images found in {root} (meta_info.txt lists none).")
    with named(name), reading(root) as transaction:
        for number, (key, size) in enumerate(sizes.items()):
            content = transaction.get(os.fsencode(key))
            if content is None:
                raise InputError(f'LMDB {root} has no {key!r}, which its meta_info.txt lists. Make it again.')
            found = png_size(content) if number < NUM_SIZES else None
            if found not in (None, size):
                raise InputError(f'image {key} of {root} is {found[0]}x{found[1]}; its meta_info.txt says '
                                 f'{size[0]}x{size[1]}. Make it again.')
    return sizes


def _check_backend(name, block, foreign):
    """Its keys are arguments of a backend. BasicSR's for memcached would import `mc` from a folder that they name.

    Returns:
        The type, or None.
    """
    if block is None:
        return None
    check_type(name, block, dict)
    kind = block.get('type')
    backend = FileClient._backends.get(kind) if isinstance(kind, str) else None
    if backend is None and foreign:
        return None  # not for BasicSR's FileClient
    if backend is None or kind == 'memcached':
        raise InputError(f"'{name}.type' is {kind!r}; allowed are disk and lmdb.")
    if backend.__module__.partition('.')[0] in ('basicsr', 'hcflow_model'):
        check_block(name, block, option_schema.IO_BACKENDS[kind])
    return kind


def _check_loading(name, dataset):
    if dataset.get('prefetch_mode') == 'cuda' and not (torch.cuda.is_available() and dataset.get('pin_memory') is True):
        raise InputError(f"'{name}.prefetch_mode' is 'cuda', which needs a GPU and pin_memory: true.")
    workers = dataset.get('num_worker_per_gpu', 0) if dataset.get('phase') == 'train' else 0
    if dataset.get('persistent_workers') and not workers:
        why = 'num_worker_per_gpu is 0' if dataset.get('phase') == 'train' else 'validation has no workers'
        raise InputError(f"'{name}.persistent_workers' is true, but {why}, so there are none to keep; remove it.")
    template = dataset.get('filename_tmpl')
    if template is None:
        return
    check_type(f'{name}.filename_tmpl', template, str)
    if template.count('{}') != 1 or template.count('{') + template.count('}') != 2:
        raise InputError(f"'{name}.filename_tmpl' is {template!r}; it must hold one {{}}, which is the name of the HR "
                         "image, such as '{}x4'.")
    if '/' in template or '\\' in template or '\0' in template:
        raise InputError(f"'{name}.filename_tmpl' is {template!r}, which leads out of dataroot_lq; it must be the name "
                         "of a file without slashes, such as '{}x4'.")


def _check_meta_info_file(name, dataset, file, backend):
    """Its names must be files of the folder: BasicSR joins whatever they are to its path. Returns their number."""
    if not Path(file).is_file():
        raise InputError(f"'{name}': {file} does not exist.")
    flat = dataset['type'] in FLAT_DATASETS
    if backend == 'lmdb' and flat:
        return None  # it is not read
    with named(name):
        names = images_in_file(file) if flat else words_in_file(file)
    if not names:
        raise InputError(f"'{name}': {file} lists no images.")
    root = dataset[ROOTS_OF[dataset['type']][0]] if flat else 'its folder'
    for image in names:
        if os.path.isabs(image) or '..' in Path(image).parts:
            raise InputError(f"'{name}': {file} lists {image!r}, which leads out of {root}; its names must lie in the "
                             'folder.')
        if flat and not (Path(root) / image).is_file():
            raise InputError(f"'{name}': {file} lists {image!r}, which is not in {root}.")
    return len(names) if flat else None


def _has_images(root: str) -> bool:
    return any(path.suffix.lower() in IMAGE_ENDINGS for path in Path(root).rglob('*'))


def _check_partners(name, dataset, in_training):
    """In training one image without the other is refused, in validation only if none is whole."""
    roots, template = [dataset['dataroot_lq'], dataset['dataroot_gt']], dataset.get('filename_tmpl', '{}')
    files = {os.path.join(root, file) for root in roots for file in images_in_folder(root)}
    listed = dataset.get('meta_info_file')
    pairs = paired_paths(roots, ['lq', 'gt'], template) if listed is None else pairs_in_file(
        roots, ['lq', 'gt'], listed, template)
    exists = files.__contains__ if listed is None else os.path.isfile  # a list may name files in subfolders
    alone = [sorted(pair.values(), key=exists) for pair in pairs if not all(map(exists, pair.values()))]
    if not alone or not in_training and len(alone) < len(pairs):
        return
    missing, found = alone[0]
    same = [file for file in files if os.path.splitext(file)[0] == os.path.splitext(missing)[0]]
    advice = (f'There is {same[0]}: HR and LR files must have the same ending; convert those of one folder.' if same
              else "Add it, take the file out, or set filename_tmpl where LR files are called otherwise ('{}x4').")
    raise InputError(f"'{name}': {found} has no partner {missing} ({len(alone)} of {len(pairs)} have none). {advice}")


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
