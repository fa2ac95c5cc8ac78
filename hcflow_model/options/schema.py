"""Every option that is known by name: type, limits and meaning. Checks, 'did you mean' and docs/options.md use it.

A class of your own declares its options in the same way, as a class attribute: `train_options`, `val_options`,
`logger_options` and `general_options` (the top level) on a model, `dataset_options` on a dataset:

    class MyModel(HCFlowModel):
        train_options = {'max_noise': Option((int, float), 'largest noise in grey levels', 0, 255)}
"""
from typing import NamedTuple

NUMBER = (int, float)


class Option(NamedTuple):
    """One key. `~` (None) is always allowed and means the same as leaving the key out.

    Attributes:
        types: Type of its value, or a tuple of types. True and False are not numbers.
        meaning: For messages and docs/options.md.
        minimum: Smallest value, for numbers.
        maximum: Largest value, for numbers.
        choices: All allowed values.
    """
    types: type | tuple[type, ...]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple = ()


GENERAL = {
    'name': Option(str, 'name of the run: experiments/NAME, results/NAME and tb_logger/NAME. "debug" in it switches '
                        "BasicSR's debug mode on"),
    'model_type': Option(str, 'HCFlowModel (super-resolution), HCFlowRescalingModel, or a model of BasicSR'),
    'scale': Option(int, 'ratio of HR to LR size; must equal network_g.scale', 1),
    'num_gpu': Option((int, str), 'GPUs of one process; auto: all that are visible; 0: CPU'),
    'manual_seed': Option(int, 'seed of weights, crops and noise; each process adds its rank. ~: drawn'),
    'plugins': Option(list, 'names of modules to import first, which register networks, losses and more'),
    'find_unused_parameters': Option(bool, "argument of PyTorch's DistributedDataParallel (default false)"),
    'datasets': Option(dict, 'blocks train and val, val_2, …; in tests test_1, test_2, …'),
    'network_g': Option(dict, 'the flow'),
    'network_d': Option(dict, 'the discriminator; only with train.gan_opt'),
    'path': Option(dict, 'checkpoints'),
    'train': Option(dict, 'losses, optimizers, schedule'),
    'val': Option(dict, 'validation and tests'),
    'logger': Option(dict, 'what is logged and saved, and when'),
    'dist_params': Option(dict, 'settings for several processes'),
}
ALIKE = 0.85  # an unknown key this similar to a known one is a misspelling, not an option of another package
SET_BY_COMMAND = ('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path', 'option_file', 'force_yml')

AMP = Option(str, 'bf16: mixed precision, very slow on CPUs without bf16 instructions; ~: off. fp16 is not offered: '
                  'exponents of the flow leave its range', choices=('bf16',))

DEGRADATION = Option(dict, 'super-resolution: how LR images are made where a dataset gives HR images alone, such as '
                           '{type: bicubic}')
LR_MUL = Option(dict, 'optim_g: factors of the learning rate for parts of the flow, such as {feature_net: 0.1}; '
                      'parts as in train.freeze')

TRAIN = {
    'degradation': DEGRADATION,
    'freeze': Option(list, 'parts of the flow that are not trained, as the names of its weights call them, such as '
                           '[feature_net] or [levels.0]'),
    'ema_decay': Option(NUMBER, 'decay of the exponential moving average of the weights; 0: none', 0, 1),
    'optim_g': Option(dict, 'optimizer of the flow, such as {type: Adam, lr: !!float 2.5e-4}'),
    'optim_d': Option(dict, 'optimizer of the discriminator'),
    'scheduler': Option(dict, 'learning-rate schedule of BasicSR'),
    'total_iter': Option(int, 'number of iterations', 1, 10 ** 9),
    'warmup_iter': Option(int, 'iterations of linear warm-up; -1: none', -1),
    'nll_opt': Option(dict, 'negative log-likelihood (SR): {type: NLLLoss, loss_weight: 1.0}'),
    'pixel_opt': Option(dict, 'pixel loss of the decoded image (SR: at temperature 0; rescaling: at '
                              'train.temperature)'),
    'perceptual_opt': Option(dict, "perceptual loss, such as BasicSR's PerceptualLoss"),
    'gan_opt': Option(dict, 'GAN loss: GANLoss or RelativisticGANLoss; needs network_d and optim_d'),
    'lq_opt': Option(dict, 'rescaling: pixel loss between the downscaled image and the bicubic one'),
    'latent_opt': Option(dict, 'rescaling: {type: LatentLoss, loss_weight: !!float 1e-5}'),
    'compression': Option(dict, 'rescaling: downscaled images are compressed before they are restored'),
    'net_d_iters': Option(int, 'update the flow every N iterations', 1),
    'net_d_init_iters': Option(int, 'iterations at the start in which only the discriminator is trained', 0),
    'temperature': Option(NUMBER, 'temperature of perceptual and GAN losses (default 0.9; rescaling: 1)', 0),
    'accumulate': Option(int, 'split each batch of the flow into N parts to save memory; gradients are summed. The '
                              'discriminator takes the whole batch', 1),
    'amp': AMP,
    'cuda_graph': Option(bool, 'launch all kernels of an update at once: faster where a GPU waits for the CPU '
                               '(default false)'),
    'grad_clip_value': Option(NUMBER, 'clip every gradient value of the flow to this; 0 or ~: off', 0),
    'grad_clip_norm': Option(NUMBER, 'then clip the norm over all parameters to this; 0 or ~: off', 0),
    'max_nonfinite': Option(int, 'stop after N iterations in a row with NaN or infinite values (default 20)', 1),
}

