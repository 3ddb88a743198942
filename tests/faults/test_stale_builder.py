"""A builder that was stopped, taken over and woken changes nothing that another publishes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from forked import Forked

from plumbrule.store.artifacts import Artifact, Store

SCRIPT = Path(__file__).with_name("stale_builder.py")


class Scene:
    """A store, and the points at which builders are held."""

    def __init__(self, folder: Path):
        self.store, self.gate = folder / "store", folder / "gate"
        self.store.mkdir()
        self.gate.mkdir()
        self.started: list[Forked] = []

    def start(self, name: str, hold: str | None = None, processes: int = 1) -> Forked:
        """Start a builder, held at a point; return it once it is there."""
        if hold is not None:
            (self.gate / f"hold-{name}-{hold}").touch()
        process = Forked(
            [str(SCRIPT), str(self.store), str(processes)],
            {
                **os.environ,
                "BUILDER": name,
                "GATE": str(self.gate),
                "PLUMBRULE_PLUGINS": str(SCRIPT),
                "OMP_NUM_THREADS": "1",
            },
        )
        self.started.append(process)
        deadline = time.monotonic() + 90
        while hold is not None and not (self.gate / f"{name}-{hold}").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{name} never came to {hold}"
            time.sleep(0.02)
        return process

    def release(self, name: str, point: str) -> None:
        """Let a builder go on from a point."""
        (self.gate / f"hold-{name}-{point}").unlink()

    def published(self) -> Artifact:
        """The one artifact of the store, its bytes checked."""
        store = Store(self.store)
        (manifest,) = store.manifests()
        store.verify(manifest.kind, manifest.fingerprint)
        return Artifact.at(store.folder(manifest.kind, manifest.fingerprint))


@pytest.fixture
def scene(tmp_path: Path):
    made = Scene(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()


def end(process: Forked) -> tuple[int, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out + err


def require_sound(scene: Scene, kept: list[str]) -> None:
    """The published artifact holds each step once, and nothing lies in or beside its folder."""
    artifact = scene.published()
    rows = [json.loads(row) for row in artifact.file("metrics.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert artifact.file("kept.txt").read_text().split("\n")[:-1] == kept
    code, said = end(scene.start("reader"))
    assert (code, said.splitlines()[-1]) == (0, "cached")
    assert sorted(p.name for p in artifact.path.iterdir()) == [
        "kept.txt",
        "manifest.json",
        "metrics.jsonl",
    ]
    assert [p.name for p in artifact.path.parent.iterdir()] == [artifact.path.name]


def stopped_at(scene: Scene, hold: str) -> Forked:
    """Return a builder that is stopped at `hold` and will go on from there once it is woken."""
    stale = scene.start("stale", hold=hold)
    stale.send_signal(signal.SIGSTOP)
    scene.release("stale", hold)
    return stale


def require_refused(stale: Forked) -> None:
    """Wake a stopped builder and fail unless it ends and says who took its work over."""
    stale.send_signal(signal.SIGCONT)
    code, said = end(stale)
    assert code == 1
    assert "was taken over by run other/1 (process" in said


TAKEN = ["stale 1", "stale 2", *(f"other {step}" for step in (3, 4, 5, 6))]


def test_stopped_while_building_and_woken_after_the_other_published(scene: Scene) -> None:
    stale = stopped_at(scene, "step3")
    code, said = end(scene.start("other"))
    assert code == 0, said
    assert "slow: resuming" in said
    scene.published()
    require_refused(stale)
    require_sound(scene, TAKEN)


def test_woken_while_the_other_builds(scene: Scene) -> None:
    stale = stopped_at(scene, "step3")
    other = scene.start("other", hold="step5")
    require_refused(stale)
    scene.release("other", "step5")
    assert end(other)[0] == 0
    require_sound(scene, TAKEN)


def test_woken_while_the_other_publishes(scene: Scene) -> None:
    stale = stopped_at(scene, "step3")
    other = scene.start("other", hold="publish")
    stale.send_signal(signal.SIGCONT)
    assert end(stale)[0] == 1
    scene.release("other", "publish")
    assert end(other)[0] == 0
    require_sound(scene, TAKEN)


def test_stopped_just_before_its_own_publishing(scene: Scene) -> None:
    """It has looked at its claim for the last time; all that is left is the rename."""
    stale = stopped_at(scene, "publish")
    other = scene.start("other", hold="publish")
    require_refused(stale)
    scene.release("other", "publish")
    assert end(other)[0] == 0
    require_sound(scene, [f"stale {step}" for step in range(1, 7)])


def test_the_other_is_killed_and_the_first_wakes(scene: Scene) -> None:
    """Nobody holds the claim then; the message still names who took it over."""
    stale = stopped_at(scene, "step3")
    other = scene.start("other", hold="step5")
    other.kill()
    other.communicate()
    (claim,) = scene.store.glob("artifacts/data/*.build/claim.json")
    claim.unlink()
    require_refused(stale)
    third = scene.start("third")
    assert end(third)[0] == 0
    kept = ["stale 1", "stale 2", "other 3", "other 4", "third 5", "third 6"]
    require_sound(scene, kept)


@pytest.mark.slow
def test_workers_that_run_on_while_their_parent_is_stopped(scene: Scene) -> None:
    """Two processes under torchrun: only the parent beats, so its silence hides living workers."""
    stale = scene.start("stale", hold="step3", processes=2)
    stale.send_signal(signal.SIGSTOP)
    other = scene.start("other", hold="step5")
    scene.release("stale", "step3")  # they write while the other builds
    time.sleep(0.5)
    scene.release("other", "step5")
    assert end(other)[0] == 0
    require_refused(stale)
    require_sound(scene, TAKEN)


@pytest.mark.slow
def test_sigterm_ends_workers_and_releases_the_claim(scene: Scene) -> None:
    alone = scene.start("alone", hold="step3", processes=2)
    processes = [int(path.name.split("-")[-1]) for path in scene.gate.glob("alone-process-*")]
    assert len(processes) == 2
    alone.terminate()
    code, said = end(alone)
    assert code == 143, said
    assert "stopped; the same command goes on from the newest checkpoint." in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes)
    assert not list(scene.store.glob("artifacts/data/*.build/claim.json"))
    other = scene.start("other")
    code, said = end(other)
    assert (code, "slow: resuming" in said) == (0, True), said


def test_unfinished_work_of_an_earlier_layout_is_resumed(scene: Scene) -> None:
    """It lay in the artifact's own folder, with its claim."""
    stale = scene.start("stale", hold="step3")
    stale.kill()
    stale.communicate()
    (attempt,) = scene.store.glob("artifacts/data/*.build/*/")
    build = attempt.parent
    older = build.with_name(build.name.removesuffix(".build"))
    attempt.rename(older)
    (build / "claim.json").rename(older / "claim.json")
    (older / "owner.json").unlink()
    shutil.rmtree(build)
    code, said = end(scene.start("other"))
    assert code == 0, said
    assert "slow: resuming" in said
    require_sound(scene, TAKEN)
