"""What several test files need: small networks, the layer contract, golden arrays."""
import copy
import csv
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import yaml

from hcflow_arch import HCFlowNet, load_official_state_dict
from hcflow_arch.flow.layers import ActNorm2d
from hcflow_model import HCFlowModel

ROOT = Path(__file__).parents[1]
DATA = ROOT / 'tests' / 'data'
GOLDEN = DATA / 'golden'
SMALL = {'num_flow_steps': 2, 'num_cond_steps': 2, 'hidden_channels': 6, 'num_subnet_grow_ch': 4, 'num_feat': 4,
         'num_block': [1, 1], 'num_grow_ch': 4}
SMALL_NET = {f'network_g.{key}': value for key, value in SMALL.items()}  # for demo_options
GOLDEN_SIZE = {'num_flow_steps': 2, 'num_cond_steps': 2, 'hidden_channels': 12, 'num_feat': 8, 'num_block': (1, 1),
               'num_grow_ch': 4}
FEATURE_NET = {'type': 'RRDBNet', 'num_out_ch': 5, 'scale': 1, 'num_feat': 4, 'num_block': 1, 'num_grow_ch': 4}
NET_D = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 2}  # takes every size that is a multiple of 8


def small_net(scale=4, task='sr', seed=0, **kwargs):
    """An HCFlowNet of all parts, as small as possible."""
    torch.manual_seed(seed)
    return HCFlowNet(**{'scale': scale, 'task': task, **SMALL, **kwargs})


@torch.no_grad()
def perturb(module, amount=0.1, seed=0):
    """Move all trained parameters away from their start, where couplings are identities, and start actnorms."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter += amount * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    for layer in module.modules():
        if isinstance(layer, ActNorm2d):
            layer.mark_initialized()
    return module


def random_image(*shape, seed=0, dtype=torch.float32):
    """Values in [0, 0.95): dequantization noise cannot push them out of [0, 1]."""
    return 0.95 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(got, wanted):
    """Largest error relative to the largest wanted value."""
    got, wanted = (torch.as_tensor(x).detach().double().cpu() for x in (got, wanted))
    assert got.shape == wanted.shape
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def jacobian_log_det(function, x):
    """log|det| of the autograd Jacobian of `function` at one sample (1, ...)."""
    jacobian = torch.autograd.functional.jacobian(lambda sample: function(sample).flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel())).logabsdet


def check_flow_layer(layer, shape, context_ch=None, amount=0.2):
    """Hold a FlowLayer to its contract, in float64 and on perturbed parameters.

    Args:
        layer: As its constructor leaves it.
        shape: (C, H, W) of its input, tiny.
        context_ch: Channels of its context; None: it takes none.
        amount: Size of the perturbation.
    """
    torch.manual_seed(0)
    fresh = copy.deepcopy(layer).double()
    layer = perturb(layer.double(), amount)
    x = torch.randn(2, *shape, dtype=torch.float64)
    given = x.clone()
    context = None
    with torch.no_grad():
        if context_ch is not None:
            height, width = layer(x, torch.zeros(2, context_ch, *shape[1:]).double())[0].shape[2:]
            context = torch.randn(2, context_ch, height, width, dtype=torch.float64)
        z, log_det = layer(x, context)
        assert (layer.inverse(z, context) - x).abs().max() < 1e-9
    assert torch.equal(x, given)

    assert log_det.shape == (2,) and log_det.dtype == torch.float64
    for n in range(2):
        own_context = None if context is None else context[n:n + 1]
        wanted = jacobian_log_det(lambda sample, own=own_context: layer(sample, own)[0], x[n:n + 1])
        assert (log_det[n] - wanted).abs() < 1e-8

    with torch.no_grad():
        if any(parameter.requires_grad for parameter in fresh.parameters()):
            assert not torch.allclose(fresh.eval()(x, context)[0], z)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        fresh.train().load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert all(map(torch.equal, fresh(x, context), (z, log_det)))
        assert torch.equal(fresh.inverse(z, context), layer.inverse(z, context))

        if context is not None:
            other = context + torch.randn_like(context)
            for n in range(2):
                assert (layer(x, other)[0][n] - z[n]).abs().max() > 1e-3
                assert (layer.inverse(z, other)[n] - x[n]).abs().max() > 1e-3


def load_golden(name):
    """(arrays of the case, weights under the released names), both as tensors."""
    case, weights = (dict(np.load(GOLDEN / f'{name}_{kind}.npz')) for kind in ('case', 'weights'))
    return ({key: value if value.dtype.kind == 'U' else torch.from_numpy(value) for key, value in case.items()},
            {key: torch.from_numpy(value) for key, value in weights.items()})


def golden_net(name):
    """(network with the golden weights, arrays of the case)."""
    case, weights = load_golden(name)
    state_dict, kwargs = load_official_state_dict(weights)
    net = HCFlowNet(**kwargs)
    net.load_state_dict(state_dict, strict=True)
    return net, case


def released_names(weights):
    """{our parameter name: released name}: every released tensor is filled with its number and translated."""
    numbered = {key: torch.full_like(value, number) for number, (key, value) in enumerate(weights.items())}
    ours, _ = load_official_state_dict(numbered)
    names = list(weights)
    return {key: names[int(value.flatten()[0])] for key, value in ours.items() if not key.endswith('.initialized')}


def released_state_dict(name):
    """A full-size state dict of the released names and shapes; its zeros take no memory."""
    shapes = json.loads((GOLDEN / f'{name}_keys.json').read_text())
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


def model_options(root, network, losses, lr=1e-4, scale=4, **train):
    """Options of a model in training, as BasicSR's parser hands them on: {loss blocks}, no data, no files yet."""
    folders = {name: str(root / name) for name in ('models', 'training_states', 'visualization')}
    return {
        'name': 'test', 'scale': scale, 'num_gpu': torch.cuda.device_count() and 1, 'is_train': True, 'dist': False,
        'rank': 0, 'world_size': 1, 'root_path': str(root), 'path': folders, 'datasets': {},
        'network_g': {'type': 'HCFlowNet', 'scale': scale, **network},
        'train': {'ema_decay': 0, 'total_iter': 10, **losses, **train,
                  'optim_g': {'type': 'Adam', 'lr': lr, 'weight_decay': 0, 'betas': [0.9, 0.99]},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [1000], 'gamma': 0.5}},
        'val': {'save_img': False},
    }


