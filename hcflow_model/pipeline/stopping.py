"""SIGTERM and Ctrl-C: training finishes its iteration, saves and ends; a second signal ends it at once."""
import os
import signal
import time
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME = 1.  # seconds: launchers and terminals both pass a signal on, and what comes twice so soon is the same one


class TrainingStopped(SystemExit):
    """Training was asked to stop, and has saved. Ends the process with the shell's code for the signal.

    Args:
        signum (int): SIGTERM (code 143) or SIGINT (code 130).
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
    """Within it SIGTERM and SIGINT only ask to stop; the model obeys after its iteration. For the main thread."""
    before = {signum: signal.signal(signum, _take) for signum in SIGNALS}
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
    if _Wish.signum is not None and time.monotonic() - _Wish.time > SAME:
        os._exit(128 + signum)
    if _Wish.signum is None:
        _Wish.signum, _Wish.time = signum, time.monotonic()
        if _Wish.at_once:
            _Wish.at_once = False
            raise Interrupted
