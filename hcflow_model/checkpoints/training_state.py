"""Training states: whether one fits a training, and how optimizers and schedules go on from it.

A state keeps what training has reached: Adam's moments, iteration, epoch and random generators. Learning rates,
schedules and the other settings of optimizers are those of the option file.
"""
import math
from collections import Counter
from collections.abc import Mapping
from itertools import chain

import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR
from basicsr.utils import get_root_logger

from hcflow_arch import InputError

from .files import random_states, set_random_states

SCHEDULES = {MultiStepRestartLR: ('milestones', 'gamma', 'restarts', 'restart_weights'),
             CosineAnnealingRestartLR: ('periods', 'restart_weights', 'eta_min')}
OF_THE_MACHINE = ('fused', 'foreach', 'capturable')  # how Adam computes, not what
MOMENTS = {'step', 'exp_avg', 'exp_avg_sq'}


def check_fits(model, state: Mapping) -> None:
    """Check that a state belongs to a training. Changes nothing.

    Args:
        model (BaseModel): Any model of BasicSR, with its optimizers and schedulers.
        state: As saved: epoch, iter, optimizers, schedulers; ours also have random_states, taken and more.

    Raises:
        InputError: It was saved with other networks, or it is damaged, such as by a NaN in a moment.
    """
    for key, parts in (('optimizers', model.optimizers), ('schedulers', model.schedulers)):
        if len(state[key]) != len(parts):
            raise InputError(f'The training state of iteration {state["iter"]} has {len(state[key])} {key}, this '
                             f'training {len(parts)}: it was saved with another set of networks. Use its option file, '
                             'or start from its networks by path.pretrain_network_g.')
    problems = chain(map(_optimizer_problem, model.optimizers, state['optimizers']),
                     map(_scheduler_problem, state['schedulers']),
                     (check(state) for check in (_random_states_problem, _place_problem, _best_values_problem)))
    problem = next(filter(None, problems), None)
    if problem:
        raise InputError(f'The training state of iteration {state["iter"]} does not fit the networks of the option '
                         f'file, or it is damaged: {problem}. Use the option file that it was saved with or an older '
                         'state, or start from its networks by path.pretrain_network_g.')


def _optimizer_problem(optimizer, saved):
    groups = saved.get('param_groups') if isinstance(saved, Mapping) else None
    if not isinstance(groups, list) or not all(
            isinstance(group, Mapping) and isinstance(group.get('params'), list) for group in groups):
        return 'an optimizer has no param_groups'
    counts = [[len(group['params']) for group in each] for each in (groups, optimizer.param_groups)]
    if counts[0] != counts[1]:
        return f'an optimizer has {counts[0]} parameters, this training {counts[1]}'
    numbers = list(chain.from_iterable(group['params'] for group in groups))
    if not all(isinstance(number, int) for number in numbers) or len(set(numbers)) < len(numbers):
        return 'the params of an optimizer are not different numbers'
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for key in ('lr', 'initial_lr'):
            if key in own and not _is_number(group.get(key)):
                return f'{key} of an optimizer is {group.get(key)!r}, not a number from 0'
    parameters = dict(zip(numbers, chain.from_iterable(group['params'] for group in optimizer.param_groups),
                          strict=True))
    moments = saved.get('state')
    if not isinstance(moments, Mapping) or not moments.keys() <= parameters.keys():
        return 'an optimizer has moments of parameters that it does not have'
    needed = MOMENTS if isinstance(optimizer, torch.optim.Adam) else set()
    return next(filter(None, (_moments_problem(number, parameters[number], values, needed)
                              for number, values in moments.items())), None)


def _moments_problem(number, parameter, values, needed):
    if not isinstance(values, Mapping) or not needed <= values.keys():
        return f'parameter {number} of an optimizer lacks one of {", ".join(sorted(needed))}'
    for key, value in values.items():
        if key == 'step':
            if not (value.numel() == 1 and _is_number(value.item()) if torch.is_tensor(value) else _is_number(value)):
                return f'step of parameter {number} of an optimizer is {value!r}, not a number from 0'
        elif torch.is_tensor(value) or key in needed:
            if not torch.is_tensor(value) or value.shape != parameter.shape or not value.is_floating_point():
                return (f'{key} of parameter {number} of an optimizer has shape {tuple(getattr(value, "shape", ()))}, '
                        f'the parameter {tuple(parameter.shape)}')
            if not value.isfinite().all() or (key.endswith('_sq') and (value < 0).any()):
                return f'{key} of parameter {number} of an optimizer holds values that no training gives, such as NaN'
    return None


def _scheduler_problem(saved):
    epoch = saved.get('last_epoch') if isinstance(saved, Mapping) else None
    return None if is_count(epoch) else f'last_epoch of a scheduler is {epoch!r}, not a whole number from 0'


def _random_states_problem(state):
    before = random_states()
    try:
        for states in saved_random_states(state):
            set_random_states(states)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        return f'random_states are none ({type(error).__name__}: {" ".join(str(error).split())})'
    finally:
        set_random_states(before)
    return None


def _place_problem(state):
    taken, warmup_iter = state.get('taken', 0), state.get('warmup_iter')
    if not isinstance(warmup_iter, (int, float, type(None))):
        return f'warmup_iter is {warmup_iter!r}, not a number'
    return None if is_count(taken) else f'taken is {taken!r}, not a whole number from 0'


def _best_values_problem(state):
    best = state.get('best_metric_results', {})
    whole = isinstance(best, Mapping) and all(
        isinstance(metrics, Mapping) and all(
            isinstance(value, Mapping) and {'better', 'val', 'iter'} <= value.keys() for value in metrics.values())
        for metrics in best.values())
    return None if whole else 'best_metric_results are not {dataset: {metric: {better, val, iter}}}'


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 that 64 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2 ** 62


