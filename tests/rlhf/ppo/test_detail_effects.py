"""The table of what each optional detail of PPO changes, from run folders to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import detail_page
import made_runs
import ppo_details
import pytest
from detail_page import Detail

from plumbrule.store.artifacts import Store

BASE, GAINS = (0.1, 0.2, 0.6), (0.3, 0.2, 0.7)


def write_cell(store: Store, number: int, detail: str, seed: int, gain: float, **more: Any) -> None:
    words = [f"seed={seed}"] if detail == "default" else [f"ppo.{detail}=1", f"seed={seed}"]
    at = {"": detail} | ({} if detail == "default" else {f"ppo.{detail}": "1"})
    rows = [{"update": u, "objective/entropy": 1.0} for u in range(1, 11)]
    if detail == "dies":
        rows[-1]["objective/entropy"] = float("nan")
    node = made_runs.publish_ppo(store, f"{number:016x}", rows)
    node["hardware"] = {"processor": "Abacus", "threads": 1}
    metrics = {"ppo/gold_gain": gain, "objective/kl": 2.0 + gain}
    about = {"nodes": {"ppo": node}, "seed": seed, "zipped": {"detail": at}, **more}
    made_runs.write_run(store, number, words, metrics, **about)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two details of three seeds, one of which collapses, and one whose only cell failed."""
    store = Store(tmp_path)
    number = 0
    for detail, gains in (("default", BASE), ("helps", GAINS), ("dies", (0.1, 0.2))):
        for seed, gain in enumerate(gains):
            write_cell(store, number, detail, seed, gain)
            number += 1
    write_cell(store, number, "fails", 0, 0.0, state="failed", error="NaN")
    return store


def test_effects_are_paired_by_seed_and_collapse_and_failure_counted(store: Store) -> None:
    found = ppo_details.effects(store, ["quickstart"])["details"]
    assert next(iter(found)) == "default"
    assert found["default"]["gold_gain"]["mean"] == pytest.approx(0.3)
    # Gains over the baseline's seeds: 0.2, 0 and 0.1: mean 0.1, SD 0.1; t(0.975, 2) = 4.3027.
    gain = found["helps"]["gold_gain"]
    assert gain["pairs"] == 3
    assert gain["difference"] == pytest.approx(0.1)
    assert gain["difference_high"] == pytest.approx(0.1 + 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    # t = 0.1 / (0.1 / sqrt 3) = 1.7321, two-sided with 2 degrees: 0.2254; Holm over one known p.
    assert gain["p_holm"] == pytest.approx(0.2254, abs=1e-4)
    assert found["helps"]["kl"]["difference"] == pytest.approx(0.1)
    assert found["helps"]["gold_gain_sd"] == pytest.approx(0.2646, abs=1e-4)  # of .3, .2, .7
    assert found["helps"]["collapsed"] == 0
    assert found["dies"]["collapsed"] == 2
    assert found["dies"]["gold_gain"]["p_holm"] is None  # two seeds
    assert found["fails"]["states"] == {"failed": 1}
    with pytest.raises(SystemExit, match=r"detail=default must be done"):
        ppo_details.effects(Store(store.root), [sorted(store.root.glob("runs/*/*"))[4].name])


def test_the_table_says_what_did_not_run_and_what_is_not_known(store: Store) -> None:
    found = ppo_details.effects(store, ["quickstart"])
    details = [
        Detail(1, "A default", "default", ""),
        Detail(2, "Helps", "option", "", (), "", ("helps", "ppo.helps=1; ppo.more=2")),
        Detail(3, "Dies", "option", "", (), "", ("dies", "ppo.dies=1")),
        Detail(4, "Fails", "option", "", (), "", ("fails", "ppo.fails=1")),
        Detail(5, "Waits", "option", "", (), "", ("waits", "ppo.waits=1")),
        Detail(6, "Never", "option", "", unchanged="needs a teacher"),
    ]
    intro, _, header, rule, *rows = detail_page.effect_table(details, found).splitlines()
    assert "gold gain 0.3 (SD 0.26), KL 2.3 nats, over 3 seeds" in intro
    assert "Abacus, 1 threads" in intro
    assert "p is corrected over the 1 details that have one for gold gain, and the 1 for" in intro
    assert {row.count(" | ") for row in (header, rule, *rows)} == {10}
    helps, dies, fails, waits, never = rows
    assert helps.startswith(
        "| 2 | Helps | `ppo.helps=1`<br>`ppo.more=2` | 3 | +0.1 [-0.148, 0.348] | 0.23 | +0.1 ["
    )
    assert helps.endswith("| 0.26 | 0 of 3 | 0 |")
    assert "+0 (too few seeds for an interval) | - |" in dies
    assert dies.endswith("| 2 of 2 | 0 |")
    assert "| 0 | failed |" in fails
    assert "| 0 | not run |" in waits
    assert "not alone: it needs a teacher" in never


def test_the_details_name_cells_of_the_sweep_and_the_settings_are_theirs() -> None:
    details = detail_page.read_details(detail_page.ROOT / detail_page.DETAILS)
    options = [one for one in details if one.status == "option"]
    changes = [one.change for one in options if one.change]
    assert len({name for name, _ in changes}) == len(changes) >= 15
    for one in options:
        for word in one.change[1:]:
            keys = {part.split("=")[0].strip() for part in word.split(";")}
            assert keys <= set(one.settings), one.name
    lacking = Detail(1, "x", "option", "", ("ppo.lam",))
    said = detail_page.problems([lacking], {1: ["t"]})
    assert any("must have a change" in line for line in said)
