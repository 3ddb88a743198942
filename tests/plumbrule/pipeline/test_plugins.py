"""Plug-ins: where they are named, when they load, and what is said of one that does not."""

import os
import sys
from pathlib import Path

import pytest

from plumbrule.data import readers
from plumbrule.errors import ConfigError
from plumbrule.pipeline import plugins
from rlhf.rewards import functions as reward_functions
from sft.data.config import DatasetConfig

PLUGIN = """
from rlhf.rewards.functions import register

@register("loudness_of_tests")
def loudness(episodes):
    return [0.0 for _ in episodes]
"""


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(reward_functions, "FUNCTIONS", dict(reward_functions.FUNCTIONS))
    monkeypatch.setenv(plugins.VARIABLE, "")
    path = tmp_path / f"loud_{tmp_path.name}.py"  # a name of its own: modules load once
    path.write_text(PLUGIN, encoding="utf-8")
    return path


def test_options_are_taken_from_the_command_line_and_passed_on(fresh, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "os.path")
    rest = plugins.take_options(["seed=1", "--plugin", str(fresh), "--plugin=json", "-m"])
    assert rest == ["seed=1", "-m"]
    assert os.environ[plugins.VARIABLE].split(os.pathsep) == ["os.path", str(fresh), "json"]


def test_a_relative_file_becomes_an_absolute_one(fresh, monkeypatch):
    monkeypatch.chdir(fresh.parent)
    plugins.take_options(["--plugin", fresh.name])
    assert Path(os.environ[plugins.VARIABLE]) == fresh.resolve()


def test_a_loaded_plug_in_is_a_choice(fresh, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, str(fresh))
    plugins.load()
    plugins.load()
    assert "loudness_of_tests" in reward_functions.FUNCTIONS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", r"nowhere.py\) must be a file"),
        ("no_such_module_at_all", r"must import: ModuleNotFoundError"),
    ],
)
def test_a_plug_in_that_is_not_there_is_named(fresh, monkeypatch, name, message):
    monkeypatch.setenv(plugins.VARIABLE, name)
    with pytest.raises(ConfigError, match=message):
        plugins.load()


def test_a_plug_in_that_raises_is_named(fresh, monkeypatch):
    fresh.write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.setenv(plugins.VARIABLE, str(fresh))
    with pytest.raises(ConfigError, match=r"must import: ZeroDivisionError"):
        plugins.load()


def test_an_option_without_a_value_is_refused(fresh):
    with pytest.raises(ConfigError, match=r"--plugin must be followed"):
        plugins.take_options(["seed=1", "--plugin"])


def test_two_plug_ins_of_one_file_name_are_both_loaded(fresh, monkeypatch, tmp_path):
    other = tmp_path / "other" / fresh.name
    other.parent.mkdir()
    other.write_text(PLUGIN.replace("loudness_of_tests", "another_of_tests"), encoding="utf-8")
    monkeypatch.setenv(plugins.VARIABLE, os.pathsep.join([str(fresh), str(other)]))
    plugins.load()
    assert {"loudness_of_tests", "another_of_tests"} <= set(reward_functions.FUNCTIONS)


READER = """
from plumbrule.data.readers import register
register("lines_of_tests", "prompts", lambda path: iter([]))
"""


def test_an_edited_reader_makes_other_data(fresh, monkeypatch, tmp_path):
    monkeypatch.setitem(readers.READERS, ("lines_of_tests", "prompts"), None)  # gone afterwards
    (tmp_path / "data.txt").write_text("Hi", encoding="utf-8")
    digests = []
    for edited in ("", "# edited\n"):
        path = tmp_path / f"reader_{tmp_path.name}.py"
        for name in [n for n in sys.modules if path.stem in n]:
            del sys.modules[name]  # another process loads the edited file
        path.write_text(READER + edited, encoding="utf-8")
        monkeypatch.setenv(plugins.VARIABLE, str(path))
        plugins.load()
        given = DatasetConfig(format="lines_of_tests", path=str(tmp_path / "data.txt"))
        digests.append(given.source)
    assert "" != digests[0] != digests[1] != ""
    assert DatasetConfig(format="jsonl", path=str(tmp_path / "data.txt")).source == ""
