"""Options of the HCFlow models: name, type, smallest value and meaning of every key of their blocks."""
from typing import NamedTuple

NUMBER = (int, float)
BLOCK = (dict,)


class Option(NamedTuple):
    """One key. ~ (None) is the same as leaving the key out.

    Attributes:
        types: Types of its value.
        meaning: For messages and documentation.
        minimum: Smallest value, for numbers.
        maximum: Largest value, for numbers.
    """
    types: tuple[type, ...]
    meaning: str
    minimum: float | None = None
    maximum: float | None = None


TOP_LEVEL = ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'plugins', 'datasets', 'network_g', 'network_d',
             'path', 'train', 'val', 'logger', 'dist_params', 'find_unused_parameters')
SET_BY_COMMAND = ('dist', 'rank', 'world_size', 'auto_resume', 'is_train', 'root_path', 'option_file', 'force_yml')

TRAIN = {
    'ema_decay': Option(NUMBER, 'decay of the exponential moving average of weights; 0: none', 0, 1),
    'optim_g': Option(BLOCK, 'optimizer of the flow, such as {type: Adam, lr: !!float 2.5e-4}'),
    'optim_d': Option(BLOCK, 'optimizer of the discriminator'),
    'scheduler': Option(BLOCK, "learning-rate schedule, BasicSR's"),
    'total_iter': Option((int,), 'number of iterations', 1, 10 ** 9),
    'warmup_iter': Option((int,), 'iterations of linear warm-up; -1: none', -1),
    'nll_opt': Option(BLOCK, 'negative log-likelihood (SR): {type: NLLLoss, loss_weight: 1.0}'),
    'pixel_opt': Option(BLOCK, 'pixel loss of decode (SR: at temperature 0; rescaling: at train.temperature)'),
    'perceptual_opt': Option(BLOCK, "perceptual loss, BasicSR's PerceptualLoss"),
    'gan_opt': Option(BLOCK, 'GAN loss: GANLoss or RelativisticGANLoss; needs network_d and optim_d'),
    'lq_opt': Option(BLOCK, 'rescaling: pixel loss of the downscaled image to the bicubic one'),
    'latent_opt': Option(BLOCK, 'rescaling: {type: LatentLoss, loss_weight: !!float 1e-5}'),
    'net_d_iters': Option((int,), 'update the flow every so many iterations', 1),
    'net_d_init_iters': Option((int,), 'iterations at the start in which the discriminator trains alone', 0),
    'temperature': Option(NUMBER, 'temperature of perceptual and GAN losses (default 0.9; rescaling: 1)', 0),
    'accumulate': Option((int,), 'split each batch of the flow into N parts to save memory; gradients are summed. The '
                         'discriminator takes the whole batch', 1),
    'amp': Option((str,), 'bf16: mixed precision; very slow on CPUs without bf16 instructions; ~: off'),
    'cuda_graph': Option((bool,), 'start all kernels of an update at once: faster where a GPU waits for the CPU '
                                  '(default false)'),
    'grad_clip_value': Option(NUMBER, 'clip every gradient value of the flow to this; 0 or ~: off', 0),
    'grad_clip_norm': Option(NUMBER, 'then clip the norm over all parameters to this; 0 or ~: off', 0),
    'max_nonfinite': Option((int,), 'stop after so many iterations in a row that were not finite (default 20)', 1),
}

VAL = {
    'val_freq': Option(NUMBER, 'validate every so many iterations', 1),
    'save_img': Option((bool,), 'save every sample'),
    'pbar': Option((bool,), 'show a progress bar with image name and ETA'),
    'suffix': Option((str,), 'added to the names of saved images in tests'),
    'metrics': Option(BLOCK, '{name: {type: calculate_psnr, …}, …}; the nll is always given where HR is known'),
    'temperatures': Option((list,), 'sampling temperatures (default 0 and 0.9; rescaling 1 and 0)'),
    'num_samples': Option((int,), 'samples per image at each temperature above 0 (default 1)', 1, 10_000),
    'seed': Option((int,), 'seed of the noise; ~: another noise every time', 0),
    'tile': Option((int,), 'largest side in LR pixels that is decoded at once, for large images; ~: whole images', 16),
    'amp': Option((str,), 'bf16: mixed precision; very slow on CPUs without bf16 instructions; ~: off'),
    'bicubic': Option((bool,), 'also report bicubic upsampling'),
    'sheets': Option((int,), 'draw a sheet of the first so many images of each test set (default 10; 0: none)', 0),
}

