"""Cells of a sweep: its grid, zipped axes, their order, and what can't be."""

from __future__ import annotations

from typing import Any

import pytest

from plumbrule.errors import ConfigError
from plumbrule.report.repeats import REPEATED
from plumbrule.report.sweep_table import label_words
from plumbrule.results.sweep_axes import (
    alone_axes,
    cells_of_sweep,
    labels_of,
    named_axes,
    zipped_axes,
)

SCALE = "ppo.learning_rate=1e-5,3e-5; ppo.batch_size=64,128"


def cells(*task: str, **sweeper: Any) -> list[tuple[str, ...]]:
    return cells_of_sweep({"sweeper": sweeper, "overrides": {"task": list(task)}})


def test_a_zipped_axis_is_combined_with_every_other_value() -> None:
    assert cells("seed=0,1", "run.name=a", zip={"scale": SCALE}) == [
        ("ppo.learning_rate=1e-05", "ppo.batch_size=64", "seed=0", "run.name=a"),
        ("ppo.learning_rate=1e-05", "ppo.batch_size=64", "seed=1", "run.name=a"),
        ("ppo.learning_rate=3e-05", "ppo.batch_size=128", "seed=0", "run.name=a"),
        ("ppo.learning_rate=3e-05", "ppo.batch_size=128", "seed=1", "run.name=a"),
    ]


