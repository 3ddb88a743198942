"""The table of a sweep: seeds put together, failures named, the best cell, a CSV."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from plumbrule.cli.sweeps import command as run
from plumbrule.errors import NeedsInput, TrainingError
from plumbrule.report.sweep_table import (
    Cell,
    best_of,
    find_cells,
    rows_of,
    table_lines,
    write_cell,
    write_csv,
)


def cell(number: int, coef: str, seed: str = "", gain: float = 0.0, **more) -> Cell:
    overrides = [f"ppo.kl.coef={coef}", *([f"seed={seed}"] if seed else [])]
    metrics = {"ppo/gold_gain": gain, "ppo/gold_gain_low": gain - 1, "ppo/gold_gain_high": gain + 1}
    about = {"headline": ["ppo/gold_gain"], "metrics": metrics, **more}
    return Cell("s", number, overrides, **about)


def test_a_zipped_axis_stands_for_its_settings() -> None:
    def at(number: int, coef: str, gamma: str) -> Cell:
        values = {"ppo.kl.coef": coef, "ppo.gamma": gamma}
        found = cell(number, coef, gain=number, zipped={"pair": values})
        return replace(found, overrides=[*found.overrides, f"ppo.gamma={gamma}"])

    assert [row.cell for row in rows_of([at(0, "0.1", "1"), at(1, "0.4", "0.9")])] == [
        "pair=0.1/1",
        "pair=0.4/0.9",
    ]


def test_cells_that_differ_by_their_seed_are_one_row_with_students_interval() -> None:
    cells = [cell(i, "0.1", str(i), gain) for i, gain in enumerate((1.0, 2.0, 3.0))]
    (row,) = rows_of([*cells, cell(3, "0.4", error="no memory")])
    assert (row.cell, row.metric) == ("ppo.kl.coef=0.1", "ppo/gold_gain")
    assert (row.mean, row.over, row.n) == (2.0, "seeds", 3)
    # Student's quantile of two degrees of freedom, 4.303, times a deviation of 1 over root 3
    assert row.high == pytest.approx(2.0 + 4.3027 / 3**0.5, abs=1e-3)
    assert row.low == pytest.approx(4.0 - row.high)


def test_one_seed_keeps_the_interval_over_its_items_and_says_so() -> None:
    (row,) = rows_of([cell(0, "0.1", gain=2.0)])
    assert (row.low, row.high, row.over, row.n) == (1.0, 3.0, "items", 1)


def test_the_best_cell_goes_by_which_way_is_better() -> None:
    cells = [cell(0, "0.1", gain=1.0), cell(1, "0.4", gain=2.0)]
    row, end = best_of(rows_of(cells), None)
    assert (row.cell, end) == ("ppo.kl.coef=0.4", "highest")
    falls = [
        Cell("s", n, [f"x={n}"], headline=["sft/loss"], metrics={"sft/loss": loss})
        for n, loss in enumerate((0.5, 0.25, 0.75))
    ]
    assert best_of(rows_of(falls), None) is None  # nothing says what the sweep is for
    row, end = best_of(rows_of(falls), "sft/loss")
    assert (row.cell, end) == ("x=1", "lowest")
    assert best_of(rows_of(cells[:1]), None) is None


def test_the_printed_table_names_failures_and_the_best(tmp_path: Path) -> None:
    cells = [cell(0, "0.1", gain=1.0), cell(1, "0.4", gain=2.0), cell(2, "9", error="too large")]
    lines = table_lines(cells)
    assert lines[0].split() == ["cell", "metric", "mean", "interval", "over"]
    assert lines[2].endswith("ppo/gold_gain  2     [1, 3]    items of 1 run")
    assert lines[-2] == "failed: ppo.kl.coef=9 seed=default: too large"
    assert lines[-1] == (
        "best by ppo/gold_gain (highest): ppo.kl.coef=0.4; no more than the intervals allow from "
        "the second, ppo.kl.coef=0.1; one seed each"
    )
    write_csv(tmp_path / "s.csv", cells)
    with open(tmp_path / "s.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["mean"] for row in rows] == ["1.0", "2.0"]


def test_two_seeds_are_too_few_for_an_interval_and_shares_stay_shares() -> None:
    def of(number: int, coef: str, seed: int, share: float) -> Cell:
        about = {"headline": ["rm/accuracy"], "metrics": {"rm/accuracy": share}}
        return Cell("s", number, [f"ppo.kl.coef={coef}", f"seed={seed}"], "rm/accuracy", **about)

    two = [of(i, "0.1", i, share) for i, share in enumerate((0.0, 1.0))]
    three = [of(i + 2, "0.4", i, share) for i, share in enumerate((0.0, 0.9, 0.9))]
    lines = table_lines([*two, *three])
    assert re.search(r"ppo\.kl\.coef=0\.1 .* 0\.5 +too few seeds +2 seeds$", lines[1])
    assert re.search(r"ppo\.kl\.coef=0\.4 .* 0\.6 +\[0, 1\] +3 seeds$", lines[2])
    assert lines[-1].endswith(
        "ppo.kl.coef=0.4; whether it differs from ppo.kl.coef=0.1 is not known: too few seeds"
    )


def test_a_best_that_is_told_from_the_second_is_named_alone() -> None:
    cells = [cell(0, "0.1", gain=1.0), cell(1, "0.4", gain=9.0)]
    assert table_lines(cells)[-1].endswith("ppo.kl.coef=0.4; one seed each")


def test_what_was_stopped_has_not_failed() -> None:
    (line,) = [t for t in table_lines([cell(0, "1", error="stopped by Ctrl-C")]) if "Ctrl-C" in t]
    assert line.startswith("stopped: ")


def test_cells_are_found_by_their_sweep_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1, 0):
        write_cell(tmp_path / "study" / "sweep" / f"c{number}", cell(number, str(number)))
    write_cell(tmp_path / "study" / "sweep" / "old", Cell("earlier", 0, []))
    sweep = tmp_path / "study" / "sweep"
    for name, text in (("half", '{"sweep": "s", "num'), ("later", '{"sweep": "old", "x": 1}')):
        (sweep / name).mkdir()
        (sweep / name / "cell.json").write_text(text)
    cells, folder = find_cells([sweep], "s")
    assert [c.number for c in cells] == [0, 1]
    assert folder == sweep
    assert find_cells([sweep], "none") == ([], None)


def test_a_metric_that_is_no_number_has_no_row() -> None:
    cells = [cell(i, "0.1", str(i), gain) for i, gain in enumerate((1.0, 3.0, math.nan))]
    (row,) = rows_of(cells)
    assert (row.mean, row.n) == (2.0, 2)
    assert rows_of(cells[2:]) == []


@pytest.mark.parametrize(
    ("ended", "raised"),
    [({"error": "no memory"}, TrainingError), ({"awaits": "rank them"}, NeedsInput)],
)
def test_a_sweep_ends_as_its_cells_did_whatever_process_ran_them(
    tmp_path: Path, ended: dict, raised: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, noted = tmp_path / "study" / "sweep", tmp_path / "noted"
    write_cell(sweep / "a", cell(0, "0.1", gain=1.0))
    write_cell(sweep / "b", Cell("s", 1, ["ppo.kl.coef=9"], **ended))
    noted.mkdir()
    (noted / "one").write_text(str(sweep))
    with pytest.raises(raised):
        run.end_sweep("s", noted)
    assert next(iter(ended.values())) in capsys.readouterr().out
    assert (sweep / "s.csv").is_file()


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": {"ppo/gold_gain": "high"}},
        {"metrics": {"ppo/gold_gain": None}},
        {"metrics": [1.0]},
        {"overrides": "seed=1"},
        {"headline": [1]},
        {"zipped": {"pair": ["0.1"]}},
        {"zipped": {"pair": {"ppo.gamma": 1}}},
        {"number": "1"},
        {"fold": 0.5},
    ],
)
def test_a_cell_whose_fields_have_other_types_is_damaged_and_left_out(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    write_cell(tmp_path / "0", cell(0, "0.1", gain=1.0))
    write_cell(tmp_path / "1", cell(1, "0.4", gain=2.0))
    path = tmp_path / "1" / "cell.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**whole, **changed}), encoding="utf-8")
    cells, _ = find_cells([tmp_path], "s")
    assert [found.number for found in cells] == [0]
    assert "ppo/gold_gain" in table_lines(cells)[1]
    path.write_text(json.dumps({**whole, "of_later": [1]}), encoding="utf-8")
    assert len(find_cells([tmp_path], "s")[0]) == 2
