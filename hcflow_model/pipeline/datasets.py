"""How BasicSR's pipelines build datasets: errors name files, and a pair without one half does not stop a validation."""
from collections.abc import Callable

import basicsr.data
from basicsr.data import paired_image_dataset, prefetch_dataloader
from basicsr.utils.registry import DATASET_REGISTRY
from torch.utils.data import Dataset

from hcflow_arch import InputError
from hcflow_model.data.errors import NamedErrors, is_over_data
from hcflow_model.data.pairs import paired_paths
from hcflow_model.utils.errors import error_text

from .repairs import replaced


def dataset_builder(whole_pairs: bool, check: Callable[[Dataset], None] | None = None) -> Callable[[dict], Dataset]:
    """What takes the place of BasicSR's `build_dataset`, which refuses folders where one image has no partner.

    In training that stays so. In validation and tests such a pair is part of the dataset: reading it fails, as that of
    a broken image does. The pairs are sorted, so that their order is the same on every machine.

    Args:
        whole_pairs: Refuse them in validation, too: for models whose validation cannot leave an image out.
        check: Called with each dataset that is not for training. Default: none.

    Returns:
        A function of a block of `datasets`.
    """
    def build(dataset_opt):
        lenient = not whole_pairs and dataset_opt['phase'] != 'train'
        pairs = (paired_image_dataset, 'paired_paths_from_folder', paired_paths)
        try:
            with replaced([pairs] if lenient else []):
                dataset = NamedErrors(basicsr.data.build_dataset(dataset_opt))
        except (OSError, ValueError, AssertionError, KeyError) as error:
            if isinstance(error, InputError) or not is_over_data(error, DATASET_REGISTRY.get(dataset_opt['type'])):
                raise
            raise InputError(f'Dataset {dataset_opt["name"]}: {error_text(error)}') from error
        if check is not None and dataset_opt['phase'] != 'train':
            check(dataset)
        return dataset
    return build


class PrefetchGenerator(prefetch_dataloader.PrefetchGenerator):
    """BasicSR's (data/prefetch_dataloader.py) waits for ever once reading has failed in its thread."""

    def run(self):
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(None)
        except Exception as error:  # whatever it is: the thread that trains raises it
            self.queue.put(error)

    def __next__(self):
        item = super().__next__()
        if isinstance(item, Exception):
            raise item
        return item
