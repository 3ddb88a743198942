"""Gathering a sweep: cells found again, groups, differences, files, and what is missing."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import made_runs
import pandas
import pytest
from made_runs import SWEEP

from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError, ConfigError, TrainingError
from plumbrule.report.sweep_table import Cell, rows_of, write_cell
from plumbrule.results.cells import gather_cells, last_log_lines
from plumbrule.results.collapse import collapse_signs
from plumbrule.results.formats import latex, markdown
from plumbrule.results.formats import number as as_text
from plumbrule.results.gathered import folder_name, gather
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    made_runs.write_sweep(store, ["0.05", "0.2"], [0, 1, 2])
    return store


def test_a_sweep_is_found_by_its_id_its_folder_and_its_runs_name(store: Store) -> None:
    for word in (
        SWEEP,
        str(store.root / "runs" / "quickstart" / "sweep"),
        "quickstart",
        "quick*/*",
    ):
        cells = gather_cells(store, [word])
        assert [cell.seed for cell in cells] == ["0", "1", "2"] * 2, word
        assert [cell.swept for cell in cells[::3]] == [
            {"ppo.kl.coef": "0.05"},
            {"ppo.kl.coef": "0.2"},
        ]
    assert len(gather_cells(store, [SWEEP, "quickstart"])) == 6


def test_a_zipped_axis_is_a_column_also_of_a_cell_that_is_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.root / "runs" / "quickstart" / "sweep"
    axis = "sft.batch_size=8,16; sft.learning_rate=0.0001,0.0002"
    made_runs.plan(folder, ["seed=0,1"])
    with open(folder / "multirun.yaml", "a", encoding="utf-8") as file:
        file.write(f"  sweeper:\n    zip: {{scale: '{axis}'}}\n")
    own = ["sft.batch_size=8", "sft.learning_rate=0.0001", "seed=0"]
    at = {"sft.batch_size": "8", "sft.learning_rate": "0.0001"}
    run = made_runs.write_run(store, 0, own, {"ppo/gold_gain": 1.0})
    about = Cell(SWEEP, 0, own, None, f"quickstart/{run.name}", zipped={"scale": at})
    write_cell(folder / "cell0", about)
    found = gather(store, [SWEEP])
    assert [(cell.state, cell.seed, dict(cell.swept)) for cell in found.cells] == [
        ("missing", "1", {"scale": "8/0.0001"}),
        ("missing", "0", {"scale": "16/0.0002"}),
        ("missing", "1", {"scale": "16/0.0002"}),
        ("done", "0", {"scale": "8/0.0001"}),
    ]
    assert "sft.learning_rate=0.0002" in found.cells[1].command
    assert list(found.frame["scale"]) == [cell.swept["scale"] for cell in found.cells]


def test_groups_are_everything_but_the_seed_with_students_interval(store: Store) -> None:
    table = gather(store, [SWEEP]).table
    row = table[(table["group"] == "ppo.kl.coef=0.2") & (table["metric"] == "ppo/gold_gain")].iloc[
        0
    ]
    # 1.0, 1.1, 1.4: mean 7/6, deviation sqrt(0.13 / 3), Student's quantile of 2 degrees 4.3027
    assert (row["n"], row["over"]) == (3, "seeds")
    assert row["mean"] == pytest.approx(7 / 6, abs=1e-12)
    wide = 4.302653 * math.sqrt(0.13 / 3) / math.sqrt(3)
    assert row["high"] - row["mean"] == pytest.approx(wide, abs=1e-5)
    assert row["iqm"] == pytest.approx(7 / 6)  # of three none is left out
    assert 1.0 <= row["iqm_low"] < row["iqm_high"] <= 1.4


def test_a_seed_that_was_run_twice_counts_once_by_its_newest_run(store: Store) -> None:
    made_runs.write_run(store, 50, ["ppo.kl.coef=0.2", "seed=0"], {"ppo/gold_gain": 1.3})
    table = gather(store, ["quickstart"], ["ppo/gold_gain"]).table
    row = table[table["group"] == "ppo.kl.coef=0.2"].iloc[0]
    assert row["n"] == 3
    assert row["mean"] == pytest.approx((1.3 + 1.1 + 1.4) / 3)


def test_differences_are_paired_by_seed_and_corrected(store: Store) -> None:
    table = gather(store, [SWEEP], baseline="ppo.kl.coef=0.05").table
    row = table[(table["group"] == "ppo.kl.coef=0.2") & (table["metric"] == "objective/kl")].iloc[0]
    assert row["pairs"] == 3
    assert row["difference"] == pytest.approx(-1.0)
    base = table[table["group"] == "ppo.kl.coef=0.05"]
    assert base["difference"].isna().all()
    gold = table[(table["group"] == "ppo.kl.coef=0.2") & (table["metric"] == "ppo/gold_gain")]
    assert gold["improvement"].tolist() == [1.0]


def write_folds(store: Store, coefs: dict[str, list[float]], seeds: int = 1) -> None:
    number = 0
    for coef, gains in coefs.items():
        for fold, gain in enumerate(gains):
            for seed in range(seeds):
                own = [f"ppo.kl.coef={coef}", "folds=5", f"fold={fold}", f"seed={seed}"]
                away = 0.5 * (2 * seed - (seeds - 1))  # of a fold's mean over its seeds
                made_runs.write_run(store, number, own, {"ppo/gold_gain": gain + away})
                number += 1


def test_folds_that_an_experiment_file_sets_count_in_the_table_as_in_gather(tmp_path: Path) -> None:
    # folds=5 of the file stands in no override, and two of the folds are not there
    store, cells, values = Store(tmp_path), [], [1.0, 2.0, 4.0]
    for fold, gain in enumerate(values):
        run = made_runs.write_run(store, fold, [f"fold={fold}"], {"ppo/gold_gain": gain})
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        write_json(run / "run.json", {**record, "fold": fold, "folds": 5})
        about = {"headline": ["ppo/gold_gain"], "metrics": {"ppo/gold_gain": gain}}
        cells.append(Cell("s", fold, [f"fold={fold}"], fold=fold, folds=5, **about))
    (row,) = rows_of(cells)
    gathered = gather(store, ["quickstart"], ["ppo/gold_gain"]).table.iloc[0]
    # mean 7/3, variance 7/3, times 1/3 + 1/4, and Student's quantile of 2 degrees 4.302653
    wide = 4.302653 * math.sqrt(7 / 3 * (1 / 3 + 1 / 4))
    for high, low in ((row.high, row.low), (gathered["high"], gathered["low"])):
        assert (high - 7 / 3, 7 / 3 - low) == pytest.approx((wide, wide), abs=1e-5)
    assert (row.over, row.n) == (gathered["over"], gathered["n"]) == ("folds", 3)


@pytest.mark.parametrize("seeds", [1, 2])
def test_folds_are_a_group_with_an_interval_over_folds(tmp_path: Path, seeds: int) -> None:
    store = Store(tmp_path)
    gains = {"0.05": [1.0, 2.0, 3.0, 4.0, 5.0], "0.2": [1.5, 2.4, 3.6, 4.5, 5.5]}
    write_folds(store, gains, seeds)
    found = gather(store, ["quickstart"], ["ppo/gold_gain"], baseline="ppo.kl.coef=0.05")
    assert list(found.table["group"]) == ["ppo.kl.coef=0.05", "ppo.kl.coef=0.2"]
    base, other = (found.table.iloc[place] for place in (0, 1))
    assert (base["n"], base["over"], base["mean"]) == (5, "folds", 3.0)
    # variance 2.5, times 1/5 + 1/4, and Student's quantile of 4 degrees 2.776445
    assert base["high"] - 3.0 == pytest.approx(2.776445 * math.sqrt(2.5 * 0.45), abs=1e-5)
    assert math.isnan(base["iqm_low"])
    assert (other["pairs"], other["difference"]) == (5, pytest.approx(0.5))
    # differences .5 .4 .6 .5 .5: variance .005
    wide = 2.776445 * math.sqrt(0.005 * 0.45)
    assert other["difference_high"] - 0.5 == pytest.approx(wide, abs=1e-5)
    assert 0 < other["p"] < 0.01
    assert set(found.frame["fold"]) == set("01234")
    assert "3 [0.05514, 5.945] (n=5 folds)" in markdown(found.table, found.metrics)
    assert found.frame["seed"].nunique() == seeds


def test_two_seeds_have_no_interval_and_neither_have_two_pairs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made_runs.write_sweep(store, ["0.05", "0.2"], [0, 1])
    table = gather(store, [SWEEP], ["objective/kl"], baseline="ppo.kl.coef=0.05").table
    row = table[table["group"] == "ppo.kl.coef=0.2"].iloc[0]
    assert (row["n"], row["pairs"]) == (2, 2)
    assert row["difference"] == pytest.approx(-1.0)
    for name in ("low", "high", "difference_low", "difference_high", "p"):
        assert math.isnan(row[name]), name


def test_a_zipped_axis_is_a_column_of_runs_that_are_gathered_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    for place, (batch, rate) in enumerate((("8", "1e-4"), ("16", "2e-4"))):
        at = {"sft.batch_size": batch, "sft.learning_rate": rate}
        own = [f"{key}={value}" for key, value in at.items()]
        made_runs.write_run(store, place, own, {"ppo/gold_gain": 1.0 + place}, zipped={"scale": at})
    cells = gather(store, ["quickstart"]).cells
    assert [dict(cell.swept) for cell in cells] == [{"scale": "8/1e-4"}, {"scale": "16/2e-4"}]
    verbs.main(["ls", "--store", str(tmp_path)])
    header, first, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "state", "time", "tags", "zipped", "command"]
    assert "  scale=8/1e-4  " in first


def test_a_group_of_one_seed_says_that_its_interval_is_over_items(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made_runs.write_sweep(store, ["0.05", "0.2"], [0])
    found = gather(store, [SWEEP])
    assert set(found.table["over"]) == {"items"}
    assert "1 (n=1, [0, 2] over its items)" in markdown(found.table, found.metrics)


def test_failed_and_missing_cells_come_first_with_log_and_command(
    store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = store.root / "runs" / "quickstart" / "sweep"
    words = ["ppo.kl.coef=0.05,0.2", "seed=0,1,2,3", "run.store=/elsewhere"]
    made_runs.plan(folder, words)
    failed = made_runs.write_run(store, 50, ["ppo.kl.coef=0.05", "seed=3"], {}, state="failed")
    (failed / "failure.txt").write_text("".join(f"line {i}\n" for i in range(30)))
    with pytest.raises(TrainingError, match="2 of 8 cells are not done"):
        verbs.main(["gather", SWEEP, "--store", str(store.root), "--to", str(tmp_path / "out")])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "failed: ppo.kl.coef=0.05 seed=3"
    assert said[1:21] == [f"  | line {i}" for i in range(10, 30)]
    again = f"plumbrule ppo.kl.coef=0.05 seed=3 run.store={store.root}"
    assert said[21] == f"  run it again: {again}"
    assert said[22] == "missing: ppo.kl.coef=0.2 seed=3"
    assert (tmp_path / "out" / "index.html").is_file()


def test_the_log_of_the_node_that_failed_is_shown(store: Store) -> None:
    logs = store.root / "runs" / "quickstart" / "20260102-030450-aaaaaa" / "logs"
    error = f"ppo: ValueError: no; its output: {logs / 'ppo.log'}"
    made_runs.write_run(store, 50, ["seed=3"], {}, state="failed", error=error)
    logs.mkdir()
    (logs / "ppo.log").write_text("the cause\n")
    (logs / "index.log").write_text("fine\n")  # newer: it went on
    assert gather_cells(store, ["20260102-030450-aaaaaa"])[0].log == ("the cause",)


def test_runs_of_other_executors_are_one_group(store: Store) -> None:
    same = ["ppo.kl.coef=0.05", "seed=7", "executor=local", "executor.workers=2"]
    made_runs.write_run(store, 51, same, {"ppo/gold_gain": 0.5})
    names = {cell.name for cell in gather_cells(store, ["quickstart"])}
    assert names == {"ppo.kl.coef=0.05", "ppo.kl.coef=0.2"}


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ([".."], Path("..").resolve().name),
        (["quickstart/2026*"], "quickstart_2026"),
        (["/a" * 40 + "/day"], "_a_day"),
    ],
)
def test_the_folder_of_what_was_gathered_lies_in_its_place(words: list[str], end: str) -> None:
    found = folder_name(words)
    assert found.endswith(end)
    assert 0 < len(found) <= 60
    assert "/" not in found


def test_a_cell_that_was_run_again_by_itself_is_done(store: Store) -> None:
    cell = store.root / "runs" / "quickstart" / "sweep" / "cell0" / "cell.json"
    about = json.loads(cell.read_text())
    write_json(cell, {**about, "run": "", "error": "no memory", "metrics": {}})
    assert {c.state for c in gather_cells(store, [SWEEP])} == {"done"}  # its run is there still
    shutil.rmtree(store.root / "runs" / about["run"])
    assert next(c.state for c in gather_cells(store, [SWEEP])) == "failed"
    made_runs.write_run(store, 70, ["seed=0", "ppo.kl.coef=0.05"], about["metrics"])
    assert {c.state for c in gather_cells(store, [SWEEP])} == {"done"}


def test_every_format_holds_the_same_numbers(store: Store, tmp_path: Path) -> None:
    given = ["--store", str(store.root), "--to", str(tmp_path), "--baseline", "ppo.kl.coef=0.05"]
    assert verbs.main(["gather", SWEEP, *given]) == 0
    table = pandas.read_parquet(tmp_path / "table.parquet")
    as_csv = pandas.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert as_csv["mean"].tolist() == table["mean"].tolist()
    text = (tmp_path / "table.md").read_text()
    tex = (tmp_path / "table.tex").read_text()
    for mean in table["mean"]:
        assert as_text(mean) in text
        assert as_text(mean) in tex
    assert len(pandas.read_parquet(tmp_path / "cells.parquet")) == 6
    assert r"\toprule" in tex
    assert r"objective/kl" in tex
    assert r"ppo/gold\_gain" in tex


def test_the_table_goes_to_wandb_as_an_artifact(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    given = ["--store", str(store.root), "--to", str(tmp_path / "out"), "--wandb"]
    assert verbs.main(["gather", SWEEP, *given]) == 0
    (run,) = (tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb")
    deadline = time.monotonic() + 30.0  # W&B's own process may still be writing
    while b"table-file" not in run.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert f"gathered-{SWEEP}".encode() in run.read_bytes()
    assert b"table.parquet" in run.read_bytes()


def test_two_seeds_have_no_interval_and_say_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made_runs.write_sweep(store, ["0.05", "0.2"], [0, 1])
    found = gather(store, [SWEEP])
    assert found.table["low"].isna().all()
    assert "1.05, too few seeds (n=2)" in markdown(found.table, found.metrics)


@pytest.mark.parametrize(
    "value", ["a=b", "a/b", "[1, 2]", "two words", "Grün", "{x: 1}", "50%_&", "a|b", "<i>"]
)
def test_keys_and_values_may_hold_any_sign(tmp_path: Path, value: str) -> None:
    store = Store(tmp_path)
    for seed in (0, 1):
        for place, one in enumerate((value, "plain")):
            run = 2 * seed + place
            words = [f"+nodes.ppo.set.größe={one}", f"seed={seed}"]
            made_runs.write_run(store, run, words, {"ppo/gold_gain": run, "objective/kl": 1})
    group = f"nodes.ppo.set.größe={value}"
    found = gather(store, ["quickstart"], baseline=group)
    assert found.baseline == group
    assert group in set(found.table["group"])
    assert "\n" not in latex(found.table, found.metrics).split("midrule\n")[1].splitlines()[0]
    assert markdown(found.table, found.metrics).count("\n") == 4
    out = tmp_path / "out"
    verbs.main(["gather", "quickstart", "--store", str(tmp_path), "--to", str(out)])
    page = (out / "index.html").read_text("utf-8")
    assert "größe=&lt;i&gt;" in page or value != "<i>"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "must be given a sweep or runs"),
        (["nothing"], rf"'nothing' must name .*sweeps: {SWEEP}; names of runs: quickstart"),
        (["quickstart", "--metric", "gold_gian"], r"--metric .=gold_gian. must be .*gold_gain"),
        (["quickstart", "--metric", "gold_gain"], "did you mean ppo/gold_gain"),
        (
            ["quickstart", "--baseline", "ppo.kl.coef=0.3"],
            r"--baseline .*none is.*mean ppo.kl.coef",
        ),
        (["quickstart", "--baseline", "ppo.kl.coef=0.0"], "none is called so"),
    ],
)
def test_what_names_nothing_is_told_with_the_nearest_name(
    store: Store, words: list[str], message: str
) -> None:
    with pytest.raises((ArtifactError, ConfigError), match=message):
        verbs.main(["gather", *words, "--store", str(store.root)])


def test_a_gather_over_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="it holds none: name the store with --store"):
        verbs.main(["gather", "x", "--store", str(tmp_path)])


def test_a_baseline_without_partner_seeds_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, (coef, seed) in enumerate([("0.1", 0), ("0.1", 1), ("0.2", 2), ("0.2", 3)]):
        words = [f"ppo.kl.coef={coef}", f"seed={seed}"]
        made_runs.write_run(store, number, words, {"ppo/gold_gain": 1.0})
    with pytest.raises(ConfigError, match=r"must have a seed in common.*it has seed=0, seed=1"):
        gather(store, ["quickstart"], baseline="ppo.kl.coef=0.1")


def test_a_store_that_was_moved_gathers_the_same(store: Store, tmp_path: Path) -> None:
    before = gather(store, [SWEEP])
    moved = Store(shutil.move(store.root, tmp_path / "another disk"))
    after = gather(moved, [SWEEP])
    pandas.testing.assert_frame_equal(before.table, after.table)
    assert len(after.curves) == len(before.curves) == 6
    assert "'run.store=" in after.cells[0].command
    assert "/elsewhere" not in after.cells[0].command


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text(path.read_text()[:40]),
        lambda path: path.write_text("[]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.unlink(),
    ],
)
def test_run_folders_cut_short_are_missing_or_known_by_their_cell(
    store: Store, damage: Any
) -> None:
    first = sorted((store.root / "runs" / "quickstart").glob("2026*"))[0]
    damage(first / "run.json")
    cells = gather_cells(store, [SWEEP])
    assert len(cells) == 6
    assert {cell.state for cell in cells} == {"done"}  # cell.json has the metrics as well
    damage(store.root / "runs" / "quickstart" / "sweep" / "cell0" / "cell.json")
    states = [cell.state for cell in gather_cells(store, [SWEEP])]
    assert states == ["missing"] + ["done"] * 5


def test_records_of_an_older_layout_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    """Without nodes, headline, seed and state: what there is counts, and it is not called done."""
    store = Store(tmp_path)
    folder = made_runs.write_run(store, 0, ["seed=1"], {"ppo/gold_gain": 1.0})
    write_json(folder / "run.json", {"metrics": {"ppo/gold_gain": 1.0}})
    found = gather(store, ["quickstart"])
    assert [cell.state for cell in found.cells] == ["missing"]
    assert found.cells[0].error == "its record does not say what became of it"
    write_json(folder / "run.json", {"metrics": {"ppo/gold_gain": 1.0}, "state": "done"})
    assert gather(store, ["quickstart"], ["ppo/gold_gain"]).table["mean"].tolist() == [1.0]


def test_curves_and_answers_that_are_gone_are_left_out(store: Store, tmp_path: Path) -> None:
    shutil.rmtree(store.root / "artifacts")
    assert gather(store, [SWEEP]).curves == []
    assert verbs.main(["gather", SWEEP, "--store", str(store.root), "--to", str(tmp_path)]) == 0


def rows(**series: list[Any]) -> list[dict[str, Any]]:
    named = {name.replace("__", "/"): values for name, values in series.items()}
    length = max(map(len, named.values()))
    return [{"update": i, **{n: v[i] for n, v in named.items()}} for i in range(length)]


@pytest.mark.parametrize(
    ("series", "sign"),
    [
        ({"loss__policy": [1.0, "nan", 1.0]}, "loss/policy is nan at update 1"),
        ({"objective__entropy": [2.0] * 10 + [0.1] * 10}, "entropy fell from 2 to 0.1"),
        ({"val__response_length_tokens": [50.0] * 10 + [2.0] * 10}, "response length fell"),
        ({"objective__scores": [0.0] * 4 + [2.0] * 8 + [-3.0] * 8}, "scores rose from 0 to 2"),
    ],
)
def test_a_collapse_is_told_with_its_numbers(series: dict[str, list[Any]], sign: str) -> None:
    (found,) = collapse_signs(rows(**series))
    assert found.startswith(sign)


def test_what_is_short_or_only_worse_is_no_collapse() -> None:
    assert collapse_signs(rows(objective__entropy=[2.0] * 5 + [0.1])) == []
    assert collapse_signs(rows(objective__scores=[0.0] * 6 + [2.0] * 6 + [-1.0] * 6)) == []
    assert collapse_signs(rows(objective__scores=[5.0 - i for i in range(20)])) == []
    assert collapse_signs([]) == []


def test_a_runs_log_is_the_one_its_record_names_else_its_newest(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    own, other = (store.root / "runs" / "a" / name for name in ("1", "2"))
    for folder in (own, other):
        (folder / "logs").mkdir(parents=True)
    (tmp_path / "secret.log").write_text("outside")
    assert last_log_lines(store, own, {}) == []
    (own / "failure.txt").write_text("Traceback")
    assert last_log_lines(store, own, {}) == ["Traceback"]
    for n, name in enumerate(("logs/rm.log", "command.log", "logs/ppo.log")):
        (own / name).write_text(f"{name}\n")
        os.utime(own / name, (n, n))
    assert last_log_lines(store, own, {}) == ["logs/ppo.log"]
    (other / "logs" / "sft.log").write_text("".join(f"line {n}\n" for n in range(10_000)))
    named = last_log_lines(store, own, {"log": "runs/a/2/logs/sft.log"})
    assert named == [f"line {n}" for n in range(9980, 10_000)]
    for gone in ("runs/a/2/logs/gone.log", "../secret.log", str(tmp_path / "secret.log")):
        assert last_log_lines(store, own, {"log": gone}) == ["logs/ppo.log"]
