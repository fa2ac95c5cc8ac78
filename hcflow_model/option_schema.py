"""The options of the HCFlow models: name, type and meaning of every key in `train` and `val`."""

NUMBER = (int, float)
BLOCK = dict

# key: (types, meaning). A type None allows the value ~.
TRAIN = {
    'ema_decay': (NUMBER, 'decay of the exponential moving average of weights; 0: none'),
    'optim_g': (BLOCK, 'optimizer of the flow, such as {type: Adam, lr: !!float 2.5e-4}'),
    'optim_d': (BLOCK, 'optimizer of the discriminator'),
    'scheduler': (BLOCK, "learning-rate schedule, BasicSR's"),
    'total_iter': (int, 'number of iterations'),
    'warmup_iter': (int, 'iterations of linear warm-up; -1: none'),
    'nll_opt': (BLOCK, 'negative log-likelihood: {type: NLLLoss, loss_weight: 1.0}'),
    'pixel_opt': (BLOCK, 'pixel loss of decode (SR: at temperature 0; rescaling: at temperature 1)'),
    'perceptual_opt': (BLOCK, "perceptual loss, BasicSR's PerceptualLoss"),
    'gan_opt': (BLOCK, 'GAN loss: GANLoss or RelativisticGANLoss; needs network_d and optim_d'),
    'lq_opt': (BLOCK, 'rescaling: pixel loss of the downscaled image to the bicubic one'),
    'latent_opt': (BLOCK, 'rescaling: {type: LatentLoss, loss_weight: !!float 1e-5}'),
    'net_d_iters': (int, 'update the flow every so many iterations'),
    'net_d_init_iters': (int, 'iterations at the start in which the discriminator trains alone'),
    'temperature': (NUMBER, 'temperature of the samples of perceptual and GAN losses (default 0.9; rescaling 1)'),
    'accumulate': (int, 'split every batch into so many parts to save memory; the update is that of the whole batch'),
    'amp': (str, 'bf16: mixed precision in feature nets and subnets; ~: off'),
    'grad_clip_value': (NUMBER, 'clip every gradient value of the flow to this; ~: off'),
    'grad_clip_norm': (NUMBER, 'then clip the norm over all parameters to this; ~: off'),
}

VAL = {
    'val_freq': (NUMBER, 'validate every so many iterations'),
    'save_img': (bool, 'save every sample'),
    'pbar': (bool, 'show a progress bar with image name and ETA'),
    'suffix': (str, 'added to the names of saved images in tests'),
    'metrics': (BLOCK, '{name: {type: calculate_psnr, …}, …}; the nll is always given where HR is known'),
    'temperatures': (list, 'sampling temperatures (default 0 and 0.9; rescaling 1 and 0)'),
    'num_samples': (int, 'samples per image at each temperature above 0 (default 1)'),
    'seed': (int, 'seed of the noise; ~: another noise every time'),
    'amp': (str, 'bf16: mixed precision in feature nets and subnets; ~: off'),
    'bicubic': (bool, 'also report bicubic upsampling'),
    'sheets': (int, 'draw a picture sheet of the first so many images of each test set (default 10; 0: none)'),
}
