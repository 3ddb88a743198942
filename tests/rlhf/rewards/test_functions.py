"""Rewards that are functions of text: the rules by hand, and the table that plug-ins add to."""

import hashlib
import importlib.util
from pathlib import Path

import pytest

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.protocols import Episode
from rlhf.rewards import functions as reward_functions
from rlhf.rewards.config import HTTPConfig, RewardConfig, RewardTermConfig
from rlhf.rewards.functions import FUNCTIONS, register, source_digest


def episode(response, passages=(), question="who bakes in Mera?", finished=True):
    return Episode(Prompt("p", (Message("user", question),)), passages, response, finished)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("length", episode("Bero bakes  in Mera."), 4.0),
        ("length", episode(""), 0.0),
        ("unfinished", episode("Bero", finished=False), 1.0),
        ("unfinished", episode("Bero"), 0.0),
        # runs of three: a b c | b c a | c a b | a b c, of which one was said before
        ("repetition", episode("a b c, a b c"), 0.25),
        ("repetition", episode("two words"), 0.0),
        ("neutral", episode("It was in Arlen."), 0.0),
        ("neutral", episode("good"), -0.4404),  # VADER: 1.9 / sqrt(1.9^2 + 15)
        ("neutral", episode("bad"), -0.5423),  # 2.5 / sqrt(2.5^2 + 15)
        # Bero and bakes are shown, in and Mera asked; "Tola" stands nowhere
        ("supported", episode("Bero bakes in Mera, Tola", ("Bero bakes bread.",)), 0.8),
        ("supported", episode("Bero bakes in Mera"), 0.0),
        ("supported", episode("", ("Bero bakes bread.",)), 1.0),
        ("citation", episode("Bero [1], Tola [3]", ("one", "two")), 0.5),
        ("citation", episode("Bero [0]", ("one",)), 0.0),
        ("citation", episode("Bero", ("one",)), 0.0),
    ],
)
def test_rules_by_hand(name, given, value):
    assert FUNCTIONS[name]([given, given]) == pytest.approx([value, value])


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(reward_functions, "FUNCTIONS", dict(FUNCTIONS))
    return reward_functions.FUNCTIONS


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLUGIN = """
from rlhf.rewards.functions import register

@register("shouting")
def shouting(episodes):
    return [-float(e.response.isupper()) for e in episodes]
"""


def test_a_plug_ins_file_is_part_of_its_terms_config(table, tmp_path):
    path = tmp_path / "shout.py"
    path.write_text(PLUGIN, encoding="utf-8")
    load(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert source_digest("shouting") == digest
    assert source_digest("rm") == ""
    path.write_text(PLUGIN + "# edited\n", encoding="utf-8")
    assert source_digest("shouting") == digest  # of what was loaded
    load(path)
    assert source_digest("shouting") != digest


def test_a_function_made_elsewhere_belongs_to_the_plug_in_that_registers_it(table, tmp_path):
    path = tmp_path / "made.py"
    made = "from functools import partial\nfrom rlhf.rewards.functions import register\n"
    made += 'register("none_at_all")(partial(map, lambda e: 0.0))\n'
    path.write_text(made, encoding="utf-8")
    load(path)
    assert source_digest("none_at_all") == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", ["rm", "http", "two words", "a/b", ""])
def test_names_that_can_not_stand_in_a_config_are_refused(table, name):
    with pytest.raises(ConfigError, match=r"letters, digits"):
        register(name)


def test_a_name_that_another_file_has_taken_is_refused(table):
    with pytest.raises(ConfigError, match=r"length.* must be registered once"):
        register("length")(lambda episodes: [0.0 for _ in episodes])


def test_an_unknown_term_names_those_that_there_are():
    with pytest.raises(ConfigError, match=r"no_such.*citation.*supported"):
        RewardTermConfig("no_such")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalise": "always"}, "reward.terms.length.normalise"),
        ({"clip": 0.0}, "reward.terms.length.clip"),
        ({"weight": float("nan")}, "reward.terms.length.weight"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        RewardTermConfig("length", **settings)


@pytest.mark.parametrize("name", ["classifier", "http"])
def test_a_term_without_what_it_needs_is_refused(name):
    with pytest.raises(ConfigError, match=rf"reward.{name}.* must be given"):
        RewardConfig([RewardTermConfig(name)])


def test_a_scorers_version_is_part_of_the_config_and_its_password_is_not():
    with pytest.raises(ConfigError, match=r"reward.http.version"):
        HTTPConfig(url="http://localhost:1/score")
    with pytest.raises(ConfigError, match=r"token_env") as caught:
        HTTPConfig(url="http://me:hunter2@host/score", version="1")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"no query") as caught:
        HTTPConfig(url="http://host/score?key=hunter2", version="1")
    assert "hunter2" not in str(caught.value)
