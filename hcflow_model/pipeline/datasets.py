"""How BasicSR's pipelines build datasets: errors name files, and a pair without one half does not stop a validation."""
import math
import os
import queue
import threading
from collections.abc import Callable

import basicsr.data
from basicsr.data import data_util, paired_image_dataset, prefetch_dataloader, single_image_dataset
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import DataLoader, Dataset

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors, is_over_data
from hcflow_model.data.listing import images_in_file, images_in_folder, images_in_lmdb
from hcflow_model.data.mixture import Mixture, blocks_of
from hcflow_model.data.pairs import paired_paths, pairs_in_file, pairs_in_lmdbs
from hcflow_model.utils.errors import error_text

from .repairs import replaced

READERS = [
    (data_util, 'scandir', images_in_folder),  # for pairs in folders
    (paired_image_dataset, 'paired_paths_from_meta_info_file', pairs_in_file),
    (paired_image_dataset, 'paired_paths_from_lmdb', pairs_in_lmdbs),
    (single_image_dataset, 'scandir', lambda folder, full_path: [
        os.path.join(folder, name) for name in images_in_folder(folder)]),
    (single_image_dataset, 'paths_from_lmdb', lambda folder: list(images_in_lmdb(folder))),
]
LENIENT_READERS = [(paired_image_dataset, 'paired_paths_from_folder', paired_paths)]


def dataset_builder(whole_pairs: bool, check: Callable[[Dataset], None] | None = None) -> Callable[[dict], Dataset]:
    """What takes the place of BasicSR's `build_dataset`.

    Folders and lists of images are read as the check of the options has read them. BasicSR refuses folders where one
    image has no partner. In training that stays so. In validation and tests such a pair is part of the dataset: reading
    it fails, as that of a broken image does. The pairs are sorted, so that their order is the same on every machine.

    Args:
        whole_pairs: Refuse them in validation, too: for models whose validation cannot leave an image out.
        check: Called with each dataset that is not for training. Default: none.

    Returns:
        A function of a block of `datasets`.
    """
    def build(dataset_opt):
        lenient = not whole_pairs and dataset_opt['phase'] != 'train'
        try:
            with replaced(READERS + LENIENT_READERS if lenient else READERS):
                dataset = NamedErrors(_build(dataset_opt))
        except (OSError, ValueError, AssertionError, KeyError) as error:
            if isinstance(error, InputError) or not is_over_data(error, DATASET_REGISTRY.get(dataset_opt['type'])):
                raise
            raise InputError(f'Dataset {dataset_opt["name"]}: {error_text(error)}') from error
        if check is not None and dataset_opt['phase'] != 'train':
            check(dataset)
        return dataset
    return build


def _build(dataset_opt):
    blocks = blocks_of(f'datasets.{dataset_opt["phase"]}', dataset_opt)
    if blocks:
        return Mixture([NamedErrors(_build(block)) for block in blocks], dataset_opt, dataset_opt.get('shares'))
    listed = dataset_opt.get('meta_info_file')
    if dataset_opt['type'] != 'SingleImageDataset' or listed is None or dataset_opt['io_backend']['type'] == 'lmdb':
        return basicsr.data.build_dataset(dataset_opt)
    # its constructor reads the list itself
    dataset = basicsr.data.build_dataset({key: value for key, value in dataset_opt.items() if key != 'meta_info_file'})
    dataset.paths = [os.path.join(dataset_opt['dataroot_lq'], name) for name in images_in_file(listed)]
    return dataset


def build_dataloader(dataset: Dataset, dataset_opt: dict, **kwargs) -> DataLoader:
    """BasicSR's `build_dataloader`, which leaves an epoch without a batch: training would end at once, untrained.

    Raises:
        InputError: A process has fewer images in an epoch than a batch needs.
    """
    loader = basicsr.data.build_dataloader(dataset, dataset_opt, **kwargs)
    if dataset_opt['phase'] == 'train' and len(loader) == 0:
        ratio, processes = dataset_opt.get('dataset_enlarge_ratio', 1), get_dist_info()[1]
        shared = f' and shared among {processes} processes' if processes > 1 else ''
        raise InputError(
            f"'datasets.train': {len(dataset)} images, repeated by dataset_enlarge_ratio {ratio}{shared}, are "
            f'{len(loader.sampler)} images in an epoch, fewer than a batch of {loader.batch_size}: nothing would be '
            f'trained. Set dataset_enlarge_ratio to {math.ceil(loader.batch_size * processes / len(dataset))} or more, '
            'or take a smaller batch_size_per_gpu.')
    return loader


class PrefetchGenerator(prefetch_dataloader.PrefetchGenerator):
    """BasicSR's (data/prefetch_dataloader.py), whose thread starts when the first item is asked for, and whose errors
    are raised there: BasicSR makes two of a loader and uses the second, and waits for ever where a thread has ended."""

    def __init__(self, generator, num_prefetch_queue):
        threading.Thread.__init__(self, daemon=True)
        self.queue, self.generator = queue.Queue(num_prefetch_queue), generator

    def run(self):
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(None)
        except Exception as error:  # whatever it is: the thread that trains raises it
            self.queue.put(error)

    def __next__(self):
        if self.ident is None:
            self.start()
        item = super().__next__()
        if isinstance(item, Exception):
            raise item
        return item
