"""Sweeps through our launcher: one graph, failures that stay where they are, and bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import plumbrule
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from plumbrule.cli.composition import CONF, SWEEP_FOLDERS, VERSION_BASE, composed_config, register
from plumbrule.cli.main import main
from plumbrule.cli.sweeps.cell_files import SWEEP
from plumbrule.cli.sweeps.configs import compose_cells
from plumbrule.cli.sweeps.launch_cells import plan_cell, require_folders_apart
from plumbrule.cli.sweeps.undone import Texts
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import compose_run
from plumbrule.pipeline.plan import Lookups
from plumbrule.results.sweep_axes import cells_of_sweep

BROKEN = """
from rag.options import DENSE_INDEXES


@DENSE_INDEXES.register("broken")
def broken(vectors):
    raise ValueError("it broke\\nin two lines")
"""
SMALL = ("atlas.num_known=16", "atlas.num_after=12", "run.goals=[index]", "tracking=jsonl")


def records(store: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(store.glob("runs/*/*/run.json"))]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A store after a sweep of which one cell fails while its index is built."""
    store = tmp_path_factory.mktemp("swept")
    (store / "broken.py").write_text(BROKEN)
    words = ["-m", "--plugin", "broken.py", "rag.dense_index=broken,flat", *SMALL]
    return store, plumbrule(store, *words)


def test_a_failing_node_fails_its_cell_and_the_other_goes_on(swept) -> None:
    store, done = swept
    assert done.returncode == 1, done.stderr
    assert "plan of the sweep: 2 cells of 4 nodes, 3 of them different" in done.stdout
    assert done.stderr.count("documents: building") == 1
    assert "index failed: it broke; what does not need it goes on" in done.stderr
    states = {record["state"]: record for record in records(store)}
    assert set(states) == {"done", "failed"}
    assert states["done"]["nodes"]["documents"]["state"] == "cached"  # the first cell built it
    assert states["done"]["nodes"]["index"]["state"] == "built"
    (failure,) = store.glob("runs/quickstart/sweep/*/failure.json")
    told = json.loads(failure.read_text())
    assert told["error"] == "it broke\nin two lines"
    assert "in broken" in told["trace"]
    assert not list(store.rglob("claim.json"))


def test_the_same_sweep_builds_what_is_missing(swept, tmp_path: Path) -> None:
    """Also in a store that was moved: nothing in it names where it lay."""
    store = tmp_path / "Umzug ä [1]=x"
    shutil.copytree(swept[0], store)
    before = {path.name for path in (store / "artifacts" / "index").iterdir()}
    words = ["-m", "rag.dense_index=flat", "rag.chunk_words=30,60", *SMALL, "run.dry=true"]
    done = plumbrule(tmp_path, *words, PLUMBRULE_STORE=str(store))
    assert done.returncode == 0, done.stderr
    assert "cell rag.chunk_words=30  1 cached, 1 build" in done.stdout
    assert "cell rag.chunk_words=60  2 cached" in done.stdout
    assert "to build: 1 of 3 nodes" in done.stdout
    assert "of disk" in done.stdout
    assert {path.name for path in (store / "artifacts" / "index").iterdir()} == before


def test_values_with_any_characters_make_cells_of_their_own(swept, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(swept[0] / "artifacts", store / "artifacts")
    values = ('["a=b/c [x] (y) ä, ü"]', '["a=b/c [x] (y) ä, ö"]')
    words = ["-m", f"run.notes={','.join(values)}", *SMALL]
    done = plumbrule(store, *words)
    assert done.returncode == 0, done.stderr
    notes = [record["notes"] for record in records(store)]
    assert sorted(notes) == sorted([value[2:-2]] for value in values)
    cells = [json.loads(path.read_text()) for path in store.glob("runs/*/sweep/*/cell.json")]
    assert sorted(cell["number"] for cell in cells) == [0, 1]
    assert "has the artifacts of cell" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seed=0,1,0"], "cells 0 (seed=0) and 2 (seed=0) must not write one folder"),
        (["ppo.kl.coeff=0.1,0.2"], "ppo.kl.coeff must be a known key; did you mean ppo.kl.coef"),
        (["executor=serial,local"], "executor must be the same for all cells"),
    ],
)
def test_a_sweep_that_can_not_be_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    for variable in (SWEEP, SWEEP_FOLDERS):
        monkeypatch.setenv(variable, "")  # the command sets them
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plumbrule", "-m", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert says in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("cell.json"))


