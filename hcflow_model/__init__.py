"""HCFlow's models, losses and metrics for BasicSR: importing this package registers them all."""
import hcflow_arch  # noqa: F401  (registers the networks)
from hcflow_arch.basicsr_import import lazy_names, register

__all__ = ['HCFlowModel', 'HCFlowRealModel', 'HCFlowRescaler', 'HCFlowRescalingModel', 'HCFlowUpscaler',
           'HROnlyDataset', 'LatentLoss', 'NLLLoss', 'RandomPerceptualLoss', 'RelativisticGANLoss',
           'calculate_diversity', 'calculate_lpips', 'calculate_lr_psnr', 'calculate_nll', 'degradation', 'metric']

__getattr__ = lazy_names(__name__, {
    '.data.degrade': ('degradation',),
    '.data.hr_only_dataset': ('HROnlyDataset',),
    '.inference.upscaler': ('HCFlowRescaler', 'HCFlowUpscaler'),
    '.losses.hcflow_loss': ('LatentLoss', 'NLLLoss'),
    '.losses.image_loss': ('RandomPerceptualLoss', 'RelativisticGANLoss'),
    '.metrics.hcflow_metric': ('calculate_diversity', 'calculate_lpips', 'calculate_lr_psnr', 'calculate_nll',
                                'metric'),
    '.models.hcflow_model': ('HCFlowModel',),
    '.models.hcflow_real_model': ('HCFlowRealModel',),
    '.models.hcflow_rescaling_model': ('HCFlowRescalingModel',),
})
register(__name__,
         DATASET_REGISTRY=('HROnlyDataset',),
         LOSS_REGISTRY=('LatentLoss', 'NLLLoss', 'RandomPerceptualLoss', 'RelativisticGANLoss'),
         METRIC_REGISTRY=('calculate_diversity', 'calculate_lpips', 'calculate_lr_psnr', 'calculate_nll'),
         MODEL_REGISTRY=('HCFlowModel', 'HCFlowRealModel', 'HCFlowRescalingModel'))
