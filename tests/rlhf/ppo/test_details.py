"""Every detail on the page is held by a test, and every test of a detail can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import detail_page
import mutate
import pytest
from places import ROOT

TABLES = (detail_page.EFFECTS, detail_page.SWEEP)
"""What the page's second table is made of, and the sweep that is made of the details."""


def test_the_page_is_what_the_details_and_the_tests_say() -> None:
    """As `python scripts/detail_page.py --check`."""
    assert detail_page.check() == []


def test_a_stale_page_and_an_unheld_detail_are_named(tmp_path: Path) -> None:
    """One sentence on the page changed by hand, and the only test of detail 9 gone."""
    for name in (*TABLES, detail_page.PAGE, detail_page.DETAILS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    (tmp_path / "tests").mkdir()
    marks = "".join(
        f"@pytest.mark.detail({n})\n"
        for n in range(1, detail_page.NUM_DETAILS + 1)
        if n not in (9, 53)
    )
    (tmp_path / "tests" / "test_all.py").write_text(f"{marks}def test_all(): pass\n")
    stale = "rlhf/ppo/README.md is stale; run python scripts/detail_page.py."
    unheld, last = detail_page.check(tmp_path)
    assert unheld.startswith("detail 9 (Length of responses) must be held by a test")
    assert last == stale
    detail_page.write_page(tmp_path)
    assert detail_page.check(tmp_path) == [unheld]
    page = tmp_path / detail_page.PAGE
    page.write_text(page.read_text("utf-8").replace("No bonus.", "A bonus."), "utf-8")
    assert detail_page.check(tmp_path) == [unheld, stale]
    detail_page.write_page(tmp_path)
    sweep = tmp_path / detail_page.SWEEP
    sweep.write_text(sweep.read_text("utf-8").replace("dual_clip=3", "dual_clip=4"), "utf-8")
    found = detail_page.check(tmp_path)
    assert found == [unheld, f"{detail_page.SWEEP} is stale; run python scripts/detail_page.py."]


def test_every_detail_has_a_mutant_whose_patch_applies() -> None:
    """Whether the tests catch it takes minutes to say: the slow test below."""
    details = detail_page.read_details(ROOT / detail_page.DETAILS)
    assert mutate.unbroken(d.number for d in details if not d.is_left_out) == []
    for mutant in mutate.MUTANTS:
        assert mutate.patched(mutant) != (ROOT / mutant.file).read_text("utf-8")


def test_the_page_knows_every_mutant() -> None:
    """What was found belongs to the list as it is now, and names tests that exist."""
    found = detail_page.read_mutations(ROOT / detail_page.MUTATIONS)
    assert [(row["detail"], row["name"]) for row in found] == [m[:2] for m in mutate.MUTANTS]
    marked = detail_page.marked_tests(ROOT / "tests")
    assert [row for row in found if row["killed_by"] not in marked[row["detail"]]] == []


def test_what_is_around_ppo_has_mutants_whose_patches_apply_and_were_caught() -> None:
    """At least forty, over every area, by the tests that they name."""
    others = [mutate.as_mutant(other) for other in mutate.OTHERS]
    assert len(others) >= 40
    assert len({m[:2] for m in others}) == len(others)
    areas = ("sampler", "rag", "eval", "rewards", "reward losses", "data", "artifacts")
    assert set(areas) <= {m.detail for m in others}
    for mutant in others:
        assert mutate.patched(mutant) != (ROOT / mutant.file).read_text("utf-8")
    found = detail_page.read_mutations(ROOT / detail_page.MUTATIONS, "others")
    assert [(row["detail"], row["name"]) for row in found] == [m[:2] for m in others]
    killers = {(m.detail, m.name): m.tests for m in others}
    assert [r for r in found if r["killed_by"] not in killers[r["detail"], r["name"]]] == []


@pytest.mark.slow
def test_every_mutant_is_caught() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "mutate.py"), "--dry"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
