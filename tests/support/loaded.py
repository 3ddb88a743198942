"""What a forked process (`forked.py`) has imported before it begins.

The fork server imports this module, and no process that is started anew does. Nothing of it may
start a thread, draw a number or read what tests set.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys

import plumbrule.machine.openmp  # noqa: F401  before torch is
from plumbrule.cli.composition import register
from plumbrule.machine import garbage
from plumbrule.pipeline.stages import STAGES

MODULES = (
    *("trl", "peft", "plumbrule.cli.main", "plumbrule.cli.runs", "plumbrule.report.contents"),
    *("transformers.models.llama.modeling_llama", "transformers.models.gpt2.modeling_gpt2"),
)
"""What the command and the stages import while they run."""

with garbage.not_collected():
    for name in (*MODULES, *(stage.run.partition(":")[0] for stage in STAGES.values())):
        with contextlib.suppress(Exception):  # the command that needs it says what is wrong
            importlib.import_module(name)
    register()  # the schemas, which are the same for every command
gc.freeze()

GIVEN = os.environ.get("PYTHONPATH", "").split(os.pathsep)
PATH = [place for place in sys.path if place and place not in GIVEN]
"""`sys.path` without what PYTHONPATH and the folder of a command add."""
