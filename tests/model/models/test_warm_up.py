"""Learning rates at the end of the warm-up."""
import pytest
from helpers import NLL_OPT, SMALL, cpu_options, training_model

from hcflow_model import HCFlowModel


def test_warm_up_ends_at_the_learning_rate(tmp_path):
    model = training_model(tmp_path, NLL_OPT, lr=1e-3)
    rates = []
    for current_iter in range(1, 7):
        model.update_learning_rate(current_iter, warmup_iter=4)
        rates += model.get_current_learning_rate()
        model.optimizer_g.step()
    assert rates == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize('more', [{'milestones': [3], 'gamma': 0.5},
                                  {'milestones': [], 'restarts': [0, 3], 'restart_weights': [1, 0.5]}], ids=str)
def test_a_step_of_the_schedule_at_the_end_of_warm_up_counts(more, tmp_path):
    opt = cpu_options(tmp_path, SMALL, NLL_OPT, lr=1e-3)
    opt['train']['scheduler'] = {'type': 'MultiStepRestartLR', **more}
    model = HCFlowModel(opt)
    for current_iter in range(1, 7):
        model.update_learning_rate(current_iter, warmup_iter=4)
        model.optimizer_g.step()
    assert model.get_current_learning_rate() == pytest.approx([5e-4])
