"""Odd surroundings: locales, terminals, homes, umasks, clocks. Real processes where it is cheap."""

from __future__ import annotations

import ast
import io
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from safetensors.torch import save_file

from plumbrule import surroundings
from plumbrule.cli.messages import explain_permission
from plumbrule.cli.runs import new_run_id
from plumbrule.store import claims
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import Manifest
from plumbrule.tracking.progress import Progress

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SAYS = """
import sys
from plumbrule.surroundings import prepare_streams
prepare_streams()
print(sys.getfilesystemencoding(), sys.argv[1])
open(sys.argv[1], "w").write("\\N{LATIN SMALL LETTER E WITH ACUTE}")  # no encoding: a library's
print(open(sys.argv[1], encoding="utf-8").read())
print(repr(sys.argv[2]))
"""


def python(code: str, *words: str | bytes, cwd: Path, **environment: str) -> str:
    """Run code in a process of its own and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")[-1000:]
    return done.stdout.decode("utf-8")


def test_a_locale_that_is_not_utf8_is_left_for_utf8(tmp_path: Path) -> None:
    """Arguments, file names, what libraries open and what is printed."""
    said = python(SAYS, "naïve.txt".encode(), "a b", cwd=tmp_path, **C_LOCALE)
    assert said.splitlines() == ["utf-8 naïve.txt", "é", "'a b'"]
    assert (tmp_path / "naïve.txt").read_bytes() == "é".encode()


def test_words_of_another_locale_keep_their_meaning() -> None:
    assert surroundings.as_utf8(["é"]) == ["é".encode()]  # decoded from Latin-1
    assert surroundings.as_utf8(["é".encode().decode("ascii", "surrogateescape")]) == ["é".encode()]


def test_a_command_under_the_c_locale_keeps_its_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "plumbrule", "run.notes=['é']", "--cfg", "job", "-p", "run.notes"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **C_LOCALE},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    assert "é" in done.stdout.decode("utf-8")


def test_a_stream_that_lacks_a_character_escapes_it(tmp_path: Path) -> None:
    code = (
        "from plumbrule.surroundings import prepare_streams; prepare_streams(); "
        "print('caf\\u00e9 \\u2192')"
    )
    assert python(code, cwd=tmp_path, PYTHONIOENCODING="ascii").strip() == "caf\\xe9 \\u2192"


def test_closed_streams_do_not_lend_their_number_to_a_file(tmp_path: Path) -> None:
    """Else what a library writes to standard error would go into the manifest."""
    code = (
        "import os, sys\n"
        "from plumbrule.surroundings import prepare_streams\n"
        "prepare_streams()\n"
        "with open('manifest.json', 'w', encoding='utf-8') as file:\n"
        "    os.write(2, b'noise'); print('more noise', file=sys.stderr)\n"
        "    file.write(str(file.fileno()))\n"
    )
    command = f'exec {sys.executable} -c "$CODE" 0<&- 1>&- 2>&-'
    subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CODE": code},
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "manifest.json").read_text() not in ("0", "1", "2", "")


def opens_text_without_encoding(tree: ast.AST) -> list[int]:
    """Return the lines of calls that read or write text in whatever encoding the locale has."""
    lines = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Name) and node.func.id == "open":
            name = "open"
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        words = [a.value for a in node.args if isinstance(a, ast.Constant)]
        binary = any(isinstance(w, str) and "b" in w and set(w) <= set("rwaxb+") for w in words)
        of_os = isinstance(node.func, ast.Attribute) and (
            isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "webbrowser")
        )
        text_pipe = getattr(given.get("text"), "value", False) is True
        texts = name in ("read_text", "write_text") and len(node.args) <= (name == "write_text")
        files = name == "open" and not binary and not of_os and _opens_file(node, given)
        if (texts or files or text_pipe) and "encoding" not in given:
            lines.append(node.lineno)
    return lines


def _opens_file(node: ast.Call, given: dict) -> bool:
    """Return whether a call `open` is the built-in's, or a path's with a mode."""
    if isinstance(node.func, ast.Name):
        return True
    return any(isinstance(a, ast.Constant) and a.value in ("r", "w", "a", "x") for a in node.args)


@pytest.mark.parametrize("room", ["plumbrule", "sft", "rlhf", "rag", "eval", "scripts"])
def test_every_text_file_is_opened_with_its_encoding(room: str) -> None:
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in (ROOT / room).rglob("*.py")
        for line in opens_text_without_encoding(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set()
    planted = ast.parse("open(p)\nPath(p).read_text()\nrun(c, text=True)\nopen(p, 'rb')\n")
    assert opens_text_without_encoding(planted) == [1, 2, 3]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "redrawn"),
    [
        (Terminal(), "xterm-256color", True),
        (Terminal(), "dumb", False),
        (Terminal(), "", False),
        (io.StringIO(), "xterm", False),
    ],
)
def test_progress_is_lines_where_a_line_cannot_be_redrawn(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, term: str, redrawn: bool
) -> None:
    monkeypatch.setenv("TERM", term)
    with Progress(2, "sft", "steps", stream) as line:
        line.advance(2)
    assert ("\r" in stream.getvalue()) == redrawn
    assert ("\x1b" in stream.getvalue()) == redrawn
    assert stream.getvalue().endswith("\n")


def test_a_process_that_stands_still_is_not_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that two readings find at one moment."""
    stream = io.StringIO()
    monkeypatch.setattr("plumbrule.tracking.progress.time", SimpleNamespace(monotonic=lambda: 7.0))
    with Progress(2, "sft", "steps", stream) as line:
        line.advance(2)
    assert "2/2 steps" in stream.getvalue()


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", ":no/such/zone", "+25", ""])
def test_run_ids_are_of_one_time_zone(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        before = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        stamp = new_run_id()[:15]
        after = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert before <= stamp <= after
    assert new_run_id() != new_run_id()  # also within a second, or when the clock is set back


def test_a_claim_from_the_future_grows_old(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file system's clock was set back after its owner, on another machine, had died."""
    claim = claims.acquire(tmp_path, "r/1")
    assert isinstance(claim, claims.Claim)
    owner = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps({**owner, "host": "another machine", "token": "t"}))
    ahead = time.time() + 3600
    os.utime(claim.path, (ahead, ahead))
    now = time.monotonic()
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    assert isinstance(claims.acquire(tmp_path, "r/2"), claims.Owner)
    now += claims.SILENT_SECONDS - 1
    assert isinstance(claims.acquire(tmp_path, "r/2"), claims.Owner)
    os.utime(claim.path, (ahead + 1, ahead + 1))  # its owner lives after all
    now += 2
    assert isinstance(claims.acquire(tmp_path, "r/2"), claims.Owner)
    now += claims.SILENT_SECONDS + 1
    assert isinstance(claims.acquire(tmp_path, "r/2"), claims.Claim)


@pytest.mark.parametrize(
    ("umask", "file", "folder"),
    [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770), (0o077, 0o600, 0o700)],
)
def test_what_is_published_has_the_modes_that_the_umask_leaves(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store")
        store.require_writable()
        claim = claims.acquire(store.folder("sft", "ab"), "r/1")
        assert isinstance(claim, claims.Claim)
        with claim:
            made = store.folder("sft", "ab")
            assert stat.S_IMODE(claim.path.stat().st_mode) == file
            (made / "model").mkdir()
            save_file({"w": torch.zeros(2)}, made / "model" / "model.safetensors")
            write_json(made / "notes.json", [])
            store.publish(Manifest("sft", "sft", "ab", {}, {}))
    finally:
        os.umask(before)
    for path in (tmp_path / "store").rglob("*"):
        wanted = folder if path.is_dir() else file
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_what_the_file_system_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    """As another user meets a store whose owner's umask forbids groups."""
    closed = tmp_path / "manifest.json"
    closed.write_text("{}")
    closed.chmod(0o600)
    line = explain_permission(PermissionError(13, "Permission denied", str(closed)))
    assert line.startswith(f"{closed} (Permission denied, mode 600) must let this user in; ")
    assert "umask 007" in line
    assert "\n" not in line
    assert explain_permission(PermissionError()).startswith("a file (permission denied)")


@pytest.mark.parametrize("home", ["/dev/null/home", pytest.param(None, marks=pytest.mark.slow)])
def test_a_run_without_a_home_to_write_in(tmp_path: Path, home: str | None) -> None:
    """A whole small run, wandb and report included; as root no mode forbids, so a device does."""
    lost = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR")
    environment = {k: v for k, v in os.environ.items() if k not in lost}
    if home is not None:
        environment |= {"HOME": home}
    small = ["atlas.num_known=16", "atlas.num_after=12", "run.goals=[documents]"]
    done = subprocess.run(
        [sys.executable, "-m", "plumbrule", *small, "tracking=wandb"],
        capture_output=True,
        encoding="utf-8",
        env={**environment, "PYTHONPATH": str(ROOT), "PLUMBRULE_STORE": str(tmp_path)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    (found,) = (tmp_path / "runs").glob("*/*/run.json")
    assert json.loads(found.read_text())["state"] == "done"
