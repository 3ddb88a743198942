"""An installed wheel works by itself: its configs and pages are in it, and no source is near."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

PARTS = (
    "plumbrule",
    "sft",
    "rlhf",
    "rag",
    "eval",
    "conf",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not here")
def test_a_wheel_needs_nothing_beside_it(tmp_path: Path) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run(build, check=True, cwd=source)
    (wheel,) = wheels.glob("plumbrule-*.whl")
    install = [*pip, "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    shutil.rmtree(source)
    assert not (site / "conf").exists()  # beside the code that reads it, not in everyone's way
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        # -P keeps the working directory, and no other, off the path; the site comes before all else
        return subprocess.run(
            [sys.executable, "-P", "-m", "plumbrule", *words],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(site), "PLUMBRULE_STORE": str(elsewhere)},
            check=False,
        )

    assert "experiment=own" in run("--help").stdout
    dry = run("run.dry=true")
    assert dry.returncode == 0, dry.stderr
    assert "compare" in dry.stdout
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import plumbrule, eval; print(plumbrule.__file__)"],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
    )
    assert where.stdout.startswith(str(site))
    own = elsewhere / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "small.yaml").write_text(
        "# @package _global_\nrun: {name: small, goals: [documents]}\ntracking: {name: jsonl}\n"
    )
    done = run("--config-dir", "mine", "experiment=small", "atlas.num_known=16")
    assert done.returncode == 0, done.stderr
    record = json.loads(next(elsewhere.glob("runs/small/*/run.json")).read_text())
    assert record["state"] == "done"
    assert next(elsewhere.glob("runs/small/*/report.html")).stat().st_size > 1000