L1 = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
PERCEPTUAL_OPT = {'perceptual_opt': {'type': 'PerceptualLoss', 'layer_weights': {'conv1_2': 1}, 'vgg_type': 'vgg19',
                                     'perceptual_weight': 0.05, 'style_weight': 0, 'criterion': 'l1'}}
NLL_OPT = {'nll_opt': {'type': 'NLLLoss', 'loss_weight': 1.0}}
RESCALING_OPTS = {'lq_opt': {'type': 'MSELoss', 'loss_weight': 0.05, 'reduction': 'mean'},
                  'latent_opt': {'type': 'LatentLoss', 'loss_weight': 1e-5}, 'pixel_opt': L1}


def gan_opts(gan_type='vanilla', loss='GANLoss', loss_weight=0.1):
    """Blocks of `train` that a GAN needs."""
    return {'gan_opt': {'type': loss, 'gan_type': gan_type, 'loss_weight': loss_weight},
            'optim_d': {'type': 'Adam', 'lr': 1e-4, 'weight_decay': 0, 'betas': [0.9, 0.99]}}


def training_batch(size=16, scale=4, num=2, seed=0):
    """A batch of pairs as BasicSR's loader gives them."""
    return {'gt': random_image(num, 3, size, size, seed=seed),
            'lq': random_image(num, 3, size // scale, size // scale, seed=seed + 1)}


def cpu_options(*args, **kwargs):
    """:func:`model_options` for a model on the CPU, also where there is a GPU."""
    return {**model_options(*args, **kwargs), 'num_gpu': 0}


def training_model(tmp_path, losses, network_d=None, network=SMALL, path=None, **train):
    """An HCFlowModel with a small network, always of the same starting weights. `train`: options of that block."""
    opt = cpu_options(tmp_path, network, copy.deepcopy(losses), **train)
    if network_d:
        opt['network_d'] = dict(network_d)
    opt['path'].update(path or {})
    for folder in ('models', 'training_states'):
        (tmp_path / folder).mkdir(exist_ok=True)
    torch.manual_seed(1)
    return HCFlowModel(opt)


def train(model, iters, size=16, first=1):
    """Train iterations `first` to `iters`, each with its own batch. Returns their logs."""
    logs = []
    for current_iter in range(first, iters + 1):
        model.update_learning_rate(current_iter)
        model.feed_data(training_batch(size, seed=10 * current_iter))
        model.optimize_parameters(current_iter)
        logs.append(dict(model.get_current_log()))
    return logs


class Exploit:
    """What makes the folder 'ran' when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.path.abspath('ran'),)


class GraphStandIn:
    """In place of a CudaGraph: runs its function every time, as replaying does, into gradients and lists of its own."""
    model, made, replays = None, 0, 0

    def __init__(self, function, *inputs, device=None, pool=None):
        self.function, self.shapes = function, [tensor.shape for tensor in inputs]
        type(self).made += 1

    def pool(self):
        return 'pool'

    def __call__(self, *inputs):
        assert [tensor.shape for tensor in inputs] == self.shapes
        type(self).replays += 1
        model = self.model
        if model is None:
            return self.function(*inputs)
        parameters = list(model.net_g.parameters())
        grads = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        outputs = self.function(*inputs)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        return outputs


def weights_of(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def adam_states(optimizer):
    """Copies of the moments and steps of all parameters."""
    return [{key: torch.as_tensor(value).clone() for key, value in state.items()} for state in
            optimizer.state.values()]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Images(torch.utils.data.Dataset):
    """Pairs (or single images) of a list, as BasicSR's datasets hand them on in validation."""

    def __init__(self, images, name='set'):
        self.images, self.opt = images, {'name': name, 'phase': 'val'}

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        paths = {f'{key}_path': f'/data/image{index}.png' for key in self.images[index]}
        return {**self.images[index], **paths}


def loader(images, name='set'):
    """DataLoader of batch size 1 over images, a list of {'lq': (3, h, w), 'gt': (3, H, W)}."""
    return torch.utils.data.DataLoader(Images(images, name))


def read_report(folder):
    """(rows of metrics.csv, content of metrics.json)."""
    with open(folder / 'metrics.csv', newline='') as file:
        return list(csv.DictReader(file)), json.loads((folder / 'metrics.json').read_text())


def write_random_vgg(folder):
    """BasicSR's VGG19 file below `folder`, of random features; its classifier takes no space."""
    from torchvision.models import vgg19
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in vgg19().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) * (2 / shape[1:].numel())**0.5
               if name.startswith('features') and len(shape) == 4 else torch.zeros(1).expand(shape)
               for name, shape in shapes.items()}
    path = Path(folder) / 'experiments' / 'pretrained_models' / 'vgg19-dcbb9e9d.pth'
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    return path