def saved_random_states(state: Mapping) -> list[Mapping]:
    """Random states of every process of the training that saved a state; BasicSR's states have none."""
    states = state.get('random_states', [])
    return [states] if isinstance(states, Mapping) else list(states)


def restore(model, state: Mapping) -> None:
    """Have the optimizers and schedulers of a model go on from a state.

    In place of BasicSR's `resume_training` (models/base_model.py), by which options that were changed have no effect.
    Where the option file has another learning rate, schedule or warm-up than the state, training goes on with the
    rate that the option file's schedule has at this iteration. One warning names all that differs.

    Args:
        model (BaseModel): As for :func:`check_fits`.
        state: As for :func:`check_fits`.

    Raises:
        InputError: The state does not fit.
    """
    check_fits(model, state)
    warmup_iter = model.opt['train'].get('warmup_iter', -1)
    changes = []
    if state.get('warmup_iter', warmup_iter) != warmup_iter:
        changes.append(f'train.warmup_iter {state["warmup_iter"]} -> {warmup_iter}')
    for optimizer, saved in zip(model.optimizers, state['optimizers'], strict=True):
        changes += _restore_optimizer(optimizer, saved, _name_of(optimizer, model))
    for scheduler, saved in zip(model.schedulers, state['schedulers'], strict=True):
        changes += _restore_scheduler(scheduler, saved)
    if not changes:
        return
    for scheduler in model.schedulers:
        if type(scheduler) in SCHEDULES:
            set_learning_rates(scheduler, state['iter'], warmup_iter)
    rates = ', '.join(f'{group["lr"]:.4g}' for optimizer in model.optimizers for group in optimizer.param_groups)
    get_root_logger().warning(f'The option file differs from the training state of iteration {state["iter"]}; training '
                              f'goes on with the option file: {"; ".join(dict.fromkeys(changes))}. Learning rates '
                              f'are now {rates}.')


def _name_of(optimizer, model):
    """'optim_g' of model.optimizer_g."""
    names = [name for name, value in vars(model).items() if value is optimizer]
    return names[0].replace('optimizer', 'optim') if names else 'optimizer'


def _restore_optimizer(optimizer, saved, name):
    """Take the moments of a state. Returns what its settings have that the option file has not."""
    own_groups = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    groups = [{**group, **{key: own.get(key) for key in OF_THE_MACHINE}}  # PyTorch moves `step` by these
              for group, own in zip(saved['param_groups'], own_groups, strict=True)]
    optimizer.load_state_dict({'state': saved['state'], 'param_groups': groups})
    changes = []
    for group, own in zip(optimizer.param_groups, own_groups, strict=True):
        for key, value in own.items():
            if key == 'lr':  # where schedule and warm-up have come to
                continue
            if key in group and _plain(group[key]) != _plain(value):
                option = 'lr' if key == 'initial_lr' else key
                changes.append(f'train.{name}.{option} {_plain(group[key])} -> {_plain(value)}')
            group[key] = value
    for group in optimizer.param_groups:
        for parameter in group['params']:
            moments = optimizer.state.get(parameter, {})
            for key, value in moments.items():  # a fused Adam takes them only in the weights' layout in memory
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            if group.get('amsgrad') and moments:
                moments.setdefault('max_exp_avg_sq', moments['exp_avg_sq'].clone())
    return changes


def _restore_scheduler(scheduler, saved):
    """Take how far a schedule has come. Returns what of the schedule is not that of the option file."""
    names = SCHEDULES.get(type(scheduler))
    if names is None:  # of another package: which of its values are options is not known
        scheduler.load_state_dict(saved)
        return []
    scheduler.last_epoch = saved['last_epoch']
    scheduler._step_count = saved['last_epoch'] + 1
    if any(name not in saved for name in names):
        return [f'train.scheduler.type {type(scheduler).__name__}, the state has another']
    pairs = [(name, _plain(saved[name]), _plain(getattr(scheduler, name))) for name in names]
    return [f'train.scheduler.{name} {before} -> {now}' for name, before, now in pairs if before != now]


def _plain(value):
    if isinstance(value, Counter):
        return sorted(value.elements())
    return list(value) if isinstance(value, tuple) else value


def set_learning_rates(scheduler, iteration: int, warmup_iter: int) -> None:
    """Give an optimizer the rates that a schedule of BasicSR has after an iteration, as if it had been used from the
    start. BasicSR's own MultiStepRestartLR only changes the rate that it finds.

    Args:
        scheduler: With `last_epoch` set to where it has come.
        iteration: The last one.
        warmup_iter: Length of BasicSR's linear warm-up; below 2: none.
    """
    epoch = scheduler.last_epoch
    if iteration < warmup_iter:
        rates = [group['initial_lr'] / warmup_iter * iteration for group in scheduler.optimizer.param_groups]
    elif isinstance(scheduler, CosineAnnealingRestartLR):
        scheduler.last_epoch = min(epoch, scheduler.cumulative_period[-1])  # BasicSR's formula ends there
        rates = scheduler.get_lr()
        scheduler.last_epoch = epoch
    else:
        begin = max(warmup_iter - 1, 0)  # the warm-up overwrites what came before
        restart = max((restart for restart in scheduler.restarts if begin <= restart <= epoch), default=None)
        factor = 1. if restart is None else scheduler.restart_weights[scheduler.restarts.index(restart)]
        first = begin if restart is None else restart + 1
        steps = sum(count for milestone, count in scheduler.milestones.items() if first <= milestone <= epoch)
        rates = [group['initial_lr'] * factor * scheduler.gamma ** steps for group in scheduler.optimizer.param_groups]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group['lr'] = rate
    scheduler._last_lr = rates