JPEG_QUALITY = Option(int, 'quality of a JPEG file', 1, 100)
COMPRESSION = {
    'type': Option(str, 'how images are compressed', choices=('jpeg',)),
    'quality': Option(list, 'lowest and highest quality, whole numbers from 1 to 100; each image gets one between them '
                            'at random (default [50, 95])'),
    'prob': Option(NUMBER, 'share of the images that are compressed; the others are rounded to 8 bits alone '
                           '(default 0.8)', 0, 1),
}

VAL = {
    'degradation': DEGRADATION._replace(meaning='the same in validation and tests, by a fixed seed of each image '
                                                '(default: that of train)'),
    'val_freq': Option(NUMBER, 'validate every N iterations', 1),
    'save_img': Option(bool, 'save every sample'),
    'pbar': Option(bool, 'show a progress bar with image name and remaining time'),
    'suffix': Option(str, 'added to the names of saved images in tests'),
    'metrics': Option(dict, '{name: {type: calculate_psnr, …}, …}; the nll is always reported where HR is known'),
    'temperatures': Option(list, 'sampling temperatures (default 0 and 0.9; rescaling 1 and 0)'),
    'num_samples': Option(int, 'samples per image at each temperature above 0 (default 1)', 1, 10_000),
    'seed': Option(int, 'seed of the noise; ~: other noise each time', 0),
    'refine': Option(int, 'rescaling: refine small images by N steps of gradient descent (default 0)', 0),
    'self_ensemble': Option(bool, 'samples at temperature 0 are the mean over the eight flips and turns of the image '
                                  '(default false)'),
    'tile': Option(int, 'largest side, in LR pixels, that is decoded at once; larger images are tiled. ~: whole '
                        'images', 16),
    'amp': AMP,
    'bicubic': Option(bool, 'also report bicubic upsampling (default false; with compression true)'),
    'compression': Option(list, 'rescaling: qualities of JPEG files, and ~ for PNG, in which the downscaled images are '
                                'stored before they are restored; each is a row of the report, with bits per pixel of '
                                'the file'),
    'sheets': Option(int, 'draw a sheet of the first N images of each test set (default 10; 0: none)', 0),
}

PATH = {
    'pretrain_network_g': Option(str, 'checkpoint of the flow, ours or released, or the name of a released network'),
    'param_key_g': Option(str, 'params (default), or params_ema, which the hcflow commands take'),
    'strict_load_g': Option(bool, 'refuse a checkpoint whose names or shapes differ'),
    'pretrain_network_d': Option(str, 'checkpoint of the discriminator'),
    'param_key_d': Option(str, 'params'),
    'strict_load_d': Option(bool, 'refuse a checkpoint whose names or shapes differ'),
    'resume_state': Option(str, 'training state to resume from'),
    'ignore_resume_networks': Option(list, 'networks that keep their pretrained weights when training resumes'),
}
PATHS_OF_BASICSR = ('experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root')
NO_FOLDERS = ('pretrain_network', 'param_key', 'strict_load', 'resume')  # BasicSR makes a folder of any other path

LOGGER = {
    'print_freq': Option(NUMBER, 'log every N iterations', 1),
    'save_checkpoint_freq': Option(NUMBER, 'save every N iterations', 1),
    'use_tb_logger': Option(bool, 'write tensorboard files to tb_logger/'),
    'wandb': Option(dict, 'Weights and Biases: {project: …, resume_id: …}'),
}

