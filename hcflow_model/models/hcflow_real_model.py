"""Super-resolution of real pictures: HCFlow trained on the images of BasicSR's RealESRGANModel."""
import torch
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.utils import DiffJPEG, USMSharp

from hcflow_arch import InputError
from hcflow_model.options import schema
from hcflow_model.options.rules import require

from .hcflow_model import HCFlowModel

MIN_SIZE, MAX_SIZE = 26, 400  # of patches: USMSharp reflects 25 pixels, RealESRGANDataset gives 400


class HCFlowRealModel(HCFlowModel):
    """HCFlowModel whose LR images RealESRGANModel makes (Wang et al., Real-ESRGAN, ICCVW 2021).

    Its `feed_data` takes HR images and kernels of RealESRGANDataset, blurs, resizes, adds noise and stores as JPEG
    twice, filters by a sinc, crops, and mixes pairs of several batches in a pool. All losses have one target: the HR
    image, sharpened unless `gt_usm` is false. A resumed training begins with an empty pool. Validation is that of
    HCFlowModel.
    """

    general_options = schema.REAL_ESRGAN

    def __init__(self, opt):
        opt.setdefault('gt_size', opt['datasets'].get('train', {}).get('gt_size'))  # where RealESRGANModel reads it
        super().__init__(opt)
        # RealESRGANModel's constructor makes them on a GPU
        self.jpeger = DiffJPEG(differentiable=False).to(self.device)
        # on a CPU its images lie in memory as the filters that follow do not take them
        self.jpeger.register_forward_hook(lambda module, args, images: images.contiguous())
        self.usm_sharpener = USMSharp().to(self.device)
        self.queue_size = opt.get('queue_size', 180)

    @classmethod
    def check_options(cls, opt):
        for key in [key for key in schema.REAL_ESRGAN if key in opt and opt[key] is None]:
            del opt[key]  # ~ is the same as leaving it out
        super().check_options(opt)
        if not (opt['is_train'] and opt.get('high_order_degradation', True)):
            return
        for key in ('l1_gt_usm', 'percep_gt_usm', 'gan_gt_usm'):
            if key in opt:
                raise InputError(f"'{key}' is of RealESRGANModel; the losses of a flow have one target. Set "
                                 'gt_usm: true or false in its place.')
        require('The option file', opt, schema.SECOND_ORDER, schema.GENERAL)
        require('datasets.train', opt['datasets']['train'], ['gt_size'], schema.DATASET)
        for key in [key for key, option in schema.SECOND_ORDER.items() if option.types is list]:
            length = 3 if key.startswith('resize_prob') else 2
            if len(opt[key]) != length or not all(isinstance(number, (int, float)) for number in opt[key]):
                raise InputError(f"'{key}' is {opt[key]!r}; it must be {length} numbers.")
        batch_size = opt['datasets']['train'].get('batch_size_per_gpu') or 1
        if opt.get('queue_size', 180) % batch_size:
            raise InputError(f"'queue_size' is {opt.get('queue_size', 180)}; it must be a multiple of "
                             f'datasets.train.batch_size_per_gpu, which is {batch_size}.')
        size = opt['datasets']['train']['gt_size']
        if size != (opt.get('gt_size') or size):
            raise InputError(f"'gt_size' is {opt['gt_size']}, datasets.train.gt_size is {size}; leave out the first.")
        if size % opt['scale'] or not MIN_SIZE <= size <= MAX_SIZE:
            raise InputError(f"'datasets.train.gt_size' is {size}; HR patches must be a multiple of the scale, "
                             f"{opt['scale']}, from {MIN_SIZE} to {MAX_SIZE}.")

    def feed_data(self, data):
        """Take a batch: in training gt (N, 3, H, W) in [0, 1] and kernels, else as HCFlowModel."""
        if not self.is_train or self.validated or not self.opt.get('high_order_degradation', True):
            super().feed_data(data)
            return
        missing = [key for key in ('gt', 'kernel1', 'kernel2', 'sinc_kernel') if key not in data]
        if missing:
            raise InputError(f'datasets.train gives no {", ".join(missing)}; take type RealESRGANDataset, or set '
                             'high_order_degradation: false.')
        self.batch = data
        RealESRGANModel.feed_data(self, data)
        if self.opt.get('gt_usm', True):
            self.gt = self.gt_usm

    @torch.no_grad()
    def _dequeue_and_enqueue(self):
        if not hasattr(self, 'queue_lr'):  # RealESRGANModel would make it on a GPU
            self.queue_lr, self.queue_gt = (images.new_zeros(self.queue_size, *images.shape[1:])
                                            for images in (self.lq, self.gt))
            self.queue_ptr = 0
        RealESRGANModel._dequeue_and_enqueue(self)
