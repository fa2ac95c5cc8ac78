"""Parts of a flow that are not trained (`train.freeze`), or at a learning rate of their own (`train.optim_g.lr_mul`).

A part is called as in the names of its weights: `feature_net` and `prior` are those of all levels, `levels.0` is all of
the finest level, `levels.0.feature_net` its feature net.
"""
from collections.abc import Iterable, Mapping

import torch

from hcflow_arch import InputError
from hcflow_model.options.rules import did_you_mean


def freeze(net: torch.nn.Module, parts: Iterable[str]) -> None:
    """Stop training the weights of these parts. Before DistributedDataParallel, which asks what is trained.

    Raises:
        InputError: The network has no such part, or nothing else.
    """
    for part in parts:
        for parameter in _weights('train.freeze', net, part):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise InputError(f"'train.freeze' is {list(parts)!r}, which is the whole network; nothing would be trained.")


def parameter_groups(net: torch.nn.Module, lr: float, lr_mul: Mapping[str, float]) -> list[dict]:
    """The trained weights, in groups for the optimizer: those of no part, then each part with its rate.

    Args:
        net: The network.
        lr: Learning rate of weights in no part.
        lr_mul: {part: factor of its rate}; a weight in several parts has the factor of the first.

    Raises:
        InputError: The network has no such part, or nothing of it is trained at its rate.
    """
    taken, groups = set(), []
    for part, factor in lr_mul.items():
        own = [parameter for parameter in _weights('train.optim_g.lr_mul', net, part)
               if parameter.requires_grad and parameter not in taken]
        if not own:
            raise InputError(f"'train.optim_g.lr_mul' has {part!r}, of which nothing is left to train: it is frozen, "
                             'or the parts before it have it all. Remove it.')
        taken.update(own)
        groups.append({'params': own, 'lr': lr * factor})
    rest = [parameter for parameter in net.parameters() if parameter.requires_grad and parameter not in taken]
    return [{'params': rest}, *groups] if rest else groups


def _weights(option, net, part):
    names = dict(net.named_parameters())
    found = [parameter for name, parameter in names.items() if f'.{part}.' in f'.{name}.']
    if not found:
        parts = dict.fromkeys(name.split('.')[2] for name in names if name.count('.') > 2)
        parts.update(dict.fromkeys('.'.join(name.split('.')[:length]) for length in (2, 3) for name in names))
        raise InputError(f"'{option}': the network has no part {part!r}{did_you_mean(part, parts)}. It has "
                         f'{", ".join(parts)}, and parts of these.')
    return found
