"""OpenMP's threads spin while the cores are this process's own, and sleep while others want them.

An OpenMP thread that waits for the others spins, by GCC's default for 300,000 turns. On cores of
its own that is right: a small model's step has hundreds of parallel regions, and a thread that
sleeps between two of them takes long to wake. Beside another busy process it is wrong: the thread
that spins holds up the very thread that it waits for, and a training on two threads falls to a
tenth of its speed. No count is right for both (`scripts/bench_contention.py` shows what each
costs), and the library reads its count once, when it is loaded.

It has a second, far smaller count, though, for times when it runs more threads than it has cores
(libgomp's manual, GOMP_SPINCOUNT), and it looks which of the two holds each time that it waits. So
a thread here watches how often the kernel takes a core from this process although it had work to
do (involuntary context switches), and while that is often it keeps a team of threads that do
nothing and take no time: one more than there are cores. The number of threads that compute, and so
every bit of a result, stays what it was.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

PERIOD_SECONDS = 0.25
BUSY_PER_SECOND = 40.0
"""Cores taken in a second, from all threads of the process, from which others count as busy. The \
scheduler's turns are some milliseconds: one busy neighbour on two cores makes it a hundred or \
more, an idle machine a handful."""
LEAST_SHARE = 0.25
"""A process that gets less than a core can lose it less often, so for it the number above is \
lower in proportion to the share of a core that it got, down to this share."""
QUIET_PERIODS = 8
"""Periods below that, in a row, after which the threads spin again."""
MOST_CORES = 64
"""With more than this no team is kept: a process seldom computes on all of them."""


class _Team:
    """The threads that do nothing, in the OpenMP library at `path`; there from `begin` to `end`."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path, mode=os.RTLD_NOW)
        self._start = library.GOMP_parallel
        self._start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self._start.restype = None
        # What each of them calls, once: it only reads the thread's own number.
        self._nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
        self.num_cores = int(library.omp_get_num_procs())
        self._ended = threading.Event()
        self._leader: threading.Thread | None = None

    def begin(self) -> None:
        """Have more threads than cores."""
        self._ended.clear()
        self._leader = threading.Thread(target=self._lead, name="openmp-team", daemon=True)
        self._leader.start()

    def _lead(self) -> None:
        self._start(self._nothing, None, self.num_cores + 1, 0)
        self._ended.wait()  # the library keeps a team for as long as the thread that began it

    def end(self) -> None:
        """Have as many threads as compute."""
        self._ended.set()
        if self._leader is not None:
            self._leader.join()
            self._leader = None

    @property
    def is_there(self) -> bool:
        return self._leader is not None


_watch: threading.Thread | None = None


def watch() -> bool:
    """Start the watch in this process, unless it runs; return whether it does.

    It does not where torch's OpenMP library is not GCC's or the system counts no context switches.
    """
    global _watch
    if _watch is not None and _watch.is_alive():
        return True
    path, taken = _library(), _times_taken()
    if path is None or taken is None:
        return False
    team = _Team(path)
    if team.num_cores > MOST_CORES:
        return False
    _watch = threading.Thread(target=_follow, args=(team,), name="contention", daemon=True)
    _watch.start()
    return True


def _follow(team: _Team) -> None:
    quiet, before, then, used = 0, _times_taken() or 0, time.monotonic(), time.process_time()
    while True:
        time.sleep(PERIOD_SECONDS)
        taken, now, used_now = _times_taken() or 0, time.monotonic(), time.process_time()
        busy = are_others_busy(taken - before, now - then, used_now - used)
        before, then, used = taken, now, used_now
        quiet = 0 if busy else quiet + 1
        if quiet == 0 and not team.is_there:
            team.begin()
        elif quiet >= QUIET_PERIODS and team.is_there:
            team.end()


def are_others_busy(times_taken: int, seconds: float, cpu_seconds: float) -> bool:
    """Return whether the kernel took cores from this process as often as busy others make it.

    Args: times_taken: involuntary context switches within `seconds`. cpu_seconds: what all threads
    computed within them.
    """
    share = min(1.0, max(LEAST_SHARE, cpu_seconds / seconds))
    return times_taken / seconds >= share * BUSY_PER_SECOND


def _library() -> str | None:
    """Return the file of GCC's OpenMP library that torch has loaded; None: there is none."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = [line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line]
    return next((path for path in paths if "/torch" in path), None)


def _times_taken() -> int | None:
    """Return the involuntary context switches of this process so far; None: nobody counts them."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
