"""The files of conf/paper: sound, their sweeps compose, and docs/papers.md is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from places import ROOT

from plumbrule.cli import verbs
from plumbrule.cli.verbs.paper import PAGE, PAPERS, RESULTS, docs_page
from plumbrule.errors import ConfigError
from plumbrule.notebook import check_paper
from plumbrule.papers.expressions import parse
from plumbrule.papers.paper import Paper, PaperScale
from plumbrule.papers.paper_files import paper_names, read_paper
from plumbrule.papers.sweep_words import PaperCell, cells_of
from plumbrule.pipeline.compose import Composed
from plumbrule.pipeline.planning import revisions
from plumbrule.report.repeats import FEWEST

ASKED = {
    *("ziegler2019", "stiennon2020", "huang2024", "ouyang2022", "bai2022", "gao2022", "coste2023"),
    *("rafailov2023", "singhal2023", "ahmadian2024", "lewis2020", "ovadia2023", "balaguer2024"),
    *("li2023", "dhamala2021"),
}
NAMES = paper_names(PAPERS)


def first_cells(scale: PaperScale, paper: Paper) -> list[PaperCell]:
    """Return the first cell of each arm; the others differ from it by swept values."""
    found: dict[str, PaperCell] = {}
    for cell in [] if scale.unavailable else cells_of(paper, scale):
        found.setdefault(cell.arm, cell)
    return list(found.values())


def test_the_papers_are_there() -> None:
    assert set(NAMES) >= ASKED


@pytest.mark.parametrize("name", NAMES)
def test_a_laptop_scale_has_seeds_for_an_interval(name: str) -> None:
    laptop = read_paper(PAPERS, name).scales["laptop"]
    assert len(laptop.seeds) >= FEWEST
    assert laptop.claims
    assert not laptop.needs


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_composes_and_builds_the_nodes_that_claims_name(
    name: str, compose_whole: Callable[..., Composed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "commit_of", lambda name, revision, kind: "0" * 40)
    paper = read_paper(PAPERS, name)
    for scale in paper.scales.values():
        built = {""}
        for cell in first_cells(scale, paper):
            data = [f"{need.setting}=." for need in scale.needs]
            composed = compose_whole(*cell.overrides, *data)
            assert composed.config.run.name == f"paper_{name}"
            built |= {node.name for node in composed.nodes}
        for claim in scale.claims:
            named = parse(claim.expression, scale.definitions).references
            assert {one.node for one in named} <= built, claim.expression


def test_the_page_is_what_the_papers_and_their_results_make() -> None:
    made = docs_page(ROOT / RESULTS)
    assert (ROOT / PAGE).read_text("utf-8") == made, "run plumbrule paper docs"


def test_the_page_says_what_was_not_run_and_by_what_verdicts_were_made(tmp_path: Path) -> None:
    page = docs_page(tmp_path)
    assert (
        "| [gao2022](#gao2022) | Scaling Laws for Reward Model Overoptimization | 4 not run |"
        in page
    )
    assert "not run; it needs the folder of amazon-science/bold." in page
    assert "| holds |" not in page
    assert "(unverified)" in page


def test_the_page_is_not_made_where_there_are_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run it at the root of the project"):
        verbs.main(["paper", "docs"])
    assert list(tmp_path.iterdir()) == []


def test_the_check_is_a_python_call_too(tmp_path: Path) -> None:
    found = check_paper("lewis2020", store=tmp_path)
    assert {one.verdict for one in found.outcomes} == {"not run"}
    with pytest.raises(ConfigError, match="did you mean lewis2020"):
        check_paper("lewis2021", store=tmp_path)
    with pytest.raises(ConfigError, match="scale"):
        check_paper("lewis2020", "lap", store=tmp_path)


def test_the_list_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.main(["paper", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMES


def test_without_runs_nothing_fails_and_nothing_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.main(["paper", "check", "all", "--json", "--store", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    verdicts = {one["verdict"] for paper in found.values() for one in paper["laptop"]["claims"]}
    assert verdicts == {"not run"}
