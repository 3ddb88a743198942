"""An installed wheel works by itself: its configs and pages are in it, and no source is near."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from places import ROOT

PARTS = (
    "plumbrule",
    "sft",
    "rlhf",
    "rag",
    "eval",
    "hydra_plugins",
    "conf",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
)


MODULES = """
import importlib.util, json, sys
def where(name):
    try:
        return importlib.util.find_spec(name).origin
    except (ModuleNotFoundError, AttributeError):
        return None
print(json.dumps({name: where(name) for name in json.load(sys.stdin)}))
"""
"""Prints where the modules lie whose names are on standard input; null: nowhere."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="setuptools is not here")
def test_a_wheel_needs_nothing_beside_it(tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    modules = [
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in source.rglob("*/*.py")
    ]
    pip = [sys.executable, "-m", "pip"]
    wording = {str(path.relative_to(source)) for path in source.rglob("metrics.toml")}
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run(build, check=True, cwd=source)
    (wheel,) = wheels.glob("plumbrule-*.whl")
    environment, site = make_environment(tmp_path / "environment")
    python = str(environment / "bin" / "python")
    install = [*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    shutil.rmtree(source)
    assert wording
    assert [file for file in sorted(wording) if not (site / file).is_file()] == []
    assert not (site / "conf").exists()  # beside the code that reads it, not in everyone's way
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(environment / "bin" / "plumbrule"), *words],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            env={**variables, "PLUMBRULE_STORE": str(elsewhere)},
            check=False,
        )

    where = subprocess.run(
        [python, "-I", "-c", MODULES],
        input=json.dumps(modules),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(where.stdout)
    assert len(found) > 200
    assert [name for name, file in found.items() if not str(file).startswith(str(site))] == []
    assert "experiment=own" in run("--help").stdout
    dry = run("run.dry=true")
    assert dry.returncode == 0, dry.stderr
    assert "compare" in dry.stdout
    sweep = run("-m", "run.dry=true", "run.only=prompts", "seed=0,1")
    assert sweep.returncode == 0, sweep.stderr
    assert "plan of the sweep: 2 cells" in sweep.stdout
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


def make_environment(folder: Path) -> tuple[Path, Path]:
    """Return a new environment and its site-packages: the packages of the one that runs the tests
    are on its path, as folders only, so that no `.pth` file of theirs brings in the project itself.
    """
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in packages))
    return folder, site
