"""Verbs that keep a store in order: best, diff, ls with filters, tag, gc, watch."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import made_runs
import pytest
from made_runs import SWEEP

import plumbrule
from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError, TrainingError
from plumbrule.results.tags import TAGS
from plumbrule.results.unused import remove, unused_artifacts
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import read_json, write_json
from plumbrule.store.manifests import Manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    made_runs.write_sweep(store, ["0.05", "0.2"], [0, 1, 2])
    return store


def call(store: Store, *words: str) -> int:
    return verbs.main([*words, "--store", str(store.root)])


def folders(store: Store) -> list[Path]:
    return sorted((store.root / "runs" / "quickstart").glob("2026*"))


def test_best_goes_by_which_way_is_better_and_names_its_runs(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    call(store, "best", SWEEP, "ppo/gold_gain")
    said = capsys.readouterr().out
    assert said.startswith("ppo.kl.coef=0.2: ppo/gold_gain 1.167 [")
    assert "the highest" in said
    assert str(folders(store)[3]) in said
    with pytest.raises(ConfigError, match="objective/kl must say which way is better"):
        call(store, "best", SWEEP, "objective/kl")
    call(store, "best", SWEEP, "objective/kl", "--end", "lowest", "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["group"], found["n"], found["end"]) == ("ppo.kl.coef=0.2", 3, "lowest")
    with pytest.raises(ConfigError, match="did you mean ppo/gold_gain"):
        call(store, "best", SWEEP, "gold_gain")


def test_best_says_where_the_second_is_not_told_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    made_runs.write_sweep(store, ["0.05", "0.2"], [0, 9])
    call(store, "best", "quickstart", "ppo/gold_gain")
    assert "is not known: too few seeds" in capsys.readouterr().out


def test_diff_tells_settings_data_code_versions_and_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    runs = []
    for number, (coef, code, rows) in enumerate([(0.1, "aa", 10), (0.4, "bb", 20)]):
        fingerprint = f"{number:016x}"
        nodes = {}
        for kind, name in (("data", "prompts"), ("ppo", "ppo")):
            folder = store.folder(kind, fingerprint)
            folder.mkdir(parents=True)
            metrics = {"data/rows": rows} if kind == "data" else {}
            about = Manifest(
                name, kind, fingerprint, {}, {}, metrics=metrics, code={"rlhf.ppo.stage": code}
            )
            store.publish(about)
            artifact = f"artifacts/{kind}/{fingerprint}"
            nodes[name] = {"kind": kind, "state": "built", "artifact": artifact}
        found = {"ppo/gold_gain": float(number), "ppo/gold_gain_low": number - 0.2}
        found |= {"ppo/gold_gain_high": number + 0.2, "objective/kl": 1.0}
        found |= {"sft/loss": 2.0 + number, "sft/loss_low": 1.5, "sft/loss_high": 3.5}
        config = {"ppo": {"kl": {"coef": coef}}, "executor": {"workers": number}}
        more = {"config": config, "versions": {"torch": f"2.{number}"}}
        folder = made_runs.write_run(store, number, [], found, nodes=nodes, **more)
        runs.append(folder.name)
    call(store, "diff", *runs)
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "ppo.kl.coef 0.1 -> 0.4",
        "prompts artifacts/data/0000000000000000 (10 rows) -> "
        "artifacts/data/0000000000000001 (20 rows)",
        "ppo: rlhf.ppo.stage aa -> bb",
        "torch 2.0 -> 2.1",
        "ppo/gold_gain 0 [-0.2, 0.2] -> 1 [0.8, 1.2] +1 intervals apart",
        "objective/kl 1 -> 1 +0 the same",
    ):
        assert line in said
    assert not any("executor" in line for line in said)  # it changes no number
    call(store, "diff", runs[0], runs[0])
    assert "settings: the same" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="'nothing' must be a run"):
        call(store, "diff", runs[0], "nothing")
    assert plumbrule.diff(*runs, store=tmp_path).metrics[0].apart
    assert plumbrule.diff(*runs, ["sft/loss"], store=tmp_path).metrics[0].apart is False


def test_ls_filters_by_state_tag_day_and_number(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = made_runs.write_run(store, 50, ["seed=9"], {}, state="failed")
    for run, tag in ((failed, "müll"), (folders(store)[0], "paper"), (failed, "paper")):
        call(store, "tag", run.name, tag)
    capsys.readouterr()

    def listed(*words: str) -> list[str]:
        call(store, "ls", "--json", *words)
        return [run["id"] for run in json.loads(capsys.readouterr().out)]

    assert listed("--state", "failed") == [failed.name]
    assert listed("--tag", "paper") == [folders(store)[0].name, failed.name]
    assert listed("--tag", "paper", "--tag", "müll") == [failed.name]
    assert len(listed("--since", "2026-01-02")) == 7
    assert listed("--since", "2026-01-03") == []
    assert listed("--last", "2")[1] == failed.name
    with pytest.raises(ConfigError, match=r"--since .=soon. must be a day"):
        call(store, "ls", "--since", "soon")
    call(store, "show", failed.name)
    assert "tags     müll paper" in capsys.readouterr().out


@pytest.mark.parametrize("bad", ["", "two words", "a,b", "x" * 65, "tab\there"])
def test_a_tag_is_one_word(store: Store, bad: str) -> None:
    with pytest.raises(ConfigError, match="must be 1 to 64 characters"):
        call(store, "tag", folders(store)[0].name, bad)
    with pytest.raises(ConfigError, match="it has none"):
        call(store, "tag", folders(store)[0].name, "--remove", "paper")
    (folders(store)[0] / TAGS).write_text("{")  # damaged: as if it had none
    call(store, "tag", folders(store)[0].name, "paper")
    assert read_json(folders(store)[0] / TAGS) == ["paper"]


def test_gc_deletes_what_nothing_refers_to_after_asking(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unused_artifacts(store) == []
    gone = folders(store)[0]
    shutil.rmtree(gone)
    shutil.rmtree(store.root / "runs" / "quickstart" / "sweep")
    (lone,) = unused_artifacts(store)
    assert lone.folder.name == f"{0:016x}"
    call(store, "gc", "--dry")
    said = capsys.readouterr().out
    assert f"{lone.size:,} bytes  artifacts/ppo/{0:016x}" in said
    assert "nothing was deleted" in said
    with pytest.raises(ConfigError, match="--yes where nobody can be asked"):
        call(store, "gc")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "n")
    call(store, "gc")
    assert lone.folder.is_dir()
    call(store, "gc", "--yes")
    assert f"deleted 1 artifacts, {lone.size:,} bytes" in capsys.readouterr().out
    assert not lone.folder.exists()
    assert len(list((store.root / "artifacts" / "ppo").iterdir())) == 5
    assert not (store.root / ".removed").exists()


def test_gc_keeps_inputs_damaged_records_and_what_an_unended_run_built(store: Store) -> None:
    (first, *_) = folders(store)
    for name, inputs, built_by in (
        ("a" * 16, {}, "run quickstart/gone (process 1 on x)"),
        ("b" * 16, {"policy": "a" * 16}, "run quickstart/gone (process 1 on x)"),
        ("c" * 16, {}, f"run quickstart/{first.name} (process 1 on x)"),
        ("d" * 16, {}, "run quickstart/gone (process 1 on x)"),
    ):
        store.folder("sft", name).mkdir(parents=True)
        store.publish(Manifest("sft", "sft", name, {}, inputs, built_by=built_by))
    assert [one.folder.name[0] for one in unused_artifacts(store)] == ["a", "b", "d"]
    named = f"artifacts/ppo/{0:016x} artifacts/sft/{'b' * 16}"
    (first / "run.json").write_text(f'{{"nodes": "{named}" cut sho')
    assert [one.folder.name[0] for one in unused_artifacts(store)] == ["d"]


def test_gc_keeps_what_is_named_after_it_was_listed(store: Store) -> None:
    shutil.rmtree(store.root / "runs")
    listed = unused_artifacts(store)
    planned = [f"ppo/{2:016x}"]
    made_runs.write_run(store, 50, [], {}, state="running", planned=planned)
    left = store.root / ".removed" / "ppo-old"  # of a gc that was killed
    left.mkdir(parents=True)
    assert len(remove(store, listed)) == 5
    assert [p.name for p in (store.root / "artifacts" / "ppo").iterdir()] == [f"{2:016x}"]
    assert not left.parent.exists()


def test_gc_deletes_nothing_while_something_is_built(store: Store) -> None:
    shutil.rmtree(store.root / "runs")
    build = store.root / "artifacts" / "ppo" / f"{'e' * 16}.build"
    build.mkdir()
    (build / "claim.json").write_text("{}")
    with pytest.raises(ConfigError, match="must not be being built"):
        call(store, "gc", "--yes")
    os.utime(build / "claim.json", (0, 0))
    call(store, "gc", "--yes")
    assert [p.name for p in (store.root / "artifacts" / "ppo").iterdir()] == [build.name]


def test_watch_follows_a_run_to_its_end(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = made_runs.write_run(store, 50, [], {}, state="running")
    build = store.root / "artifacts" / "ppo" / f"{'e' * 16}.build"
    (build / "t0").mkdir(parents=True)
    owner = {"run": f"quickstart/{run.name}", "host": "h", "pid": 1, "born": "", "token": "t0"}
    write_json(build / "claim.json", owner)
    rows = build / "t0" / "metrics.jsonl"
    rows.write_text('{"update": 1, "objective/scores": 0.5}\n')

    def work() -> None:
        time.sleep(1)
        with open(rows, "a", encoding="utf-8") as file:
            file.write('{"update": 2, "objective/scores": 0.75}\n')
        time.sleep(1)
        write_json(run / "run.json", {**read_json(run / "run.json"), "state": "done"})

    worker = threading.Thread(target=work)
    worker.start()
    call(store, "watch", "--every", "0.1")
    worker.join()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"quickstart/{run.name}: running"
    assert said[1].endswith("update 1  objective/scores 0.5")
    assert said[2].endswith("update 2  objective/scores 0.75")
    assert said[3] == f"quickstart/{run.name}: done"
    with pytest.raises(ArtifactError, match="a run must be running"):
        call(store, "watch")
    failed = made_runs.write_run(store, 51, [], {}, state="failed", error="no memory")
    with pytest.raises(TrainingError, match="is failed: no memory"):
        call(store, "watch", failed.name)
