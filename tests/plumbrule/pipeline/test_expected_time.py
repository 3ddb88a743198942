"""What a plan says of the time that its nodes will take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbrule.pipeline.expected_time import duration, expected_seconds
from plumbrule.pipeline.plan import Planned, make_plan
from plumbrule.store.artifacts import Store
from plumbrule.store.json_files import write_json
from plumbrule.store.manifests import Manifest


def publish(store: Store, planned: Planned, number: int, seconds: float, **changes: Any) -> None:
    """Write the manifest of an artifact like a planned one."""
    kind, name = planned.node.kind, f"{number:016d}"
    links = {slot: fingerprint for slot, (_, fingerprint) in planned.inputs.items()}
    run = changes.pop("run", "quickstart/1")
    folder = store.folder(kind, name)
    folder.mkdir(parents=True)
    manifest = Manifest(
        planned.node.name,
        kind,
        name,
        {**planned.config, **changes},
        links,
        wall_seconds=seconds,
        built_by=f"run {run} (process 1 on here)",
    )
    write_json(folder / "manifest.json", manifest.__dict__)


@pytest.fixture
def planned(composed: Callable, tmp_path: Path) -> tuple[Store, list[Planned]]:
    store = Store(tmp_path)
    return store, make_plan(composed("run.only=ppo")[1], store)


def node(plan: list[Planned], name: str) -> Planned:
    return next(p for p in plan if p.node.name == name)


def test_a_node_takes_about_as_long_as_the_one_most_like_it(
    planned: tuple[Store, list[Planned]],
) -> None:
    store, plan = planned
    assert set(expected_seconds(plan, store).values()) == {None}
    sft = node(plan, "sft")
    for i, (changes, seconds) in enumerate(
        [({"batch_size": 1}, 10.0), ({"seed": 1}, 20.0), ({"seed": 2}, 30.0)]
    ):
        publish(store, sft, i, seconds, **changes)
    assert expected_seconds(plan, store)["sft"] == 20.0  # all three differ by one setting
    assert [duration(s) for s in (4.2, 130, 7200)] == ["4 s", "2 min", "2.0 h"]


def test_the_time_is_scaled_by_the_work_and_unknown_where_much_less_was_done(
    planned: tuple[Store, list[Planned]],
) -> None:
    store, plan = planned
    ppo, sft = node(plan, "ppo"), node(plan, "sft")
    publish(store, ppo, 1, 10.0, total_episodes=ppo.config["total_episodes"] // 4)
    assert expected_seconds(plan, store)["ppo"] == pytest.approx(40.0)
    publish(store, sft, 2, 3.0, num_train_epochs=sft.config["num_train_epochs"] / 20)
    assert expected_seconds(plan, store)["sft"] is None
    publish(store, sft, 3, 3.0, num_train_epochs=sft.config["num_train_epochs"] * 2)
    assert expected_seconds(plan, store)["sft"] == pytest.approx(1.5)


def test_a_debug_run_with_less_work_and_another_model_say_nothing(
    planned: tuple[Store, list[Planned]],
) -> None:
    store, plan = planned
    for run, overrides in (("q/1", ["debug=fast"]), ("q/2", ["seed=1"])):
        (store.root / "runs" / run).mkdir(parents=True)
        write_json(store.root / "runs" / run / "run.json", {"overrides": overrides})
    rm = node(plan, "rm")
    half = {"num_train_epochs": rm.config["num_train_epochs"] / 2}
    publish(store, rm, 1, 5.0, run="q/1", **half)
    assert expected_seconds(plan, store)["rm"] is None
    publish(store, rm, 2, 7.0, run="q/2", **half)
    assert expected_seconds(plan, store)["rm"] == 14.0
    publish(store, rm, 5, 9.0, run="q/1")  # as much work, as where debug=fast is planned again
    assert expected_seconds(plan, store)["rm"] == 9.0
    sft = node(plan, "sft")
    publish(store, node(plan, "base"), 3, 1.0, model={"name_or_path": "another"})
    other = Manifest("sft", "sft", f"{4:016d}", sft.config, {"base": f"{3:016d}"}, wall_seconds=9.0)
    store.folder("sft", other.fingerprint).mkdir(parents=True)
    write_json(store.folder("sft", other.fingerprint) / "manifest.json", other.__dict__)
    assert expected_seconds(plan, store)["sft"] is None
