"""Pairs of LR and HR files, also those of which one file is missing."""
from os import path as osp

from .listing import images_in_folder


def paired_paths(folders: list[str], keys: list[str], filename_tmpl: str) -> list[dict[str, str]]:
    """BasicSR's `paired_paths_from_folder` (data/data_util.py), sorted, and with pairs of which one file is missing.

    Args:
        folders: [LR folder, HR folder].
        keys: ['lq', 'gt'].
        filename_tmpl: LR file name of an HR file's, both without ending, such as '{}x4'.

    Returns:
        [{'lq_path': ..., 'gt_path': ...}], LR files without HR files last.
    """
    (lq_folder, gt_folder), (lq_key, gt_key) = folders, [f'{key}_path' for key in keys]
    alone, pairs = set(images_in_folder(lq_folder)), []
    for gt_name in sorted(images_in_folder(gt_folder)):
        stem, ending = osp.splitext(osp.basename(gt_name))
        lq_name = f'{filename_tmpl.format(stem)}{ending}'
        alone.discard(lq_name)
        pairs.append({lq_key: osp.join(lq_folder, lq_name), gt_key: osp.join(gt_folder, gt_name)})
    before, _, after = filename_tmpl.partition('{}')
    for lq_name in sorted(alone):
        stem, ending = osp.splitext(lq_name)
        gt_name = f'{stem.removeprefix(before).removesuffix(after)}{ending}'
        pairs.append({lq_key: osp.join(lq_folder, lq_name), gt_key: osp.join(gt_folder, gt_name)})
    return pairs