WANDB = {
    'project': Option(str, 'name of the project; ~: no Weights and Biases. Needs use_tb_logger'),
    'resume_id': Option(str, 'id of the run to continue'),
}

# of HCFlowRealModel, as BasicSR's RealESRGANModel has them
_PASS = {
    'resize_prob': Option(list, 'first pass: weights of enlarging, shrinking, and keeping the size'),
    'resize_range': Option(list, 'first pass: smallest and largest factor of the size'),
    'gaussian_noise_prob': Option(NUMBER, 'first pass: share of Gaussian noise; the rest is Poisson noise', 0, 1),
    'noise_range': Option(list, 'first pass: standard deviation of Gaussian noise in grey levels'),
    'poisson_scale_range': Option(list, 'first pass: factor of Poisson noise'),
    'gray_noise_prob': Option(NUMBER, 'first pass: share of noise that is the same in all channels', 0, 1),
    'jpeg_range': Option(list, 'first pass: JPEG quality'),
}
SECOND_ORDER = {
    **_PASS, 'second_blur_prob': Option(NUMBER, 'share of batches that the second pass blurs', 0, 1),
    **{f'{key}2': option._replace(meaning=option.meaning.replace('first', 'second')) for key, option in _PASS.items()},
}
REAL_ESRGAN = {
    'high_order_degradation': Option(bool, 'degrade HR images in two passes (default true); false: LR images are those '
                                           'of the dataset'),
    'gt_usm': Option(bool, 'sharpen HR images, the target of all losses (default true)'),
    'gt_size': Option(int, 'that of datasets.train; may be left out', 1),
    'queue_size': Option(int, 'pairs in the pool that mixes batches, a multiple of the batch (default 180)', 1),
    **SECOND_ORDER,
}

_KERNELS = {
    'blur_kernel_size': Option(int, "first pass: not used by BasicSR's dataset, but must be given"),
    'kernel_list': Option(list, 'first pass: kinds of blur kernels, as for blur_noise_jpeg'),
    'kernel_prob': Option(list, 'first pass: weight of each kind'),
    'sinc_prob': Option(NUMBER, 'first pass: share of sinc kernels', 0, 1),
    'blur_sigma': Option(list, 'first pass: standard deviation of kernels in pixels'),
    'betag_range': Option(list, 'first pass: exponents of generalized Gaussian kernels'),
    'betap_range': Option(list, 'first pass: exponents of plateau kernels'),
}
REAL_ESRGAN_DATASET = {
    'meta_info': Option((str, list), 'text file whose lines begin with the paths of the images in dataroot_gt (disk '
                                     'only)'),
    **_KERNELS,
    **{f'{key}2': option._replace(meaning=option.meaning.replace('first', 'second'))
       for key, option in _KERNELS.items()},
    'final_sinc_prob': Option(NUMBER, 'share of images that a sinc filters last', 0, 1),
}

DIST_PARAMS = {
    'backend': Option(str, 'nccl with GPUs; without GPUs gloo is used'),
    'port': Option(int, 'port of the first process (slurm)', 1, 65535),
}

DATASET = {
    'name': Option(str, 'name in logs and results; each dataset needs its own'),
    'type': Option(str, 'PairedImageDataset (HR and LR), HROnlyDataset (only HR, for rescaling and train.degradation), '
                        'SingleImageDataset (only LR, for tests), or another registered dataset'),
    'dataroot_gt': Option((str, list), 'HR images: a folder, or an LMDB whose name ends in .lmdb; or a list of folders '
                                       'and LMDBs'),
    'dataroot_lq': Option((str, list), 'LR images: the same; names or keys are those of the HR images'),
    'shares': Option(list, 'with a list of folders, how many images of each there are in an epoch, relative to one '
                           'another, such as [3, 1] (training); ~: every image once'),
    'io_backend': Option(dict, '{type: disk} or {type: lmdb}'),
    'meta_info_file': Option((str, list), 'text file whose lines begin with the names of the images to use (disk '
                                          'only); ~: all images'),
    'filename_tmpl': Option((str, list), "name of an LR image, with {} for that of its HR image, such as '{}x4' "
                                         "(PairedImageDataset on disk; default '{}')"),
    'mean': Option(list, "subtracted from images; leave it out: the flow's images are in [0, 1]"),
    'std': Option(list, 'divides images; leave it out'),
    'color': Option(str, 'luma alone; leave it out: the flow takes RGB', choices=('y',)),
    'gt_size': Option(int, 'side of the HR patches in pixels, a multiple of the scale (training)', 1),
    'use_hflip': Option(bool, 'flip patches at random (training)'),
    'use_rot': Option(bool, 'also flip upside down and transpose at random (training)'),
    'use_shuffle': Option(bool, 'not used: BasicSR always shuffles'),
    'num_worker_per_gpu': Option(int, 'processes that load images, per GPU; on a CPU in total (training)', 0, 256),
    'batch_size_per_gpu': Option(int, 'patches in a batch of one process (training)', 1),
    'dataset_enlarge_ratio': Option(NUMBER, 'repeat the images N times within an epoch (training; default 1)', 0,
                                    10_000),
    'prefetch_mode': Option(str, 'load batches ahead in a thread (cpu), or onto the GPU (cuda, needs pin_memory); ~: '
                                 'neither (training)', choices=('cpu', 'cuda')),
    'num_prefetch_queue': Option(int, 'batches that prefetch_mode cpu keeps ready (default 1)', 1),
    'pin_memory': Option(bool, 'page-locked memory, for faster copies to a GPU (default false)'),
    'persistent_workers': Option(bool, 'keep loading processes from epoch to epoch (default false)'),
}
DATASET_OF_BASICSR = ('phase', 'scale')
LOADER = ('name', 'type', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode',
          'num_prefetch_queue', 'pin_memory', 'persistent_workers')  # BasicSR reads them for datasets of any package

