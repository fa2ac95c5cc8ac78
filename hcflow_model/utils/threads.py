"""How OpenMP's threads wait, beside other programs."""
import os
import sys
import time

SETTINGS = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OMP_THREAD_LIMIT')
SHARE = 0.25  # of the cores that others keep busy
SAMPLE = 0.1  # seconds


def wait_asleep_beside_others() -> None:
    """To be called before PyTorch is imported: threads sleep while they wait if other programs keep cores busy.

    libgomp's threads spin after each operation, so that the next one starts at once. Beside other programs a spinning
    thread takes the time of the one it waits for, and a step takes several times as long; asleep they lose half their
    speed on an idle machine, so there nothing is set (benchmarks/README.md has figures). Numbers do not change.
    Nothing is done if the user has set any of `SETTINGS` (OMP_WAIT_POLICY=active, for instance), or on systems other
    than Linux.
    """
    if 'torch' in sys.modules or any(name in os.environ for name in SETTINGS):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1
    busy = busy_cores() if cores > 1 else 0.
    # the load of the last minute as well: not for what only happens to run now
    if busy >= SHARE * cores and os.getloadavg()[0] >= SHARE * cores:
        os.environ['OMP_WAIT_POLICY'] = 'passive'


def busy_cores() -> float:
    """How many of the cores that this process may use are busy while it sleeps; 0 if the system does not say."""
    before = _idle_and_all()
    time.sleep(SAMPLE)
    after = _idle_and_all()
    if before is None or after is None or after[1] == before[1]:
        return 0.
    idle = (after[0] - before[0]) / (after[1] - before[1])
    return (1 - idle) * len(os.sched_getaffinity(0))


def _idle_and_all():
    """Ticks that the cores of this process have been idle, and all their ticks."""
    try:
        with open('/proc/stat', encoding='ascii') as file:
            rows = [line.split() for line in file if line.startswith('cpu')]
        mine = {f'cpu{core}' for core in os.sched_getaffinity(0)}
        ticks = [[int(value) for value in row[1:9]] for row in rows if row[0] in mine]
    except (OSError, ValueError, AttributeError):
        return None
    return sum(row[3] + row[4] for row in ticks), sum(map(sum, ticks))  # idle, waiting for a disk
