"""Demonstrations that search: right answers that cite what says so, and nothing that leaks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from plumbrule.atlas.config import AtlasConfig
from plumbrule.atlas.datasets import records
from plumbrule.atlas.judgement import judge
from plumbrule.atlas.names import is_held_out
from plumbrule.atlas.world import generate_world
from plumbrule.data.records import Demonstration
from plumbrule.errors import ConfigError
from plumbrule.grounding.citations import score_citations

CONFIG = AtlasConfig(num_known=60, num_after=40, num_demonstrations=800, search_share=0.6)
ROWS: list[Demonstration] = records("demonstrations", CONFIG).train
SEARCHING = [row for row in ROWS if row.searches]


def shown(row: Demonstration) -> list[str]:
    return [passage for search in row.searches for passage in search.passages]


def test_a_share_of_what_memory_does_not_answer_searches() -> None:
    """0.6 of 60 %, within four standard errors of n = 408."""
    asked = [row for row in ROWS if row.meta["answerable"] != "memory"]
    assert len(SEARCHING) / len(asked) == pytest.approx(0.6, abs=0.1)
    assert all(row.meta["answerable"] != "memory" for row in SEARCHING)
    assert not any(row.passages for row in SEARCHING)
    plain = records("demonstrations", replace(CONFIG, search_share=0.0)).train
    assert not any(row.searches for row in plain)


def test_answers_cite_the_passage_that_says_so() -> None:
    answered = [row for row in SEARCHING if row.meta["answer"]]
    assert len(answered) > 150
    for row in answered:
        question = row.messages[-1].content
        said = judge(row.response, row.meta, question)
        assert said.clear
        assert len(said.stated) == 1
        (number,) = re.findall(r"\[(\d+)\]", row.response)
        passage = shown(row)[int(number) - 1]
        assert row.meta["entity"] in passage
        assert row.meta["answer"] in passage
        assert score_citations(row.response, shown(row)).num_not_shown == 0


def test_a_first_search_may_find_nothing_of_use() -> None:
    twice = [row for row in SEARCHING if len(row.searches) == 2]
    documents = [row for row in SEARCHING if row.meta["answerable"] == "documents"]
    assert len(twice) / len(documents) == pytest.approx(0.2, abs=0.12)
    for row in twice:
        assert not any(row.meta["entity"] in passage for passage in row.searches[0].passages)
        assert row.searches[0].query != row.searches[1].query


def test_what_nothing_answers_is_admitted_or_guessed_without_a_citation() -> None:
    for row in SEARCHING:
        if not row.meta["answer"]:
            assert "[" not in row.response
            assert not any(
                row.meta["entity"] in passage and "Entry" not in passage for passage in shown(row)
            )


def test_no_held_out_name_is_in_them() -> None:
    after = {entity.name for entity in generate_world(CONFIG).after}
    for row in SEARCHING:
        texts = " ".join([*shown(row), row.response, *(search.query for search in row.searches)])
        assert not any(name in texts for name in after)
        assert not is_held_out(row.meta["entity"])


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"atlas.search_share \(=1.5\)"):
        AtlasConfig(search_share=1.5)
