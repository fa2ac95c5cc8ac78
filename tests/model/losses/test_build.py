"""Losses of an option file: wrong options are one error, bugs of a plugin keep their traceback."""
import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY

from hcflow_arch import InputError
from hcflow_model.losses.build import IMAGES, build_train_loss


class PluginLoss(torch.nn.Module):
    """Of somebody else's package."""

    def __init__(self, weight=1., bug=None):
        super().__init__()
        if weight < 0:
            raise ValueError('weight must not be negative')
        if bug == 'init':
            len(weight)

    def forward(self, x, y):
        return x.missing


@pytest.fixture(autouse=True)
def plugin():
    LOSS_REGISTRY._obj_map['PluginLoss'] = PluginLoss
    yield
    del LOSS_REGISTRY._obj_map['PluginLoss']


def build(**options):
    return build_train_loss({'pixel_opt': options}, 'pixel_opt', IMAGES, IMAGES, device=torch.device('cpu'))


def test_bugs_of_plugins_are_raised_as_they_are():
    with pytest.raises(TypeError, match='has no len'):
        build(type='PluginLoss', bug='init')
    loss = build(type='PluginLoss')
    with pytest.raises(AttributeError, match='missing'):
        loss(IMAGES, IMAGES)


def test_what_a_plugin_says_of_its_options_is_one_error():
    with pytest.raises(InputError, match='weight must not be negative'):
        build(type='PluginLoss', weight=-1)


@pytest.mark.parametrize(('options', 'message'), [
    ({'type': 'L1Loss', 'reduction': 'half'}, 'Unsupported reduction mode'),
    ({'type': 'L1Loss', 'nothing': 1}, 'nothing'), ({'type': 'GANLoss', 'gan_type': 'vanilla'}, 'pixel_opt'),
    ({'type': 'L1Loss', 'reduction': 'none'}, 'must be one number')])
def test_losses_of_basicsr_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)