BACKEND = Option(str, 'disk or lmdb')
IO_BACKENDS = {
    'disk': {'type': BACKEND},
    'lmdb': {'type': BACKEND, **dict.fromkeys(('readonly', 'lock', 'readahead'), Option(bool, 'not used'))},
}

METRIC = {
    'crop_border': Option(int, 'pixels that are cut off before measuring', 0),
    'better': Option(str, "which values are the best; default: as the metric's decorator says; lower for LPIPS and "
                          'NIQE', choices=('higher', 'lower')),
}
LOSS_WEIGHT = Option(NUMBER, 'factor of the loss', 0)

# Meanings of arguments of BasicSR's and PyTorch's components, whose types and defaults are in their signatures
PLAIN_LOSS = {'loss_weight': 'weight in the sum', 'reduction': 'mean or sum over all values',
              'eps': 'rounds off the corner of the absolute value at 0'}
GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')
GAN = {'gan_type': ', '.join(GAN_TYPES),
       'loss_weight': 'weight for the flow; the discriminator has none', 'real_label_val': 'target of real images',
       'fake_label_val': 'target of generated images'}
BORDER = {'crop_border': 'pixels cut off at each edge', 'input_order': 'HWC or CHW; HWC here'}
PSNR = {**BORDER, 'test_y_channel': 'only luma (Y of YCbCr)'}
COMPONENTS = {
    'L1Loss': PLAIN_LOSS, 'MSELoss': PLAIN_LOSS, 'CharbonnierLoss': PLAIN_LOSS,
    'PerceptualLoss': {
        'layer_weights': '{layer: weight}, such as {conv5_4: 1}, before its ReLU',
        'vgg_type': 'vgg11, vgg13, vgg16 or vgg19, also with _bn',
        'use_input_norm': 'normalize images as ImageNet classifiers expect',
        'range_norm': 'images are in [-1, 1]; false here',
        'perceptual_weight': 'weight of the features; 0: off', 'style_weight': 'weight of their Gram matrices; 0: off',
        'criterion': 'l1, l2 or fro'},
    'UNetDiscriminatorSN': {'num_in_ch': 'channels of the images', 'num_feat': 'channels of the first convolution',
                            'skip_connection': 'join the two sides of the U'},
    'GANLoss': GAN, 'RelativisticGANLoss': GAN, 'calculate_psnr': PSNR, 'calculate_ssim': PSNR,
    'calculate_niqe': {**BORDER, 'convert_to': 'y or gray: what it is measured on'},
    'Adam': {
        'lr': 'learning rate; write !!float 2.5e-4', 'betas': 'decay of the averages of gradients and of their squares',
        'eps': 'added to the divisor', 'weight_decay': 'L2 penalty on the weights', 'amsgrad': 'the AMSGrad variant'},
    'MultiStepLR': {
        'milestones': 'iterations at which the rate is multiplied by gamma', 'gamma': 'factor',
        'restarts': 'iterations at which the schedule starts again',
        'restart_weights': 'factor of the rate at each restart', 'last_epoch': 'set by BasicSR'},
    'CosineAnnealingRestartLR': {
        'periods': 'iterations of each half cosine', 'restart_weights': 'factor of the rate at each start',
        'eta_min': 'lowest rate', 'last_epoch': 'set by BasicSR'},
}
