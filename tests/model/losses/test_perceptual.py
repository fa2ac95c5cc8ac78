"""Weights and options of the networks that losses and metrics need."""
import urllib.error

import pytest
from helpers import NLL_OPT, PERCEPTUAL_OPT, SMALL, cpu_options, training_model

from hcflow_arch import InputError
from hcflow_model import HCFlowModel


@pytest.mark.slow
def test_vgg_weights_that_cannot_be_had(tmp_path, monkeypatch):
    def no_download(*args, **kwargs):
        raise urllib.error.URLError('no network')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', no_download)
    with pytest.raises(InputError, match=r'no network.*experiments/pretrained_models/vgg19-dcbb9e9d\.pth'):
        training_model(tmp_path, PERCEPTUAL_OPT)


@pytest.mark.parametrize('change', [{'layer_weights': {'conv9_1': 1}}, {'vgg_type': 'vgg20'}, {'layer_weights': 1}])
def test_perceptual_options_that_do_not_exist(change, tmp_path):
    with pytest.raises(InputError, match=next(iter(change))):
        training_model(tmp_path, {'perceptual_opt': {**PERCEPTUAL_OPT['perceptual_opt'], **change}})


def test_lpips_weights_are_looked_for_before_training(tmp_path, monkeypatch):
    def no_weights(*args):
        raise InputError('LPIPS needs a file')

    monkeypatch.setattr('hcflow_model.losses.build.check_lpips_available', no_weights)
    opt = cpu_options(tmp_path, SMALL, NLL_OPT)
    opt['val']['metrics'] = {'lpips': {'type': 'calculate_lpips'}}
    with pytest.raises(InputError, match='LPIPS needs a file'):
        HCFlowModel(opt)
