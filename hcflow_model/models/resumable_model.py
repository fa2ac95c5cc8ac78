"""Trainings that run unattended: complete checkpoints, resuming from training states, stopping on a signal."""
import copy
import signal

import torch.distributed as dist
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from hcflow_arch import HCFlowNet, InputError
from hcflow_model.checkpoints import files as checkpoints
from hcflow_model.checkpoints.training_state import restore, saved_random_states
from hcflow_model.pipeline import stopping
from hcflow_model.pipeline.sampler import EpochSampler


class ResumableModel(SRModel):
    """Saves, resumes and stops models that train net_g (with net_g_ema) and optionally net_d."""

    renames_files = True  # writes beside a checkpoint's name and renames, which replaces a link
    stops_when_asked = True  # after a signal, it finishes the iteration and saves
    epoch = last_iter = first_iter = 0  # last_iter: the last complete one
    saves_alone = False  # the other processes no longer answer
    last_saved = None  # (iteration, its training state)
    load_network = checkpoints.load_network

    # ---- saving ----

    def save(self, epoch, current_iter):
        """Save the networks, then the state that needs them. All processes call it: the state has their random states.

        Raises:
            InputError: A weight is NaN or infinite: the checkpoints before it are the last good ones.
        """
        nets, keys = [self.net_g], ['params']
        if hasattr(self, 'net_g_ema'):
            nets, keys = [self.net_g, self.net_g_ema], ['params', 'params_ema']
        for net in [*nets, *([self.net_d] if getattr(self, 'adversary', None) else [])]:
            checkpoints.check_finite(net.named_parameters(), f'of iteration {self.last_iter}, which is not saved,')
        self.save_network(nets, 'net_g', current_iter, param_key=keys)
        if getattr(self, 'adversary', None):
            self.save_network(self.net_d, 'net_d', current_iter)
        if current_iter != -1:
            self._random_states = [checkpoints.random_states()]
            if self.opt['dist'] and not self.saves_alone:
                self._random_states = [None] * self.opt['world_size']
                dist.all_gather_object(self._random_states, checkpoints.random_states())
            self.epoch = epoch
        self.save_training_state(epoch, current_iter)

    @master_only
    def save_network(self, net, net_label, current_iter, param_key='params'):
        nets, keys = (net, param_key) if isinstance(net, list) else ([net], [param_key])
        weights = {key: {name: value.detach().cpu() for name, value in self.get_bare_model(n).state_dict().items()}
                   for n, key in zip(nets, keys, strict=True)}
        network = self.get_bare_model(nets[0])
        if isinstance(network, HCFlowNet):  # so that the file alone rebuilds it
            weights.update(network_g={'type': 'HCFlowNet', **network.arguments},
                           iter=self.last_iter if current_iter == -1 else current_iter)
        name = 'latest' if current_iter == -1 else current_iter
        checkpoints.atomic_save(weights, f'{self.opt["path"]["models"]}/{net_label}_{name}.pth')

    def save_training_state(self, epoch, current_iter):
        if current_iter == -1:
            return
        state = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'warmup_iter': self.opt['train'].get('warmup_iter', -1),
            'best_metric_results': getattr(self, 'best_metric_results', {}),
            'random_states': self._random_states,
        }
        if EpochSampler.newest:
            state['taken'] = EpochSampler.newest.taken
        self.last_saved = current_iter, state  # on all processes: it decides whether they save again, together
        self._write_state()

    @master_only
    def _write_state(self):
        checkpoints.atomic_save(self.last_saved[1], self._state_path(self.last_saved[0]))

    def _state_path(self, current_iter):
        return f'{self.opt["path"]["training_states"]}/{current_iter}.state'

    # ---- resuming ----

    def resume_training(self, resume_state):
        restore(self, resume_state)
        self.best_metric_results = resume_state.get('best_metric_results', {})
        self.epoch, self.last_iter = resume_state['epoch'], resume_state['iter']
        self.first_iter = self.last_iter
        states = saved_random_states(resume_state)
        same_processes = len(states) == self.opt['world_size']  # else each draws from its own seed
        if same_processes:
            checkpoints.set_random_states(states[self.opt['rank']])
        if same_processes and EpochSampler.newest and 'taken' in resume_state:
            EpochSampler.newest.go_on(resume_state['taken'], states[self.opt['rank']])

    # ---- validation and stopping ----

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        """As in BasicSR. Validation in training does not change the random generators, and new best values are also
        written to a state of this iteration that is already saved. In a single process, a signal ends it at once."""
        if not self.is_train:
            return super().validation(dataloader, current_iter, tb_logger, save_img)
        before, states = copy.deepcopy(getattr(self, 'best_metric_results', {})), checkpoints.random_states()
        try:
            if self.opt['dist']:  # processes that stop at different images would wait for each other
                super().validation(dataloader, current_iter, tb_logger, save_img)
            else:
                with stopping.at_once():
                    super().validation(dataloader, current_iter, tb_logger, save_img)
        except stopping.Interrupted:
            checkpoints.set_random_states(states)
            self.net_g.train()
            self.stop(min(current_iter, self.last_iter))
        except Exception:
            checkpoints.set_random_states(states)  # what is saved after it is as if it had not begun
            raise
        checkpoints.set_random_states(states)
        best = getattr(self, 'best_metric_results', {})
        if self.last_saved and self.last_saved[0] == current_iter and best != before:
            self.last_saved[1]['best_metric_results'] = best
            self._write_state()

    def save_now(self, current_iter):
        """Save everything now, unless this iteration is saved."""
        if not self.last_saved or self.last_saved[0] != current_iter:
            get_root_logger().info('Saving models and training states.')
            self.save(EpochSampler.newest.epoch if EpochSampler.newest else self.epoch, current_iter)
        if self.opt['dist']:
            dist.barrier()  # if one process ends early, the launcher kills the one that saves

    def save_after_error(self):
        """Save the last whole iteration before an error ends training, such as an image that cannot be read: process 0
        by itself, because the others wait elsewhere. Errors of saving are logged, so that the first one is raised."""
        if self.last_iter == self.first_iter or self.opt['rank'] != 0 or (
                self.last_saved and self.last_saved[0] == self.last_iter):
            return
        self.saves_alone = True
        try:
            self.save(EpochSampler.newest.epoch if EpochSampler.newest else self.epoch, self.last_iter)
        except (InputError, RuntimeError) as error:
            get_root_logger().error(f'Iteration {self.last_iter} cannot be saved: {error}')
        else:
            get_root_logger().warning(f'Training ends with an error; iteration {self.last_iter} is saved '
                                      f'({self._state_path(self.last_iter)}) and --auto_resume goes on from there.')

    def stop(self, current_iter):
        """Save everything and end training after a signal."""
        self.save_now(current_iter)
        signum = stopping.requested() or signal.SIGTERM  # another process got it
        raise stopping.TrainingStopped(
            signum, f'{signal.Signals(signum).name}: training stopped after iteration {current_iter}, which is saved '
            f'({self._state_path(current_iter)}); the same command with --auto_resume goes on from there')
