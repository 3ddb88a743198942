"""`scripts/gpu_check.sh`: a line of JSON for each part, on a CPU and with little installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

ABSENT = ("wandb", "faiss", "trl", "datasets", "bm25s", "optuna")
"""What the machines on which it is run lack."""


def check(out: Path, *parts: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """Run parts of it on the CPU; return its exit code and the objects that it printed."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), *parts],
        env={
            **os.environ,
            "DEVICE": "cpu",
            "SHAPE": "small",
            "OUT": str(out),
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            **variables,
        },
        cwd=out,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr[-6000:])
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line]


HIDES = """
from importlib import metadata
from importlib.machinery import PathFinder
names, find, named = {names}, PathFinder.find_spec, metadata.Distribution.from_name
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in names else find(name, path, target)
def from_name(name):
    if name.lower().removesuffix("-cpu") in names:
        raise metadata.PackageNotFoundError(name)
    return named(name)
PathFinder.find_spec = classmethod(find_spec)
metadata.Distribution.from_name = from_name
"""


def absent(folder: Path, names: tuple[str, ...]) -> str:
    """Return a folder that, on PYTHONPATH, makes Python find no modules of these names."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDES.format(names=names))
    return str(folder)


@pytest.mark.slow
def test_every_part_ends_on_a_cpu_with_its_result(tmp_path: Path) -> None:
    missing = absent(tmp_path / "absent", ABSENT)
    code, found = check(tmp_path, "decode", "ppo", "search", "resume", PYTHONPATH=missing)
    assert [one["part"] for one in found] == ["machine", "decode", "ppo", "search", "resume"]
    assert [one["exit"] for one in found] == [0] * 5
    assert code == 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found
    machine, decode, ppo, search, resume = (one["result"] for one in found)
    assert set(machine) >= {"torch", "transformers", "python"}
    assert set(decode["tokens_per_second"]) == {"slots", "generate", "continuous"}
    assert all(0 < share < 1 for share in decode["bandwidth_share"].values())
    assert set(ppo["episodes_per_second"]) >= {"float32", "shared"}
    assert all(0 < ppo[f"update_flops_share_{name}"] < 1.5 for name in ("fp32", "shared_trunk"))
    assert all(number > 0 for number in ppo["memory_mib"].values())
    searches = [search[f"search_{number}"] for number in (50_000, 10_000)]
    assert [one["same_results"] for one in searches] == [1.0, 1.0]
    assert [one["faiss_queries_per_second"] for one in searches] == [None, None]
    assert search["encode"]["tokens_per_second"] > 0
    assert (resume["kills"], resume["differ"]) == (2, [])
    assert resume["files"] > 10


@pytest.mark.slow
def test_the_marked_tests_are_collected_without_what_a_machine_lacks(tmp_path: Path) -> None:
    """On a CPU all are skipped, so what is shown is that their imports are to be had."""
    _, found = check(tmp_path, "tests", PYTHONPATH=absent(tmp_path / "absent", ABSENT))
    assert [(one["part"], one["exit"]) for one in found] == [("machine", 0), ("tests", 0)]
    assert "skipped" in (tmp_path / "tests.log").read_text().splitlines()[-1]


def test_what_is_absent_is_not_found(tmp_path: Path) -> None:
    code = (
        "import importlib.util as u; print([u.find_spec(n) is None for n in ('datasets', 'torch')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": absent(tmp_path / "absent", ABSENT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[True, False]"


FAILING = """#!/bin/bash
case "$1" in
  -) exec {python} "$@" ;;
  scripts/bench_search.py) echo '{{"a": 1}}'; echo '{{"a": 1, "b": 2}}'; echo oh no; exit 3 ;;
  *) echo "never begun"; exit 4 ;;
esac
"""


def test_a_failed_part_is_told_with_what_it_had_and_the_next_one_runs(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(FAILING.format(python=sys.executable))
    python.chmod(0o755)
    code, found = check(tmp_path, "search", "resume", PYTHON=str(python))
    assert code == 1
    assert [(one["part"], one["exit"]) for one in found[1:]] == [("search", 3), ("resume", 4)]
    assert found[1]["result"] == {"a": 1, "b": 2}
    assert found[1]["last_line"] == "oh no"
    assert found[2]["result"] is None


def test_limits_of_all_parts_are_below_thirteen_minutes() -> None:
    text = (ROOT / "scripts" / "gpu_check.sh").read_text()
    limits = {name: int(seconds) for name, seconds in re.findall(r"\bpart (\w+) (\d+) ", text)}
    assert set(limits) == {"tests", "decode", "ppo", "search", "resume"}
    assert sum(limits.values()) <= 750  # and 30 seconds to start


@pytest.mark.parametrize(
    ("parts", "variables", "said"),
    [
        (["speed"], {}, "part (=speed) must be tests, decode, ppo, search or resume"),
        ([], {"SHAPE": "7b"}, "SHAPE (=7b) must be small or 1b"),
    ],
)
def test_other_words_are_refused(
    tmp_path: Path, parts: list[str], variables: dict[str, str], said: str
) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "gpu_check.sh"), *parts],
        env={**os.environ, "OUT": str(tmp_path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (2, said)
