"""Meanings of the option keys that BasicSR defines, in our words: {key: (values, meaning)} or, where the values can be
read from a signature, {key: meaning}. make_options.py holds them against the code."""

GENERAL = {
    'name': ('text', 'name of the run: experiments/NAME, results/NAME and tb_logger/NAME; "debug" in it switches '
             "BasicSR's debug mode on"),
    'model_type': ('text', 'HCFlowModel (super-resolution), HCFlowRescalingModel, or a model of BasicSR'),
    'scale': ('whole number ≥ 1', 'ratio of HR to LR size; equal to network_g.scale'),
    'num_gpu': ('auto or whole number ≥ 0', 'GPUs of a process; auto: 1 where there is one, else 0 (CPU)'),
    'manual_seed': ('whole number, ~: drawn', 'seed of weights, crops, noise; each process adds its rank'),
    'plugins': ('list of module names', 'imported before anything is built, so that they register what they have'),
    'find_unused_parameters': ('true or false, default false', 'handed to DistributedDataParallel'),
    'datasets': ('a block', 'train and val, val_2, …; in tests test_1, test_2, …'),
    'network_g': ('a block', 'the flow'),
    'network_d': ('a block', 'the discriminator; with train.gan_opt only'),
    'path': ('a block', 'checkpoints'),
    'train': ('a block', 'losses, optimizers, schedule'),
    'val': ('a block', 'validation and tests'),
    'logger': ('a block', 'what is logged and saved, and when'),
    'dist_params': ('a block', 'for several processes'),
}

DATASET = {
    'name': ('text', 'called so in logs and results; each dataset has its own'),
    'type': ('text', 'PairedImageDataset (HR and LR), HROnlyDataset (HR alone, rescaling), SingleImageDataset (LR '
             'alone, tests), or another registered dataset'),
    'dataroot_gt': ('folder', 'HR images: a folder, or an LMDB whose name ends in .lmdb'),
    'dataroot_lq': ('folder', 'LR images: the same; names or keys are those of the HR images'),
    'io_backend': ('a block', '{type: disk} or {type: lmdb}'),
    'meta_info_file': ('file', 'text file whose lines begin with the names of the images to use (disk only); ~: all'),
    'filename_tmpl': ("text, default '{}'", "LR name from HR name, such as '{}x4' (PairedImageDataset on disk)"),
    'mean': ('three numbers', "subtracted from images; leave it out: the flow's images are in [0, 1]"),
    'std': ('three numbers', 'divides images; leave it out'),
    'color': ('y', 'luminance alone; leave it out: the flow takes RGB'),
    'gt_size': ('whole number', 'side of the HR patches in pixels, a multiple of the scale (training)'),
    'use_hflip': ('true or false', 'flip patches at random (training)'),
    'use_rot': ('true or false', 'also flip upside down and transpose at random (training)'),
    'num_worker_per_gpu': ('whole number ≥ 0', 'processes that load images, per GPU; on the CPU in all (training)'),
    'batch_size_per_gpu': ('whole number ≥ 1', 'patches in a batch of one process (training)'),
    'dataset_enlarge_ratio': ('number, default 1', 'repeat the images so many times within an epoch (training)'),
    'prefetch_mode': ('cpu, cuda or ~', 'load batches ahead in a thread (cpu) or onto the GPU (cuda, needs pin_memory) '
                      '(training)'),
    'num_prefetch_queue': ('whole number, default 1', 'batches that prefetch_mode cpu keeps ready'),
    'pin_memory': ('true or false, default false', 'page-locked memory, for faster copies to a GPU'),
    'persistent_workers': ('true or false, default false', 'keep loading processes from epoch to epoch'),
}

DIST_PARAMS = {
    'backend': ('text', 'nccl with GPUs; without them gloo is taken'),
    'port': ('whole number', 'port of the first process (slurm)'),
}

WANDB = {'project': ('text or ~', 'project to log to; ~: Weights and Biases is off. Needs use_tb_logger'),
         'resume_id': ('text or ~', 'id of the run to go on with')}

PLAIN_LOSS = {'loss_weight': 'weight in the sum', 'reduction': 'mean, sum or none: over all values; mean, here',
              'eps': 'rounds the corner of the absolute value at 0'}
GAN = {'gan_type': 'vanilla, lsgan, wgan, wgan_softplus or hinge', 'loss_weight': 'weight for the flow; the '
       'discriminator has none', 'real_label_val': 'target of real images', 'fake_label_val': 'target of made images'}
COMPONENTS = {
    'L1Loss': PLAIN_LOSS, 'MSELoss': PLAIN_LOSS, 'CharbonnierLoss': PLAIN_LOSS,
    'PerceptualLoss': {
        'layer_weights': '{layer: weight}, such as {conv5_4: 1}: before its ReLU',
        'vgg_type': 'vgg11, vgg13, vgg16 or vgg19, also with _bn',
        'use_input_norm': 'normalize images as ImageNet classifiers expect',
        'range_norm': 'images are in [-1, 1]; false here',
        'perceptual_weight': 'weight of the features; 0: off', 'style_weight': 'weight of their Gram matrices; 0: off',
        'criterion': 'l1, l2 or fro'},
    'GANLoss': GAN, 'RelativisticGANLoss': GAN,
    'calculate_psnr': {'crop_border': 'pixels cut off at each edge', 'input_order': 'HWC or CHW; HWC here',
                       'test_y_channel': 'luminance alone'},
    'calculate_ssim': {'crop_border': 'pixels cut off at each edge', 'input_order': 'HWC or CHW; HWC here',
                       'test_y_channel': 'luminance alone'},
    'calculate_niqe': {'crop_border': 'pixels cut off at each edge', 'input_order': 'HWC or CHW; HWC here',
                       'convert_to': 'y or gray: what it is measured on'},
    'Adam': {
        'lr': 'learning rate; write !!float 2.5e-4', 'betas': 'decay of the averages of gradients and of their squares',
        'eps': 'added to the divisor', 'weight_decay': 'pull of the weights to 0', 'amsgrad': 'the AMSGrad variant'},
    'MultiStepLR': {
        'milestones': 'iterations at which the rate is multiplied by gamma', 'gamma': 'factor',
        'restarts': 'iterations at which the schedule begins anew',
        'restart_weights': 'factor of the rate at each restart',
        'last_epoch': 'set by BasicSR'},
    'CosineAnnealingRestartLR': {
        'periods': 'iterations of each half cosine', 'restart_weights': 'factor of the rate at each start',
        'eta_min': 'lowest rate', 'last_epoch': 'set by BasicSR'},
}

# arguments whose docstring gives their default alone
DEFAULT_ALONE = {'loss_weight': 'weight in the sum', 'perceptual_weight': 'weight in the sum',
                 'device': 'where it runs'}
