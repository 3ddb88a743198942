"""How OpenMP's threads wait for each other; imported before torch by whatever starts a process.

An OpenMP thread that has nothing to do spins by default: GCC's library, which torch's wheels for
Linux bring along, for 300,000 turns. Where another process wants the same cores the spinning thread
holds up the very thread that it waits for, and a training on two threads falls to a tenth of its
speed. Here a thread that waits soon sleeps: after 3,000 turns (about ten microseconds), which spans
the gaps between the small operations of a small model and is short beside a turn of the scheduler.
Without them, sampling on two threads is as slow as on one. `GOMP_SPINCOUNT` says so to GCC's
library, `OMP_WAIT_POLICY` to LLVM's, `KMP_BLOCKTIME` to Intel's; they are read once, when a library
is loaded, and faiss and scikit-learn bring a copy each. `scripts/bench_contention.py` measures
what it buys and what it costs.

A user who has set any of the variables below keeps what was set.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
"""What is set."""
SET_BY_USERS = (*POLICY, "KMP_LIBRARY")
"""Any of these says how threads shall wait."""


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Set the wait policy in `environment` unless something there says how threads shall wait."""
    if not any(name in environment for name in SET_BY_USERS):
        environment.update(POLICY)


def chosen_threads() -> int | None:
    """Return the threads that the user's OMP_NUM_THREADS asks for; None: it is unset or no number.

    Of a list for nested regions the first counts, as OpenMP has it.
    """
    first = (_CHOSEN or "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


_CHOSEN = os.environ.get("OMP_NUM_THREADS")
"""As the user set it: stages set it, too, for the libraries that they load."""
let_threads_sleep(os.environ)