def test_a_choice_that_another_file_undoes_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [quickstart]\n"
        "runtime: {device: cpu, micro_batch_size: 32}\n"
    )
    for variable in (SWEEP, SWEEP_FOLDERS):
        monkeypatch.setenv(variable, "")
    monkeypatch.chdir(tmp_path)
    words = ["--config-dir", "mine", "experiment=mine", "runtime=cpu,gpu1"]
    monkeypatch.setattr(sys, "argv", ["plumbrule", "-m", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "cells (runtime=cpu) and (runtime=gpu1) must differ, but come to one config" in said
    assert "runtime=gpu1 sets runtime.device, which experiment=mine (experiment/mine.yaml)" in said
    assert "sets again" in said


@pytest.fixture
def hydra_loader():
    """Hydra's loader of configs, and the config of a sweep."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        master = compose("config", return_hydra_config=True)
        master.hydra.job.config_name = "config"
        yield GlobalHydra.instance().config_loader(), master


def test_a_glob_is_every_file_of_its_group_that_fits(
    hydra_loader: tuple[object, DictConfig],
) -> None:
    asked = {"overrides": {"task": ["recipe=glob(1b_*)", "seed=range(0,2)"]}}
    names = ("1b_24gb", "1b_40gb", "1b_80gb")
    assert cells_of_sweep(asked, hydra_loader[0]) == [
        (f"recipe={name}", f"seed={seed}") for name in names for seed in (0, 1)
    ]


CELLS = (
    ["ppo.kl.coef=0.1", "seed=0", "run.name=a"],
    ["ppo.kl.coef=0.2", "seed=1", "run.name=a"],
    ["ppo.kl.coef=0.2", "seed=2", "rag.chunk_words=40"],
    ["seed=3", "+nodes.ppo.each={kl.coef: [0.1, 0.2]}"],
    ['run.notes=["a=b, c"]', "ppo.cliprange=1e-1"],
)


ONE_AT_A_TIME = (
    ["seed=0"],
    ["ppo.dual_clip=3", "seed=0"],
    ["ppo.kl.where=loss", "seed=0"],
    ["seed=1"],
    ["ppo.dual_clip=3", "seed=1"],
)
"""Cells of which each leaves out what another sets."""


TWICE_SEEDED = tuple([f"seed={seed}", f"ppo.seed={own}"] for seed in (0, 1) for own in (5, 6))
"""Values of one setting that two words of the command reach."""


ROWS = Path(__file__).resolve().parents[2] / "sft" / "data" / "folds.jsonl"
FOLDED = tuple(
    [
        *("experiment=own", f"dataset.path={ROWS}", "model=micro", "run.goals=[sft]", "folds=3"),
        *(f"fold={fold}", f"seed={seed}", "sft.batch_size=4"),
    ]
    for fold in (0, 1)
    for seed in (0, 1)
)


@pytest.mark.parametrize(
    "cells",
    [
        *(CELLS, ONE_AT_A_TIME),
        *(pytest.param(cells, marks=pytest.mark.slow) for cells in (TWICE_SEEDED, FOLDED)),
    ],
)
def test_cells_are_what_composing_each_by_itself_gives(
    hydra_loader: tuple[object, DictConfig], cells: tuple[list[str], ...]
) -> None:
    found = compose_cells(*hydra_loader, cells, 5)
    assert [cell.number for cell in found] == list(range(5, 5 + len(cells)))
    assert len({cell.folder for cell in found}) == len(found)
    for cell, overrides in zip(found, cells, strict=True):
        alone = compose_run(composed_config(overrides))
        assert cell.composed.config == alone.config, overrides
        assert cell.composed.nodes == alone.nodes, overrides
        assert list(cell.overrides) == overrides


class CountingLoader:
    """Hydra's loader of configs, and how often a cell was read by it."""

    def __init__(self, loader: Any):
        self.loader, self.read = loader, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, *arguments: Any) -> DictConfig:
        self.read += 1
        return self.loader.load_sweep_config(*arguments)


def test_a_cell_that_leaves_out_what_another_sets_is_not_read_again(
    hydra_loader: tuple[object, DictConfig],
) -> None:
    loader = CountingLoader(hydra_loader[0])
    found = compose_cells(loader, hydra_loader[1], ONE_AT_A_TIME, 0)
    assert loader.read == 1
    assert [cell.composed.config.ppo.kl.where for cell in found].count("loss") == 1


def test_a_cell_notes_the_folds_of_its_config(
    hydra_loader: tuple[object, DictConfig], tmp_path: Path
) -> None:
    own = [*FOLDED[2], "run.dry=true", f"run.store={tmp_path}"]
    (cell,) = compose_cells(*hydra_loader, [own], 0)
    planned = plan_cell(cell, Lookups(), {})
    assert planned is not None
    assert planned.cell is not None
    assert (planned.cell.about.fold, planned.cell.about.folds) == (1, 3)


def test_texts_tell_configs_apart_and_equal_ones_not() -> None:
    words = ("", "ppo.kl.coef=0.3", "+nodes.ppo.each={kl.coef: [0.1, 0.2]}", "seed=1")
    texts = Texts()
    every = [[word] if word else [] for word in words]
    told = [texts.of(compose_run(composed_config(own)).config) for own in (*every, *every)]
    assert told[: len(words)] == told[len(words) :]
    assert len(set(told)) == len(words)


def test_many_cells_are_told_in_groups(tmp_path: Path) -> None:
    done = plumbrule(tmp_path, "-m", "run.dry=true", "rag.chunk_words=range(30,90)", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "plan of the sweep: 60 cells of 120 nodes, 61 of them different" in done.stdout
    assert "60 cells, rag.chunk_words=30 to rag.chunk_words=89:  2 build" in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "index build 60 of kind index (new) for 60 cells" in lines
    assert len(lines) < 12


def test_folders_are_those_that_hydra_makes(hydra_loader: tuple[object, DictConfig]) -> None:
    loader, master = hydra_loader
    found = compose_cells(loader, master, CELLS[:2], 0)
    for cell, overrides in zip(found, CELLS, strict=False):
        alone = loader.load_sweep_config(master, overrides)  # type: ignore[attr-defined]
        assert cell.folder.name == alone.hydra.sweep.subdir
    require_folders_apart(found)
    with pytest.raises(ConfigError, match="must not write one folder"):
        require_folders_apart([found[0], found[1]._replace(folder=found[0].folder)])
