"""HCFlow's models, losses and metrics for BasicSR: importing this package registers them all."""
import hcflow_arch  # noqa: F401  isort: skip  (first: it repairs the import of BasicSR and registers the networks)

from .data.hr_only_dataset import HROnlyDataset
from .inference.upscaler import HCFlowRescaler, HCFlowUpscaler
from .losses.hcflow_loss import LatentLoss, NLLLoss, RandomPerceptualLoss, RelativisticGANLoss
from .metrics.hcflow_metric import calculate_diversity, calculate_lpips, calculate_lr_psnr, calculate_nll, metric
from .models.hcflow_model import HCFlowModel
from .models.hcflow_rescaling_model import HCFlowRescalingModel

__all__ = ['HCFlowModel', 'HCFlowRescaler', 'HCFlowRescalingModel', 'HCFlowUpscaler', 'HROnlyDataset', 'LatentLoss',
           'NLLLoss', 'RandomPerceptualLoss', 'RelativisticGANLoss', 'calculate_diversity', 'calculate_lpips',
           'calculate_lr_psnr', 'calculate_nll', 'metric']
