"""Pairs of LR and HR images: of folders, also where one of the two is missing, of a meta_info_file, and of LMDBs."""
from os import path as osp

from hcflow_arch.errors import InputError

from .listing import images_in_file, images_in_folder, images_in_lmdb


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
    gt_names = set(images_in_folder(gt_folder))
    pairs = _pairs_of(sorted(gt_names), folders, keys, filename_tmpl)
    alone = set(images_in_folder(lq_folder)) - {osp.basename(pair[lq_key]) for pair in pairs}
    before, _, after = filename_tmpl.partition('{}')
    for lq_name in sorted(alone):
        stem, ending = osp.splitext(lq_name)
        gt_name = f'{stem.removeprefix(before).removesuffix(after)}{ending}'
        if gt_name not in gt_names:  # else that has another partner by the template
            pairs.append({lq_key: osp.join(lq_folder, lq_name), gt_key: osp.join(gt_folder, gt_name)})
    return pairs


def pairs_in_file(folders: list[str], keys: list[str], meta_info_file: str, filename_tmpl: str) -> list[dict[str, str]]:
    """BasicSR's `paired_paths_from_meta_info_file`, which also takes tabs and blank lines."""
    return _pairs_of(images_in_file(meta_info_file), folders, keys, filename_tmpl)


def pairs_in_lmdbs(folders: list[str], keys: list[str]) -> list[dict[str, str]]:
    """BasicSR's `paired_paths_from_lmdb`, which also takes blank lines.

    Raises:
        InputError: The two do not hold the same keys.
    """
    names, others = (images_in_lmdb(folder).keys() for folder in folders)
    if names != others:
        raise InputError(f'{folders[0]} and {folders[1]} do not hold the same keys; {sorted(names ^ others)[:3]} are '
                         'in one only.')
    return [{f'{key}_path': name for key in keys} for name in sorted(names)]


def _pairs_of(gt_names, folders, keys, filename_tmpl):
    pairs = []
    for gt_name in gt_names:
        stem, ending = osp.splitext(osp.basename(gt_name))
        names = f'{filename_tmpl.format(stem)}{ending}', gt_name
        pairs.append({f'{key}_path': osp.join(folder, name)
                      for key, folder, name in zip(keys, folders, names, strict=True)})
    return pairs
