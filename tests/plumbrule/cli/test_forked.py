"""Forked processes of tests are what processes that are started anew are, but for their imports."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from commands import command_environment
from forked import Forked, run

TELLS = """
import atexit, json, os, sys
if __name__ == "__main__":
    atexit.register(print, "at the end")
    print(json.dumps({
        "words": sys.argv, "path": sys.path[0], "folder": os.getcwd(), "own": os.environ["OWN"],
        "session": os.getsid(0), "torch": "torch" in sys.modules, "pid": os.getpid(),
        "plain": sys.orig_argv[1:],
    }))
    print("ä", file=sys.stderr)
    sys.exit(7)
"""


def test_a_forked_process_is_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "tells.py").write_text(TELLS, encoding="utf-8")
    environment = command_environment(tmp_path, OWN="x")
    file = str(tmp_path / "tells.py")
    for words in (["-m", "tells", "a", "b"], [file, "a", "b"], ["-c", TELLS, "a", "b"]):
        done = run(words, environment, tmp_path, 600.0)
        assert (done.returncode, done.stderr) == (7, "ä\n")
        told, *last = done.stdout.splitlines()
        assert last == ["at the end"]
        said = json.loads(told)
        assert said["words"] == ["-c" if words[0] == "-c" else file, "a", "b"]
        assert said["plain"] == words
        assert (said["path"], said["folder"], said["own"]) == (str(tmp_path), str(tmp_path), "x")
        assert said["torch"]
        assert said["pid"] != os.getpid()
        assert said["session"] == os.getsid(0)
    assert "OWN" not in os.environ


def test_it_can_be_killed_and_lead_a_session(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(
        "import os, time\nprint(os.getsid(0), flush=True)\ntime.sleep(600)\n", encoding="utf-8"
    )
    words = ["-m", "waits"]
    with Forked(words, command_environment(tmp_path), tmp_path, own_session=True) as process:
        assert process.stdout.readline() == f"{process.pid}\n"
        assert process.poll() is None
        process.kill()
        assert process.wait(600) == process.returncode == -signal.SIGKILL


def test_a_variable_that_would_be_read_too_late_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\['OMP_NUM_THREADS'\] must be read at the start"):
        run(["-m", "tells"], command_environment(tmp_path, OMP_NUM_THREADS="2"), tmp_path, 600.0)
