"""`convert` and `merge` killed with SIGKILL while they write: no folder, and nothing stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from worlds import tiny_models

from plumbrule.cli import merged_model, verbs
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.conversion import convert
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.store import attempts, claims

STOPS = {"convert": (convert, "_describe"), "merge": (merged_model, "is_same")}
"""Verb -> what it calls when weights are written and not yet renamed into place."""
HELD = """
import sys, time
from importlib import import_module
from plumbrule.cli import verbs
module, name, *words = sys.argv[1:]
def hold(*arguments):
    print("written", flush=True)
    time.sleep(600)
setattr(import_module(module), name, hold)
verbs.main(words)
"""


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=pytest.mark.slow if v == "merge" else ()) for v in STOPS]
)
def test_a_killed_writer_leaves_no_folder_and_the_next_one_removes_its_rest(
    tmp_path: Path, adapted: Callable[[Path, Path], Path], verb: str
) -> None:
    save_policy(tiny_models.policy(), tmp_path / "model")
    source = (
        tmp_path / "model" if verb == "convert" else adapted(tmp_path / "model", tmp_path / "a")
    )
    out, left = tmp_path / "out", tmp_path / "out.build"
    (left / "mine").mkdir(parents=True)  # a folder of that name may be the user's
    words = [verb, str(source), *(["--to"] if verb == "merge" else []), str(out)]
    module, name = STOPS[verb]
    held = ["-c", HELD, module.__name__, name, *words]
    with forked.Forked(held) as process:
        while "written" not in (line := process.stdout.readline()):
            assert line, "it ended before it had written anything"
        with pytest.raises(ConfigError, match=rf"by one process at a time, .* {process.pid} on "):
            verbs.main(words)
        process.kill()
    assert not out.exists()
    assert list(left.glob("*/model.safetensors"))
    verbs.main(words)
    assert [path.name for path in left.iterdir()] == ["mine"]
    assert load_policy(out).model.num_parameters() > 0
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


def test_a_writer_that_was_taken_over_publishes_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with attempts.written_whole(tmp_path / "out", "out") as partial:
            partial.mkdir()
            another = claims.Owner("another", "elsewhere", 1, "", "f" * 32)
            claims.write_owner(tmp_path / "out.build" / claims.NAME, another)

    with pytest.raises(TrainingError, match="was taken over by run another"):
        write()
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out.build").iterdir()] == ["claim.json"]
