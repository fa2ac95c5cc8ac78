"""BasicSR's sampler, which also knows how far its epoch has come and can go on from there."""
from collections.abc import Mapping

from basicsr.data.data_sampler import EnlargedSampler

from hcflow_model.checkpoints.files import set_random_states


class EpochSampler(EnlargedSampler):
    """In place of the EnlargedSampler of `basicsr.train`, whose loop tells the model nothing of its epoch and starts
    the epoch of a training state anew.

    Attributes:
        newest (EpochSampler | None): The one of the training that runs.
        taken (int): Samples of this epoch that were trained on, by this process.
    """

    newest = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.taken, self._goes_on, self._state = 0, None, None
        EpochSampler.newest = self

    def go_on(self, taken: int, random_states: Mapping | None) -> None:
        """Begin the next epoch after its first `taken` samples, with these states of the random generators."""
        self._goes_on = taken, random_states

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self._state, self._goes_on = self._goes_on, None
        self.taken = self._state[0] if self._state else 0

    def __iter__(self):
        order = list(super().__iter__())
        if self._state is None:
            return iter(order)
        (taken, random_states), self._state = self._state, None
        if random_states is not None:
            # Not earlier: making an iterator over a DataLoader draws a number, which the state has behind it.
            set_random_states(random_states)
        return iter(order[taken:])
