"""Files of conf/paper: what is refused before anything runs, and that all of ours are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_papers import CLAIM, LAPTOP, made_paper

from plumbrule.errors import ConfigError
from plumbrule.papers.paper_files import as_paper, read_paper


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": None}, r"source \(=None\) must be a text that is not empty"),
        ({"status": None}, "status .* must be one of ours, unverified, verified"),
        ({"status": "verifed"}, "the nearest is verified"),
        ({"tolerance": None}, r"tolerance \(=None\) must be a number of at least 0"),
        ({"tolerance": -1}, "must be a number of at least 0"),
        ({"tolerance": float("nan")}, "must be a number of at least 0"),
        ({"tolerance": True}, "must be a number of at least 0"),
        ({"expression": "ppo/gold_gain[arm=kl] == 1"}, "tolerance .* must be above 0 where"),
        ({"expression": "1 > 0"}, "must name a metric"),
        ({"expression": "ppo/gold_gian > 0"}, "name metrics that there are, not ppo/gold_gian"),
        ({"expression": "ppo/gold_gain/eval/kl > 0"}, "a division has spaces around it"),
        (
            {"expression": "ppo/gold_gain[ppo.kl.target=1] > 0"},
            r"select by what is swept, not ppo\.kl\.target; .*arm, ppo\.kl\.coef",
        ),
        (
            {"expression": "ppo/gold_gain[ppo.kl.coef=0.2] > 0"},
            r"select a value of ppo\.kl\.coef that is swept, not 0\.2; take one of 0\.1, 1e-05",
        ),
        ({"expression": "ppo/gold_gain[arm=grpo] > 0"}, "not grpo; take one of kl, rloo"),
        ({"explanaton": "x"}, "must be known; did you mean explanation"),
    ],
)
def test_a_claim_that_is_wrong_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made_paper(change)


@pytest.mark.parametrize("lacking", ["text", "expression", "tolerance", "source", "status"])
def test_a_claim_must_have_all_of_its_parts(lacking: str) -> None:
    claim = {key: value for key, value in CLAIM.items() if key != lacking}
    with pytest.raises(ConfigError, match=rf"laptop\.expected\[0\]\.{lacking}"):
        made_paper(expected=[claim])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": []}, "seeds .* must be a list of whole numbers"),
        ({"seeds": "0,1"}, "seeds .* must be a list of whole numbers"),
        ({"expected": []}, "must be a list of claims"),
        ({"arms": {"kl": "ppo.kl.coef=1"}}, "must be a list of overrides"),
        ({"arms": {"kl": ["ppo.kl.coef=[1"]}}, "must be overrides that Hydra reads"),
        ({"arms": {"kl": ["ppo.kl.coef=interval(0,1)"]}}, "must list its values"),
        (
            {"arms": {"kl": ["sweep.alone.one.x=ppo.dual_clip=3"]}},
            "not of a sweep; make each position",
        ),
        ({"settings": {"ppo.lam": {"value": 1, "source": "x"}}}, "status"),
        ({"settings": {"ppo.lam": {"source": "x", "status": "ours"}}}, "must have a value"),
        ({"experiment": ""}, "experiment .* must be a text"),
        ({"armz": {}}, "must be known; did you mean arms"),
    ],
)
def test_a_scale_that_is_wrong_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made_paper(**changes)


def test_a_paper_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        as_paper("made", ["laptop"])
    with pytest.raises(ConfigError, match=r"made\.title"):
        as_paper("made", {"laptop": LAPTOP, "full": "none"})


def test_an_unknown_paper_is_told_with_the_nearest(tmp_path: Path) -> None:
    for name in ("gao2022", "coste2023"):
        (tmp_path / f"{name}.yaml").write_text("title: x")
    with pytest.raises(ConfigError, match=r"paper \(=gao2023\) .* did you mean gao2022"):
        read_paper(tmp_path, "gao2023")


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("title: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml must be YAML"):
        read_paper(tmp_path, "bad")
    (tmp_path / "bad.yaml").write_text("title: a\ntitle: b\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml must be YAML"):
        read_paper(tmp_path, "bad")
