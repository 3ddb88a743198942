"""Several commands on one store: one builds, the others wait."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import start_plumbrule


def start(store: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command on a store."""
    return start_plumbrule(store, "tracking=jsonl", *arguments)


def read_until(command: subprocess.Popen[str], text: str) -> str:
    """What a command says up to and with the first line that holds a text."""
    assert command.stderr is not None
    lines = []
    for line in command.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"never said {text!r}: {''.join(lines)}")


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    """State written, claim released, W&B closed; and a second signal does not cut that short."""
    arguments = ("run.only=corpus", "atlas.num_corpus=3000", "tracking=wandb")
    command = start(tmp_path, *arguments)
    read_until(command, "corpus: building")
    while not list(tmp_path.glob("runs/*/*/wandb/offline-run-*/*.wandb")):
        assert command.poll() is None
        time.sleep(0.05)
    command.terminate()
    time.sleep(0.2)
    command.terminate()
    said = command.communicate(timeout=600)[1]
    assert command.returncode == 143, said
    assert "stopped; the same command goes on from the newest checkpoint." in said
    (path,) = tmp_path.glob("runs/*/*/run.json")
    record = json.loads(path.read_text())
    assert (record["state"], record["error"]) == ("stopped", "stopped by SIGTERM")
    assert not list(tmp_path.glob("artifacts/*/*.build/claim.json"))
    (log,) = tmp_path.glob("runs/*/*/wandb/offline-run-*/*.wandb")
    assert "exit" in kinds_of_records(log)


def kinds_of_records(log: Path) -> set[str]:
    """What a W&B run's file holds; `exit` is written when it is closed."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, kinds, parts = log.read_bytes(), 7, set(), b""
    while at + 7 < len(data):  # LevelDB's log: blocks of 32 KiB, chunks of (checksum, size, type)
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, size, chunk = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if chunk in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            kinds.add(str(record.WhichOneof("record_type")))
            parts = b""
    return kinds


def test_ctrl_c_in_a_verb_does_not_speak_of_checkpoints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from plumbrule.cli import main as run
    from plumbrule.cli import verbs

    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(verbs, "main", interrupted)
    for verb in ("ls", "show"):
        monkeypatch.setattr(sys, "argv", ["plumbrule", verb])
        with pytest.raises(SystemExit) as left:
            run.main()
        assert left.value.code == 130
        assert capsys.readouterr().err == "stopped.\n"


def test_two_commands_share_one_building(tmp_path: Path) -> None:
    arguments = ("run.only=corpus", "atlas.num_corpus=3000")
    builder = start(tmp_path, *arguments)
    read_until(builder, "corpus: building")
    os.kill(builder.pid, signal.SIGSTOP)  # the claim is held, the building stands still
    try:
        other = start(tmp_path, *arguments)
        waiting = read_until(other, "corpus: waiting for run quickstart/")
    finally:
        os.kill(builder.pid, signal.SIGCONT)
    assert "which builds data/" in waiting
    said = [command.communicate(timeout=600)[1] for command in (builder, other)]
    assert [builder.returncode, other.returncode] == [0, 0], said
    assert "corpus: building" not in said[1]
    records = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/*/run.json")]
    assert sorted(r["nodes"]["corpus"]["state"] for r in records) == ["built", "shared"]
