"""HR images without LR partners: all that image rescaling needs."""
import random
from os import path as osp

import numpy as np
from basicsr.data.transforms import augment
from basicsr.utils import FileClient, imfrombytes, img2tensor
from torch.utils.data import Dataset

from hcflow_arch import InputError

from .listing import images_in_file, images_in_folder, images_in_lmdb


class HROnlyDataset(Dataset):
    """Reads HR images alone; HCFlowRescalingModel makes the bicubic LR images that guide it.

    Args:
        opt (dict): Config of the dataset, with BasicSR's keys:
            dataroot_gt (str): Folder of images, or LMDB.
            meta_info_file (str, optional): File whose lines begin with the names of the images to use (disk only).
                Default: all images of the folder.
            io_backend (dict): {type: disk} or {type: lmdb}.
            gt_size (int): Side of the random crops in pixels (training only).
            use_hflip (bool): Flip at random (training only).
            use_rot (bool): Also flip vertically and transpose at random (training only).
            phase (str): 'train', 'val' or 'test'; BasicSR adds it.

    Raises:
        InputError: A missing key, or no image.
    """

    def __init__(self, opt):
        self.opt = opt
        self.is_train = opt['phase'] == 'train'
        for key in ('dataroot_gt', 'io_backend', *(('gt_size', 'use_hflip', 'use_rot') if self.is_train else ())):
            if opt.get(key) is None:
                raise InputError(f"Dataset {opt.get('name')} of type HROnlyDataset has no '{key}'; give it.")
        self.file_client = None  # opened by the worker that reads: an open LMDB cannot be handed to another process
        self.io_backend_opt = dict(opt['io_backend'])
        self.gt_folder = opt['dataroot_gt']
        self.paths = self._find_paths()
        if not self.paths:
            raise InputError(f'Dataset {opt.get("name")}: no images found in {self.gt_folder}.')

    def _find_paths(self):
        if self.io_backend_opt['type'] == 'lmdb':
            self.io_backend_opt.update(db_paths=[self.gt_folder], client_keys=['gt'])
            return list(images_in_lmdb(self.gt_folder))
        listed = self.opt.get('meta_info_file')
        names = sorted(images_in_folder(self.gt_folder)) if listed is None else images_in_file(listed)
        return [osp.join(self.gt_folder, name) for name in names]

    def __getitem__(self, index: int) -> dict:
        """Get an image.

        Returns:
            dict: gt (3, H, W), RGB, float32 in [0, 1], a square of gt_size in training; gt_path, its file or LMDB key.

        Raises:
            InputError: The image cannot be read, or is smaller than gt_size.
        """
        gt_path = self.paths[index]
        img_gt = self._read(gt_path)
        if self.is_train:
            img_gt = augment(self._random_crop(img_gt, gt_path), self.opt['use_hflip'], self.opt['use_rot'])
        return {'gt': img2tensor(img_gt, bgr2rgb=True, float32=True), 'gt_path': gt_path}

    def _read(self, gt_path):
        """(H, W, 3), BGR, float32 in [0, 1]."""
        if self.file_client is None:
            kwargs = {key: value for key, value in self.io_backend_opt.items() if key != 'type'}
            self.file_client = FileClient(self.io_backend_opt['type'], **kwargs)
        try:
            img_bytes = self.file_client.get(gt_path, 'gt')
        except OSError as error:
            raise InputError(f'Image {gt_path} cannot be read: {error.strerror}.') from error
        img_gt = imfrombytes(img_bytes) if img_bytes else None  # None also where the bytes are no image
        if img_gt is None:
            raise InputError(f'Image {gt_path} (dataroot_gt: {self.gt_folder}) is missing, broken or no image; '
                             'replace it or take it out.')
        return img_gt.astype(np.float32) / 255.

    def _random_crop(self, img_gt, gt_path):
        gt_size = self.opt['gt_size']
        height, width = img_gt.shape[:2]
        if min(height, width) < gt_size:
            raise InputError(f'Image {gt_path} (dataroot_gt: {self.gt_folder}) is {height}x{width}, smaller than '
                             f'gt_size {gt_size}; take smaller patches or leave it out.')
        top, left = random.randint(0, height - gt_size), random.randint(0, width - gt_size)
        return img_gt[top:top + gt_size, left:left + gt_size]

    def __len__(self):
        return len(self.paths)
