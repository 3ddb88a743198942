"""How often Python looks for garbage."""

from __future__ import annotations

import gc
import subprocess
import sys

from places import process_environment

from plumbrule.machine import garbage


def test_what_was_switched_off_stays_off() -> None:
    with garbage.not_collected():
        assert not gc.isenabled()
        with garbage.not_collected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


ONCE = """
import gc, weakref
from plumbrule.machine import garbage

class Model:
    pass

garbage.collect_seldom()
assert gc.get_threshold()[0] == garbage.NEW_OBJECTS
model = Model()
model.itself, gone = model, weakref.ref(model)
garbage.collect_seldom()
del model
gc.collect()
assert gone() is None, "a second call left it out of every later collection"
"""


def test_a_second_job_of_a_process_leaves_nothing_of_the_first_for_good() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONCE], env=process_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
