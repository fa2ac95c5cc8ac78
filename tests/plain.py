"""The network by the textbook: plain autograd, one operation after another, to compare numbers, time and memory with.

`plain(net)` is a copy of an HCFlowNet whose dense blocks concatenate, whose actnorms are layers of their own, whose
matrices are inverted one by one, whose tensors lie in planes, and which recomputes and keeps nothing.
"""
import copy
import types

import torch
import torch.nn.functional as F

from hcflow_arch import HCFlowNet
from hcflow_arch.features.residual import ResidualBlock
from hcflow_arch.features.rrdb import RRDB, ResidualDenseBlock
from hcflow_arch.flow.layers import InvertibleConv1x1
from hcflow_arch.flow.steps import FlowSequential, FlowStep
from hcflow_arch.flow.subnets import FCN, DenseBlock


def dense_block(self, x, context=None):
    x = x if context is None else torch.cat([x, context], dim=1)
    for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
        x = torch.cat([x, F.leaky_relu(conv(x), 0.2)], dim=1)
    return self.conv5(x)


def residual_dense_block(self, x):
    return dense_block(self, x) * 0.2 + x


def rrdb(self, x):
    return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


def residual_block(self, x):
    return x + self.conv2(F.relu(self.conv1(x)))


def fcn(self, x, context=None):
    x = x if context is None else torch.cat([x, context], dim=1)
    x = F.relu(self.norm1.normalize(self.conv1(x)))
    x = F.relu(self.norm2.normalize(self.conv2(x)))
    return self.conv3(x)


def conv1x1(self, x, context=None):
    log_abs_det = torch.linalg.slogdet(self.weight.double())[1].to(x.dtype)
    return F.conv2d(x, self.weight[:, :, None, None]), (log_abs_det * x.shape[2] * x.shape[3]).expand(x.shape[0])


def conv1x1_inverse(self, z, context=None):
    return F.conv2d(z, torch.linalg.inv(self.weight.double()).to(z.dtype)[:, :, None, None])


def _layers(chain):
    if isinstance(chain, FlowStep):
        return [layer for layer in (chain.actnorm, chain.conv1x1, chain.coupling) if layer is not None]
    return list(chain)


def chain(self, x, context=None):
    log_det = x.new_zeros(x.shape[0])
    for layer in _layers(self):
        x, layer_log_det = layer(x, context)
        log_det = log_det + layer_log_det
    return x, log_det


def chain_inverse(self, z, context=None):
    for layer in reversed(_layers(self)):
        z = layer.inverse(z, context)
    return z


METHODS = {
    DenseBlock: {'forward': dense_block}, ResidualDenseBlock: {'forward': residual_dense_block},
    RRDB: {'forward': rrdb}, ResidualBlock: {'forward': residual_block}, FCN: {'forward': fcn},
    InvertibleConv1x1: {'forward': conv1x1, 'inverse': conv1x1_inverse},
    FlowStep: {'forward': chain, 'inverse': chain_inverse},
    FlowSequential: {'forward': chain, 'inverse': chain_inverse},
}


def plain(net):
    """A copy of an HCFlowNet, or of a part of one, that runs by plain autograd."""
    net = copy.deepcopy(net)
    if isinstance(net, HCFlowNet):
        net.lay_out(False)
    for module in net.modules():
        for name, method in METHODS.get(type(module), {}).items():
            setattr(module, name, types.MethodType(method, module))
    return net
