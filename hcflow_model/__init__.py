"""HCFlow's models, losses and metrics for BasicSR: importing this package registers them all."""
import hcflow_arch  # noqa: F401  isort: skip  (first: it repairs the import of BasicSR and registers the networks)

from .hcflow_loss import LatentLoss, NLLLoss, RandomPerceptualLoss, RelativisticGANLoss
from .hcflow_metric import calculate_diversity, calculate_lpips, calculate_lr_psnr, calculate_nll
from .hcflow_model import HCFlowModel
from .hcflow_rescaling_model import HCFlowRescalingModel
from .hr_only_dataset import HROnlyDataset
from .inference import HCFlowRescaler, HCFlowUpscaler

__all__ = ['HCFlowModel', 'HCFlowRescaler', 'HCFlowRescalingModel', 'HCFlowUpscaler', 'HROnlyDataset', 'LatentLoss',
           'NLLLoss', 'RandomPerceptualLoss', 'RelativisticGANLoss', 'calculate_diversity', 'calculate_lpips',
           'calculate_lr_psnr', 'calculate_nll']
