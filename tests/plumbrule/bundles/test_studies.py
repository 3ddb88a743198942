"""Numbers of stages that only read others' artifacts: each is computed again, a false one found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_studies
import pytest
from made_archives import contents, forged

from plumbrule.bundles.verify import Check, check_archive
from plumbrule.cli import verbs
from plumbrule.errors import ArtifactError

KINDS = ("knowledge", "summary", "methods", "overoptimisation", "win_rate")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a run of all of them."""
    root = tmp_path_factory.mktemp("studies")
    made_studies.write_run(root / "store")
    verbs.main(["bundle", "study", "--to", str(root / "run.zip"), "--store", str(root / "store")])
    return root / "run.zip"


def folder(path: Path, kind: str) -> str:
    names = [name for name in contents(path) if name.startswith(f"artifacts/{kind}/")]
    (found,) = {name.rsplit("/", 1)[0] for name in names if name.endswith("manifest.json")}
    return found


def checked(path: Path, kind: str) -> Any:
    return next(one for one in check(path).nodes if one.artifact.split("/")[1] == kind)


def check(path: Path) -> Check:
    return check_archive(path)


def test_every_number_of_each_is_computed_again(made: Path) -> None:
    found = check(made)
    assert found.every_wrong == []
    by_kind = {one.artifact.split("/")[1]: one for one in found.nodes}
    for kind in KINDS:
        assert by_kind[kind].unknown == [], kind
        headline = json.loads(contents(made)[f"{folder(made, kind)}/manifest.json"])["metrics"]
        assert by_kind[kind].recomputed > len(headline) > 0, kind


FILES = {
    "knowledge": ("metrics.json", ("knowledge", "rag", "accuracy_after", "value"), 0.99),
    "knowledge_cost": ("metrics.json", ("knowledge", "rag", "cost_per_1000", "value"), 0.001),
    "summary": ("summary.json", (0, "mean", "high"), 1e6),
    "methods": ("methods.json", (0, "test_gold_gain", "value"), 9.0),
    "methods_curve": ("methods.json", (0, "generated_tokens"), 1.0),
    "overoptimisation": ("fits.json", (0, "alpha", "low"), 9.0),
    "overoptimisation_best": ("fits.json", (1, "points", 0, "gold", 2), 9.0),
    "win_rate": ("win_rates.json", (0, "value"), 0.99),
    "win_rate_ties": ("win_rates.json", (0, "ties", "value"), 0.01),
}


@pytest.mark.parametrize("what", FILES)
def test_a_false_number_of_a_file_is_found(made: Path, what: str) -> None:
    name, path, value = FILES[what]
    kind = next(one for one in KINDS if what.startswith(one))
    where = folder(made, kind)
    other = forged(made, lambda files: made_studies.changed(files, f"{where}/{name}", path, value))
    (said,) = [line for line in checked(other, kind).wrong if name in line]
    assert f"{value}" in said
    assert "its items give" in said
    with pytest.raises(ArtifactError, match="are wrong"):
        verbs.main(["check", str(other)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_false_headline_is_found_though_the_run_says_the_same(made: Path, kind: str) -> None:
    where = folder(made, kind)

    def change(files: dict[str, bytes]) -> None:
        manifest = f"{where}/manifest.json"
        record = f"runs/study/{made_studies.RUN}/run.json"
        metric = next(iter(json.loads(files[manifest])["metrics"]))
        made_studies.changed(files, manifest, ["metrics", metric], 0.777)
        made_studies.changed(files, record, ["nodes", kind, "metrics", metric], 0.777)
        whole = json.loads(files[record])
        named = [name for name in whole["metrics"] if name.endswith(metric)]
        for name in named:
            made_studies.changed(files, record, ["metrics", name], 0.777)

    found = checked(forged(made, change), kind)
    assert any("is 0.777; its items give" in line for line in found.wrong)


def test_who_won_is_not_read_from_the_row(made: Path) -> None:
    where = folder(made, "win_rate")

    def change(files: dict[str, bytes]) -> None:
        name = f"{where}/items/rm.jsonl"
        files[name] = files[name].replace(b'"win": 0.0', b'"win": 1.0')

    other = forged(made, change)
    assert contents(other) != contents(made)
    assert checked(other, "win_rate").wrong == []  # the scores in the rows say who won

    def also_the_rate(files: dict[str, bytes]) -> None:
        change(files)
        made_studies.changed(files, f"{where}/win_rates.json", [0, "value"], 0.75)

    assert checked(forged(made, also_the_rate), "win_rate").wrong != []


def test_rows_that_are_not_those_of_the_evaluations_are_found(made: Path) -> None:
    where = folder(made, "knowledge")

    def change(files: dict[str, bytes]) -> None:
        name = f"{where}/items/answers.jsonl"
        files[name] = files[name].replace(b'"correct": 0', b'"correct": 1', 1)

    (said,) = checked(forged(made, change), "knowledge").wrong
    assert "items/answers.jsonl" in said
