"""Updates whose losses or gradients are NaN or infinite: all processes skip them, and the log counts them."""
from typing import NamedTuple

import torch
import torch.distributed as dist
from basicsr.utils import get_root_logger

from hcflow_arch import InputError
from hcflow_model.data.errors import batch_problem


class Check(NamedTuple):
    """What was checked in one update.

    Attributes:
        losses: Names of the losses.
        parameters: Those with a gradient.
        verdict: On the device: 1. for each loss that is finite on all processes, then one value for all gradients.
        norms: On the device: the norm of each gradient.
    """
    losses: tuple[str, ...]
    parameters: list[torch.nn.Parameter]
    verdict: torch.Tensor
    norms: torch.Tensor


class Status(NamedTuple):
    """What the CPU knows after an iteration; equal on all processes.

    Attributes:
        iter: The iteration it describes; on a GPU, the previous one.
        total: Updates skipped so far.
        in_a_row: How many iterations in a row, up to this one, had a skipped update.
        stop: Whether any process got a signal to stop.
        checks: The updates of that iteration.
    """
    iter: int
    total: int
    in_a_row: int
    stop: bool
    checks: list[Check]


class UpdateGuard:
    """Runs an optimizer step only if all losses and gradients are finite. Otherwise weights and moments do not change.

    The decision is made on the device. On a CPU it is read at once. Reading it from a GPU would make the CPU wait for
    all queued work. So the optimizer there is PyTorch's fused Adam, which reads the decision on the device
    (`found_inf`, as from GradScaler), and the CPU reads the result one iteration later.

    A gradient above 1.8e19 counts as infinite: its square, which Adam's moments store, exceeds float32.

    Args:
        device (torch.device): Device of the networks.
        distributed (bool): Whether all processes decide together.
    """

    def __init__(self, device: torch.device, distributed: bool):
        self.device, self.distributed = device, distributed
        self.total, self._in_a_row = (torch.zeros((), device=device) for _ in range(2))
        self._checks, self._unread = [], None

    @torch.no_grad()
    def check(self, parameters: list[torch.nn.Parameter], losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Check losses (scalars) and gradients, before clipping. Returns a scalar on the device: 1. to skip the update,
        else 0."""
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in parameters]))
        values = torch.stack([loss.detach().float().mean() for loss in losses.values()])
        verdict = torch.cat([values.isfinite(), norms.isfinite().all().view(1)]).float()
        if self.distributed:
            dist.all_reduce(verdict, dist.ReduceOp.MIN)
        self._checks.append(Check(tuple(losses), parameters, verdict, norms))
        return 1 - verdict.min()

    def step(self, optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
        """optimizer.step(), unless `skip` of :meth:`check` is 1."""
        if getattr(optimizer, '_step_supports_amp_scaling', False):
            optimizer.grad_scale, optimizer.found_inf = None, skip
            optimizer.step()
            del optimizer.grad_scale, optimizer.found_inf
        elif not skip:  # waits for a GPU; only with `fused: false` in the options
            optimizer.step()

    @torch.no_grad()
    def end_iteration(self, current_iter: int, stop: bool) -> Status | None:
        """Count skipped updates, and agree on whether to stop; `stop`: whether this process wants to.

        Returns:
            Status; on a GPU that of the previous iteration, None after the first one.
        """
        flags = torch.stack([1 - check.verdict.min() for check in self._checks])
        self.total = self.total + flags.sum()
        self._in_a_row = torch.where(flags.any(), self._in_a_row + 1, 0)
        wish = torch.full((), float(stop), device=self.device)  # a kernel's argument: no copy to wait for
        if self.distributed:
            dist.all_reduce(wish, dist.ReduceOp.MAX)
        status = torch.stack([self.total, self._in_a_row, wish]).to('cpu', non_blocking=True)
        event = None
        if self.device.type == 'cuda':
            event = torch.cuda.Event()
            event.record()
        newest = (current_iter, status, event, self._checks)
        self._checks = []
        if event is None:
            return _read(*newest)
        self._unread, before = newest, self._unread
        return _read(*before) if before else None


def _read(current_iter, status, event, checks):
    if event is not None:
        event.synchronize()  # of the previous iteration: a whole iteration is queued after it
    total, in_a_row, stop = status.tolist()
    return Status(current_iter, int(total), int(in_a_row), stop > 0, checks)


def handle_status(model, status: Status, current_iter: int) -> None:
    """Log skipped updates, and end training after too many in a row or when a signal asks for it.

    Args:
        model (FlowModel): In training.
        status: What :meth:`UpdateGuard.end_iteration` returned.
        current_iter: The iteration that has ended.

    Raises:
        InputError: `max_nonfinite` iterations in a row had a skipped update. Everything is saved.
        TrainingStopped: By a signal. Everything is saved.
    """
    if status.in_a_row in (1, model.max_nonfinite):
        names = {parameter: name for net in (model.net_g, getattr(model, 'net_d', None)) if net is not None
                 for name, parameter in model.get_bare_model(net).named_parameters()}
        what, losses = describe(status, names)
        if status.in_a_row == 1:
            get_root_logger().warning(f'Iteration {status.iter}: an update is skipped, because it is not finite: '
                                      f'{what}. All skipped updates are counted as l_nonfinite.')
        if status.in_a_row == model.max_nonfinite:
            model.save_now(current_iter)
            raise InputError(f'{model.max_nonfinite} iterations in a row (train.max_nonfinite), up to '
                             f'{status.iter}, were not finite: {what}. The last good weights and their state are '
                             f'saved as iteration {current_iter}. {advice(model, losses, current_iter)}')
    if status.stop:
        model.stop(current_iter)


def describe(status: Status, names: dict[torch.nn.Parameter, str]) -> tuple[str, list[str]]:
    """Describe what was not finite: a sentence, and the names of the losses of the skipped updates.

    Args:
        status: Of an iteration with a skipped update.
        names: {parameter: name}.
    """
    parts, losses = [], []
    for check in status.checks:
        verdict = check.verdict.tolist()
        if all(verdict):
            continue
        losses += check.losses
        bad_losses = [name for name, finite in zip(check.losses, verdict, strict=False) if not finite]
        bad = [names[p] for p, finite in zip(check.parameters, check.norms.isfinite().tolist(), strict=True)
               if not finite]
        what = [f'loss {", ".join(bad_losses)}'] if bad_losses else []
        if bad:
            more = ', …' if len(bad) > 3 else ''
            what.append(f'gradients of {len(bad)} parameters ({", ".join(bad[:3])}{more})')
        parts.append(f'update by {", ".join(check.losses)}: {" and ".join(what)}')
    return '; '.join(parts), losses


def advice(model, losses: list[str], current_iter: int) -> str:
    """Advise what to do after too many skipped updates, by their likely cause.

    Args:
        model (FlowModel): In training.
        losses: Names of the losses of the skipped updates.
        current_iter: Iteration under which the last good weights are saved.
    """
    opt, train_opt = model.opt, model.opt['train']
    problem = batch_problem(model.batch, (opt['datasets'].get('train') or {}).get('name'), every_device=True)
    if problem:
        return problem
    if (model.gt.amax(dim=(2, 3)) == model.gt.amin(dim=(2, 3))).all(dim=1).any():
        return ('The last batch holds images of one colour, whose likelihood has no upper bound: remove such images '
                'from the dataset.')
    discriminator = all(name.startswith('l_d_') for name in losses)
    optimizer, net = ('optim_d', 'd') if discriminator else ('optim_g', 'g')
    lr = train_opt[optimizer]['lr']
    if not discriminator and (train_opt.get('pixel_opt') or train_opt.get('gan_opt')) and model.task == 'sr' \
            and not opt['path'].get('pretrain_network_g'):
        return ('HCFlow+ and HCFlow++ start from a trained HCFlow: train with nll_opt alone first and name its '
                f'checkpoint in path.pretrain_network_g; or lower train.optim_g.lr ({lr:g}).')
    return (f'Lower train.{optimizer}.lr ({lr:g}) and go on with --auto_resume; or raise train.warmup_iter, too, and '
            f'start anew from path.pretrain_network_{net}: {opt["path"]["models"]}/net_{net}_{current_iter}.pth.')