WANDB = {
    'project': Option((str,), 'name of the project; ~: no Weights and Biases'),
    'resume_id': Option((str,), 'run to go on with'),
}

PATH = {
    'pretrain_network_g': Option((str,), 'checkpoint of the flow, ours or released, or the name of a released network'),
    'param_key_g': Option((str,), 'params (default), or params_ema, which the hcflow commands take'),
    'strict_load_g': Option((bool,), 'refuse a checkpoint whose names or shapes differ'),
    'pretrain_network_d': Option((str,), 'checkpoint of the discriminator'),
    'param_key_d': Option((str,), 'params'),
    'strict_load_d': Option((bool,), 'refuse a checkpoint whose names or shapes differ'),
    'resume_state': Option((str,), 'training state to go on from'),
    'ignore_resume_networks': Option((list,), 'networks that keep their pretrained weights when resuming'),
}
PATHS_OF_BASICSR = ('experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root')
NO_FOLDERS = ('pretrain_network', 'param_key', 'strict_load', 'resume')  # BasicSR makes a folder of any other path

LOGGER = {
    'print_freq': Option(NUMBER, 'log every so many iterations', 1),
    'save_checkpoint_freq': Option(NUMBER, 'save every so many iterations', 1),
    'use_tb_logger': Option((bool,), 'write tensorboard files to tb_logger/'),
    'wandb': Option(BLOCK, 'Weights and Biases: {project: …, resume_id: …}'),
}

DATASET = {
    'name': Option((str,), 'how logs and results call it'),
    'type': Option((str,), 'PairedImageDataset, SingleImageDataset, HROnlyDataset, or another registered dataset'),
    'dataroot_gt': Option((str,), 'folder or LMDB of the HR images'),
    'dataroot_lq': Option((str,), 'folder or LMDB of the LR images'),
    'meta_info_file': Option((str,), 'file whose lines begin with the names of the images to use'),
    'filename_tmpl': Option((str,), "name of an LR image, where {} is that of its HR image, such as '{}x4'"),
    'io_backend': Option(BLOCK, '{type: disk} or {type: lmdb}'),
    'gt_size': Option((int,), 'side of the HR patches', 1),
    'use_hflip': Option((bool,), 'flip at random'),
    'use_rot': Option((bool,), 'turn at random'),
    'use_shuffle': Option((bool,), 'not used: BasicSR always shuffles'),
    'color': Option((str,), 'y: luma alone'),
    'mean': Option((list,), 'taken off the images'),
    'std': Option((list,), 'by which they are divided'),
    'num_worker_per_gpu': Option((int,), 'processes that load images', 0, 256),
    'batch_size_per_gpu': Option((int,), 'images in a batch', 1),
    'dataset_enlarge_ratio': Option(NUMBER, 'how often the images are repeated in an epoch', 0, 10_000),
    'prefetch_mode': Option((str,), 'cpu, cuda or ~'),
    'num_prefetch_queue': Option((int,), 'batches that wait, with prefetch_mode cpu', 1),
    'pin_memory': Option((bool,), 'keep batches in pinned memory'),
    'persistent_workers': Option((bool,), 'keep the processes from epoch to epoch'),
}
DATASET_OF_BASICSR = ('phase', 'scale')
LOADER = ('name', 'type', 'num_worker_per_gpu', 'batch_size_per_gpu', 'dataset_enlarge_ratio', 'prefetch_mode',
          'num_prefetch_queue', 'pin_memory', 'persistent_workers')  # BasicSR reads them for datasets of any package

IO_BACKENDS = {
    'disk': {'type': Option((str,), 'disk or lmdb')},
    'lmdb': {'type': Option((str,), 'disk or lmdb'), 'readonly': Option((bool,), 'not used: always true'),
             'lock': Option((bool,), 'not used: always false'), 'readahead': Option((bool,), 'not used: always false')},
}

DIST_PARAMS = {
    'backend': Option((str,), 'nccl with GPUs; without them gloo is taken'),
    'port': Option((int,), 'port of the first process (slurm)', 1, 65535),
}

CROP_BORDER = Option((int,), 'pixels that are cut off before measuring', 0)
LOSS_WEIGHT = Option(NUMBER, 'factor of the loss', 0)