@pytest.mark.parametrize(
    "given",
    [
        "a.b=1,2;c=[x,y],[z]",
        {"a.b": [1, 2], "c": "[x,y],[z]"},
        {"a.b": "range(1,3)", "c": "choice([x,y],[z])"},
    ],
)
def test_an_axis_is_a_text_or_a_mapping_with_values_as_the_command_line_has_them(given) -> None:
    assert zipped_axes({"axis": given}) == {
        "axis": [{"a.b": "1", "c": "[x,y]"}, {"a.b": "2", "c": "[z]"}]
    }


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"s": "a=1,2; b=1,2,3"}, r"sweep.zip.s must have as many values .*a has 2, b has 3"),
        ({"s": "a=1,2"}, "must hold two settings or more"),
        ({"s": ""}, "must hold two settings or more"),
        ({"s": "a=1,2; b"}, r"sweep.zip.s \(=b\) must be setting=values"),
        ({"s": 3}, r"sweep.zip.s \(=3\) must be settings and their values"),
        ({"s": "a=1,2; a=3,4"}, "must set a once"),
        ({"s": "a=1,2; b=3,4", "t": "b=1,2; c=3,4"}, "not in sweep.zip.s and sweep.zip.t"),
        ({"s": "a=interval(0,1); b=3,4"}, "must list its values, not an interval"),
        *(
            ({name: "a=1,2; b=3,4"}, "must be named by one word other than seed and fold")
            for name in REPEATED
        ),
        ({"a.b": "a=1,2; b=3,4"}, "must be named by one word"),
        ({"s": {"a": [[1], [2]], "b": [3, 4]}}, r"sweep.zip.s.a .* must be a text"),
    ],
)
def test_an_axis_that_can_not_be_is_refused(axes: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        zipped_axes(axes)


def test_a_setting_stands_in_an_axis_or_by_itself() -> None:
    with pytest.raises(ConfigError, match=r"ppo.batch_size must not stand in sweep.zip.scale and"):
        cells("ppo.batch_size=32", zip={"scale": SCALE})


def test_a_file_gives_values_and_the_command_has_the_last_word() -> None:
    params = {"seed": [0, 1], "rm.on": True, "x": "range(0,2)"}
    assert cells("sweep=mine", "seed=7", params=params) == [
        ("seed=7", "rm.on=True", "x=0"),
        ("seed=7", "rm.on=True", "x=1"),
    ]


def test_first_orders_the_cells_by_its_overrides_the_earlier_before_the_later() -> None:
    found = cells("seed=0,1", zip={"scale": SCALE}, first="seed=1; scale=3e-05/128")
    assert [(words[2], words[1]) for words in found] == [
        ("seed=1", "ppo.batch_size=128"),
        ("seed=1", "ppo.batch_size=64"),
        ("seed=0", "ppo.batch_size=128"),
        ("seed=0", "ppo.batch_size=64"),
    ]
    assert found == cells("seed=0,1", zip={"scale": SCALE}, first=["seed=1", "scale=3e-05/128"])
    with pytest.raises(
        ConfigError, match=r"sweep.first \(=seed=2\) must be an override that cells"
    ):
        cells("seed=0,1", first="seed=2")


def test_an_interval_is_for_a_search() -> None:
    with pytest.raises(ConfigError, match=r"a=interval\(0,1\) must list its values.*sweep.search"):
        cells("a=interval(0,1)")


def test_a_cell_stands_at_a_position_only_with_all_of_its_values() -> None:
    axes = zipped_axes({"scale": SCALE})
    at = {"ppo.learning_rate": "3e-05", "ppo.batch_size": "128"}
    own = [f"{key}={value}" for key, value in at.items()]
    assert labels_of(axes, ["seed=0", *own]) == {"scale": at}
    assert labels_of(axes, ["ppo.learning_rate=3e-5", "ppo.batch_size=64"]) == {}


ALONE = {"detail": {"dual": "ppo.dual_clip=3", "capped": {"ppo.importance_cap": 2, "a.b": None}}}


def test_changes_of_a_one_at_a_time_axis_stand_alone_beside_the_baseline() -> None:
    assert cells("seed=0,1", alone=ALONE) == [
        ("seed=0",),
        ("seed=1",),
        ("ppo.dual_clip=3", "seed=0"),
        ("ppo.dual_clip=3", "seed=1"),
        ("ppo.importance_cap=2", "a.b=null", "seed=0"),
        ("ppo.importance_cap=2", "a.b=null", "seed=1"),
    ]


def test_a_cell_is_named_by_its_change_and_the_baseline_too() -> None:
    axes = named_axes({"alone": ALONE, "zip": {"scale": SCALE}})
    words = [
        label_words(labels_of(axes, (*cell, "ppo.learning_rate=1e-05", "ppo.batch_size=64")))
        for cell in cells("seed=0", alone=ALONE)
    ]
    scale = "scale=1e-05/64"
    assert words == [
        [scale, "detail=default"],
        [scale, "detail=dual"],
        [scale, "detail=capped"],
    ]
    assert cells("seed=0,1", alone=ALONE, first="detail=capped; seed=1")[0] == (
        *("ppo.importance_cap=2", "a.b=null", "seed=1"),
    )


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ({"detail": "ppo.dual_clip=3"}, r"sweep.alone.detail .* must be names of changes"),
        ({"detail": {}}, r"sweep.alone.detail .* must be names of changes"),
        ({"seed": {"a": "b=1"}}, "must be named by one word other than seed and fold"),
        ({"detail": {"default": "b=1"}}, "must be named by one word other than default"),
        ({"detail": {"a b": "b=1"}}, "must be named by one word other than default"),
        ({"detail": {"a": "b=1,2"}}, r"sweep.alone.detail.a must set b to one value"),
        ({"detail": {"a": ""}}, r"sweep.alone.detail.a .* must hold"),
        ({"detail": {"a": "b"}}, r"sweep.alone.detail.a \(=b\) must be setting=values"),
        ({"detail": {"a": {"b": [[1]]}}}, r"sweep.alone.detail.a.b .* must be a text"),
        ({"x": {"a": "b=1"}, "y": {"a": "b=2"}}, "b must stand in one axis of a sweep, not in x"),
    ],
)
def test_a_one_at_a_time_axis_that_can_not_be_is_refused(axes: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        named_axes({"alone": axes})


def test_a_changed_setting_stands_in_its_axis_alone() -> None:
    with pytest.raises(ConfigError, match=r"ppo.dual_clip must not stand in sweep.alone.detail"):
        cells("ppo.dual_clip=2", alone=ALONE)
    zipped = {"s": "ppo.dual_clip=2,3; c=1,2"}
    with pytest.raises(ConfigError, match=r"ppo\.dual_clip must stand in one axis"):
        cells(alone=ALONE, zip=zipped)
    with pytest.raises(ConfigError, match=r"sweep.alone.s must have another name than sweep.zip.s"):
        cells(alone={"s": {"a": "b=1"}}, zip=zipped)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("", "sweep.alone.detail.a .* must hold a setting;"),
        ("seed=3", "must not set seed, by which a change is paired with default"),
        ("ppo.lam=1; +fold=2", r"must not set \+fold, by which"),
    ],
)
def test_a_change_that_can_not_be_compared_is_refused(settings: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        alone_axes({"detail": {"a": settings}})
