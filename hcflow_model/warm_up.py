"""The end of BasicSR's warm-up."""
from basicsr.models.lr_scheduler import MultiStepRestartLR
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def end_warm_up(optimizers: list[Optimizer], scheduler: LRScheduler, warmup_iter: int) -> None:
    """Give optimizers their whole learning rate, in iteration `warmup_iter`, after BasicSR has updated it.

    BasicSR (models/base_model.py, update_learning_rate) leaves out the last step of its linear warm-up. Schedules that
    compute every rate anew do not mind; MultiStepRestartLR, which goes on from what it finds, never got there.
    """
    if isinstance(scheduler, MultiStepRestartLR) and warmup_iter > 1 and scheduler.last_epoch not in scheduler.restarts:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group['lr'] *= warmup_iter / (warmup_iter - 1)
