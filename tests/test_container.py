"""The Dockerfile, read beside the Makefile: no container runs here, but both say what they do."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, the rest) of the Dockerfile in order, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(w[0], w[1]) for line in joined.splitlines() if len(w := line.split(None, 1)) == 2]


def argument(name: str) -> str:
    """Return the default of a build argument."""
    found = [
        rest.partition("=")[2]
        for what, rest in instructions()
        if what == "ARG" and rest.startswith(f"{name}=")
    ]
    assert len(found) == 1, name
    return found[0]


def install_step() -> list[str]:
    """Return the words of the step that installs the project."""
    steps = [rest for what, rest in instructions() if what == "RUN" and "make " in rest]
    found = [shlex.split(part) for step in steps for part in step.split("&&") if "make " in part]
    found = [words for words in found if words[0] == "make"]
    assert len(found) == 1
    return found[0]


def ignored(path: str) -> bool:
    """Return whether .dockerignore leaves a path out of the image."""
    text = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    patterns = [line for line in text.splitlines() if line and not line.startswith("#")]
    parts = path.split("/")
    above = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return any(
        fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(f"/{name}", pattern.replace("**", "*"))
        for pattern in patterns
        for name in above
    )


def tracked() -> list[str]:
    """Return the files that git holds, which a build's context has."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


@pytest.mark.parametrize("faiss", ["cpu", "gpu"])
def test_the_images_steps_are_those_of_make_install(tmp_path: Path, faiss: str) -> None:
    """Make, asked inside what the image holds, would run the steps that it runs outside."""
    for name in tracked():
        if not ignored(name) and (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    given = {"FAISS": faiss, "TORCH_INDEX": "INDEX"}
    words = [re.sub(r"\$\{(\w+)\}", lambda m: given[m[1]], word) for word in install_step()]
    assert words[1] == "install"
    words = [f"PYTHON={sys.executable}" if w.startswith("PYTHON=") else w for w in words]
    inside = subprocess.run(
        [*words, "--dry-run"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True
    ).stdout.splitlines()
    assert any("venv" in line for line in inside)
    assert any("scripts/install_torch.py --index INDEX" in line for line in inside)
    assert any(f"--editable '.[{faiss},dev]'" in line for line in inside)
    assert any("--constraint constraints.txt" in line for line in inside)


def test_what_the_image_passes_on_the_makefile_knows() -> None:
    for word in install_step()[2:]:
        name, _, value = word.partition("=")
        assert re.search(rf"^{name} \?=|\$\({name}\)", MAKEFILE, re.MULTILINE), name
        if name != "PYTHON":
            assert value == f"${{{name}}}"
            argument(name)
    assert argument("FAISS") == "cpu"
    assert argument("TORCH_INDEX") == ""


def test_the_image_holds_the_project_and_nothing_else() -> None:
    left_out = [name for name in tracked() if ignored(name)]
    assert left_out == []
    kept = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    for pattern in kept:
        name = pattern.strip("/").replace("*", "x")
        assert ignored(name), pattern
    assert ignored(".git")


def test_nobody_is_root_when_the_project_is_installed_or_run() -> None:
    order = [what for what, _ in instructions()]
    user = order.index("USER")
    install = next(
        n
        for n, (what, rest) in enumerate(instructions())
        if what == "RUN" and "make install" in rest
    )
    assert user < install < order.index("ENTRYPOINT")
    assert [rest for what, rest in instructions() if what == "USER"] == ["plumbrule"]
    made = next(rest for what, rest in instructions() if what == "RUN" and "useradd" in rest)
    assert re.search(r"useradd .*plumbrule", made)
    assert "--owner=plumbrule" in made
    assert "/store" in made


def test_the_store_is_a_volume_and_the_command_is_on_the_path() -> None:
    (environment,) = [rest for what, rest in instructions() if what == "ENV"]
    settings = dict(word.split("=", 1) for word in environment.split())
    assert settings["PLUMBRULE_STORE"] == "/store"
    assert ("VOLUME", "/store") in instructions()
    venv = re.search(r"^VENV := (\S+)", MAKEFILE, re.MULTILINE)
    assert venv is not None
    assert f"/project/{venv[1]}/bin" in settings["PATH"].split(":")
    assert ("ENTRYPOINT", '["plumbrule"]') in instructions()
    assert "plumbrule" in PROJECT["project"]["scripts"]


def test_the_images_python_is_one_that_the_project_takes() -> None:
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    given = tuple(int(part) for part in argument("PYTHON_VERSION").split("."))
    assert tuple(int(part) for part in lowest.split(".")) <= given <= (3, 13)
