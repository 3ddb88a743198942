"""Files of conf/sweep, words of a command that choose cells, and a file edited under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from plumbrule.cli.composition import CONF, VERSION_BASE, composed_config, group_options, register
from plumbrule.cli.sweeps.grid import launch_grid
from plumbrule.cli.sweeps.search_space import space_of
from plumbrule.cli.sweeps.study import Study
from plumbrule.cli.sweeps.words import sweeper_words
from plumbrule.errors import ConfigError
from plumbrule.pipeline.compose import compose_run
from plumbrule.report.repeats import setting_of
from plumbrule.results.sweep_axes import cells_of_sweep, zipped_axes

FILES = group_options("sweep")


def sweep_config(*words: str) -> tuple[Any, Any]:
    """Return Hydra's loader and the config of a sweep."""
    loader = GlobalHydra.instance().config_loader()
    config = loader.load_configuration("config", list(words), run_mode=RunMode.MULTIRUN)
    return loader, config


@pytest.fixture
def hydra_started():
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        yield


@pytest.mark.parametrize("name", FILES)
def test_every_file_makes_cells_that_compose(hydra_started: None, name: str) -> None:
    loader, config = sweep_config(f"sweep={name}")
    hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
    found: list[Any] = []
    if hydra["sweeper"]["search"] is None:
        found = cells_of_sweep(hydra, loader)
    else:
        space = space_of(hydra, loader)
        (trial,) = Study(None, "random", space, "ppo/gold_gain", 1, 1).ask(1)
        found = space.cells(trial.params)
    assert len(found) > 1
    for cell in (found[0], found[-1]):
        assert compose_run(composed_config(list(cell))).config


def test_words_of_the_sweep_become_settings_of_its_sweeper() -> None:
    words = ["-m", "sweep=kl", "seed=0,1", "sweep.at_once=4", "sweep.first=seed=1; a=b"]
    zipped = "sweep.zip.scale=ppo.learning_rate=1e-5,3e-5; ppo.notes='a b','c'"
    found = sweeper_words([*words, zipped])
    assert found[:4] == ["-m", "sweep=kl", "seed=0,1", "++hydra.sweeper.max_batch_size=4"]
    parsed = OverridesParser.create().parse_overrides(found[4:])
    assert [override.is_sweep_override() for override in parsed] == [False, False]
    first, scale = (override.value() for override in parsed)
    assert first == "seed=1; a=b"
    assert scale == zipped.removeprefix("sweep.zip.scale=")
    assert zipped_axes({"scale": scale})["scale"][0]["ppo.notes"] == "'a b'"


def test_folds_are_an_axis_of_a_sweep() -> None:
    assert sweeper_words(["-m", "data.folds=3", "seed=0"]) == [
        "-m",
        "folds=3",
        "fold=range(3)",
        "seed=0",
    ]
    own = ["-m", "data.folds=3", "fold=0,2"]
    assert sweeper_words(own) == ["-m", "folds=3", "fold=0,2"]
    for added in ("+fold=0,1", "++fold=0,1"):
        assert sweeper_words(["-m", "data.folds=3", added]) == ["-m", "folds=3", added]


@pytest.mark.parametrize(
    ("words", "folds", "of"),
    [
        ((), "0 1 2", "3"),
        (("fold=0,2",), "0 2", "3"),
        (("folds=5", "fold=range(5)"), "0 1 2 3 4", "5"),  # data.folds=5 of the command
    ],
)
def test_folds_of_a_file_are_those_of_a_command(words: Any, folds: str, of: str) -> None:
    hydra = {"sweeper": {"params": {"data.folds": 3}}, "overrides": {"task": ["a=1", *words]}}
    found = cells_of_sweep(hydra)
    assert [setting_of(cell, "fold") for cell in found] == folds.split()
    assert {setting_of(cell, "folds") for cell in found} == {of}
    hydra["overrides"]["task"].append("b=1,2")
    space = space_of(hydra)
    assert len(space.cells({"b": "1"})) == len(found)
    with pytest.raises(
        ConfigError, match=r"data.folds \(=1\) must be a whole number from 2 to 100"
    ):
        cells_of_sweep({"sweeper": {"params": {"data.folds": 1}}, "overrides": {"task": []}})


def test_a_repeated_setting_that_is_added_is_one_that_is_repeated() -> None:
    space = space_of({"sweeper": {}, "overrides": {"task": ["a=1,2", "++fold=0,1"]}})
    assert (list(space.axes), list(space.repeats)) == (["a"], ["++fold"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sweep=kl"], "sweep=kl must stand in a sweep; write plumbrule -m sweep=kl"),
        (["sweep.first=seed=1"], "must stand in a sweep"),
        (["-m", "sweep.frist=seed=1"], "did you mean sweep.first"),
        (["-m", "sweep.zip=a=1,2"], "sweep.zip must name its axis"),
        (["-m", "sweep.first"], "sweep.first must have a value"),
        (["data.folds=5"], r"must stand in a sweep; write plumbrule -m data.folds=5, or for one"),
        (["-m", "data.folds=1"], r"data.folds \(=1\) must be a whole number from 2 to 100"),
        (["-m", "data.folds=3,5"], r"data.folds \(=3,5\) must be a whole number"),
    ],
)
def test_words_that_can_not_be_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sweeper_words(words)


def test_a_file_edited_under_way_adds_cells_and_skips_those_taken_out(
    hydra_started: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    file = tmp_path / "sweep" / "mine.yaml"

    def write(seeds: str) -> None:
        file.write_text(f"# @package hydra.sweeper\nparams: {{seed: '{seeds}'}}\n")

    write("0,1,2")
    loader, config = sweep_config(
        f"hydra.searchpath=[file://{tmp_path}]", f"hydra.sweep.dir={tmp_path}", "sweep=mine"
    )
    batches: list[tuple[int, list[list[str]]]] = []

    def launch(cells: list[list[str]], initial_job_idx: int) -> list[Any]:
        batches.append((initial_job_idx, cells))
        if len(batches) == 1:
            write("0,2,3")
        elif len(batches) == 2:
            file.write_text("# @package hydra.sweeper\nparams: [")
        return []

    launch_grid(loader, config, launch, 1)
    assert batches == [(0, [["seed=0"]]), (1, [["seed=2"]]), (2, [["seed=3"]])]
    said = capsys.readouterr().err
    assert "sweep=mine was edited: 1 cells added: seed=3" in said
    assert "sweep=mine was edited: 1 cells removed, so skipped: seed=1" in said
    assert "can't be read again, so the sweep goes on as it was" in said