def command_line(command='train', **flags):
    """Arguments of the `basicsr` command."""
    return SimpleNamespace(**{'command': command, 'opt': 'opt.yml', 'launcher': 'none', 'auto_resume': False,
                              'debug': False, 'force_yml': None, **flags})


REMOVED = ...  # a value that deepcopy keeps


def demo_options(changes=None):
    """Options of the demo as they stand in its file, with paths that hold from every folder.

    Args:
        changes (dict): As for :func:`change_options`.
    """
    text = (ROOT / 'options' / 'demo_train_HCFlow_x4.yml').read_text()
    return change_options(yaml.safe_load(text.replace('tests/data/', f'{DATA}/')), changes or {})


def change_options(opt, changes):
    """Set {'train.optim_g.lr': value} in nested options, making blocks where there are none; REMOVED removes."""
    for path, value in changes.items():
        *blocks, key = path.split('.')
        block = opt
        for name in blocks:
            block = block.setdefault(name, {})
        if value is REMOVED:
            block.pop(key, None)
        else:
            block[key] = value
    return opt


def below(folder):
    """Names of all files of a folder and its subfolders, sorted."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def fails(capsys, *argv):
    """The one line that a command says of what is wrong; nothing was written."""
    from hcflow_model.commands import main
    before = below('.')
    assert main([str(arg) for arg in argv]) == 1
    out, err = capsys.readouterr()
    assert err.startswith('hcflow: error: ') and err.count('\n') == 1 and not out and below('.') == before
    return err
