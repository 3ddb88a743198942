"""How OpenMP's threads wait for each other; imported before torch by whatever starts a process.

GCC's library, which torch's wheels for Linux bring along, keeps its own defaults: its threads spin,
and `plumbrule.machine.contention`, which each process that computes starts, shortens that while
others want the cores. LLVM's and Intel's have no second count to change to, so there a thread that
has nothing to do sleeps at once (`KMP_BLOCKTIME`). The variables are read once, when a library is
loaded, and faiss and scikit-learn bring a copy each.

A user who has set any of the variables below keeps what was set, and nothing is watched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

POLICY = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "0"}
"""What is set. Of GCC's library the second is its default, and the first makes its count while it \
has more threads than cores 1,000 turns, not 100."""
SET_BY_USERS = (*POLICY, "KMP_LIBRARY")
"""Any of these says how threads shall wait."""


def set_wait_policy(environment: MutableMapping[str, str]) -> None:
    """Set the wait policy in `environment` unless something there says how threads shall wait."""
    if not any(name in environment for name in SET_BY_USERS):
        environment.update(POLICY)


def is_ours(environment: Mapping[str, str]) -> bool:
    """Return whether the wait policy in `environment` is the one that is set here."""
    return {name: environment[name] for name in SET_BY_USERS if name in environment} == POLICY


def chosen_threads() -> int | None:
    """Return the threads that the user's OMP_NUM_THREADS asks for; None: it is unset or no number.

    Of a list for nested regions the first counts, as OpenMP has it.
    """
    first = (_CHOSEN or "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


_CHOSEN = os.environ.get("OMP_NUM_THREADS")
"""As the user set it: stages set it, too, for the libraries that they load."""
set_wait_policy(os.environ)
