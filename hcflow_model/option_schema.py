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
    """
    types: tuple[type, ...]
    meaning: str
    minimum: float | None = None


TRAIN = {
    'ema_decay': Option(NUMBER, 'decay of the exponential moving average of weights; 0: none', 0),
    'optim_g': Option(BLOCK, 'optimizer of the flow, such as {type: Adam, lr: !!float 2.5e-4}'),
    'optim_d': Option(BLOCK, 'optimizer of the discriminator'),
    'scheduler': Option(BLOCK, "learning-rate schedule, BasicSR's"),
    'total_iter': Option((int,), 'number of iterations', 1),
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
    'accumulate': Option((int,), 'split every batch into so many parts to save memory; gradients are summed', 1),
    'amp': Option((str,), 'bf16: mixed precision in feature nets and subnets; ~: off'),
    'grad_clip_value': Option(NUMBER, 'clip every gradient value of the flow to this; ~: off', 0),
    'grad_clip_norm': Option(NUMBER, 'then clip the norm over all parameters to this; ~: off', 0),
    'max_nonfinite': Option((int,), 'stop after so many iterations in a row that were not finite (default 20)', 1),
}

VAL = {
    'val_freq': Option(NUMBER, 'validate every so many iterations', 1),
    'save_img': Option((bool,), 'save every sample'),
    'pbar': Option((bool,), 'show a progress bar with image name and ETA'),
    'suffix': Option((str,), 'added to the names of saved images in tests'),
    'metrics': Option(BLOCK, '{name: {type: calculate_psnr, …}, …}; the nll is always given where HR is known'),
    'temperatures': Option((list,), 'sampling temperatures (default 0 and 0.9; rescaling 1 and 0)'),
    'num_samples': Option((int,), 'samples per image at each temperature above 0 (default 1)', 1),
    'seed': Option((int,), 'seed of the noise; ~: another noise every time', 0),
    'amp': Option((str,), 'bf16: mixed precision in feature nets and subnets; ~: off'),
    'bicubic': Option((bool,), 'also report bicubic upsampling'),
    'sheets': Option((int,), 'draw a sheet of the first so many images of each test set (default 10; 0: none)', 0),
}

PATH = {
    'pretrain_network_g': Option((str,), 'checkpoint of the flow, ours or a released one'),
    'param_key_g': Option((str,), 'params or params_ema'),
    'strict_load_g': Option((bool,), 'refuse a checkpoint whose names or shapes differ'),
    'pretrain_network_d': Option((str,), 'checkpoint of the discriminator'),
    'param_key_d': Option((str,), 'params'),
    'strict_load_d': Option((bool,), 'refuse a checkpoint whose names or shapes differ'),
    'resume_state': Option((str,), 'training state to go on from'),
    'ignore_resume_networks': Option((list,), 'networks that keep their pretrained weights when resuming'),
}
PATHS_OF_BASICSR = ('experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root')

LOGGER = {
    'print_freq': Option(NUMBER, 'log every so many iterations', 1),
    'save_checkpoint_freq': Option(NUMBER, 'save every so many iterations', 1),
    'use_tb_logger': Option((bool,), 'write tensorboard files to tb_logger/'),
    'wandb': Option(BLOCK, 'Weights and Biases: {project: …, resume_id: …}'),
}
