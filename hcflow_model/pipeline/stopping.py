"""Signals that ask to stop: training finishes its iteration and saves; a second SIGTERM or Ctrl-C ends it at once."""
import os
import signal
import time
from contextlib import contextmanager

URGENT = (signal.SIGTERM, signal.SIGINT)
# also: the terminal is gone; Slurm's and others' word that time runs out. Not every system has these
SIGNALS = (*URGENT, *(getattr(signal, name) for name in ('SIGHUP', 'SIGUSR1', 'SIGUSR2') if hasattr(signal, name)))
SAME = 1.  # seconds: launchers and terminals both pass a signal on, and what comes twice so soon is the same one


class TrainingStopped(SystemExit):
    """Training was asked to stop, and has saved. Ends the process with the shell's code for the signal.

    Args:
        signum (int): SIGTERM (code 143), SIGINT (code 130) and so on.
        message (str): One line for the user.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(128 + signum)
        self.message = message


class Interrupted(BaseException):
    """A signal came where nothing is half-done, as in validation."""


class _Wish:
    signum, time, at_once = None, 0., False


def requested() -> int | None:
    """The signal that asked this process to stop; None: none did."""
    return _Wish.signum


@contextmanager
def signals_stop_training():
    """Within it SIGNALS only ask to stop; the model obeys after its iteration. For the main thread.

    What the process ignores stays so, such as SIGHUP under nohup.
    """
    before = {signum: signal.signal(signum, _take) for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN}
    _Wish.signum = None
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _Wish.signum = None


@contextmanager
def at_once():
    """Within it a signal raises :class:`Interrupted` instead of waiting for the end of an iteration."""
    _Wish.at_once = True
    try:
        if _Wish.signum is not None:
            raise Interrupted
        yield
    finally:
        _Wish.at_once = False


def _take(signum, frame):
    if _Wish.signum is not None and signum in URGENT and time.monotonic() - _Wish.time > SAME:
        os._exit(128 + signum)
    if _Wish.signum is None:
        _Wish.signum, _Wish.time = signum, time.monotonic()
        if _Wish.at_once:
            _Wish.at_once = False
            raise Interrupted
