"""An evaluation in which the policy searches itself: what is asked, shown, counted and left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import pytest
from worlds.evaluation import small_config, small_policy
from worlds.trackers import StoppingTracker

from eval.benchmarks.open_answers import open_qa
from eval.benchmarks.retrieved.columns import SEARCHES
from eval.benchmarks.subject import Subject
from eval.intervals import Intervals
from plumbrule.data.records import BenchmarkItem, Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.protocols import Passage
from plumbrule.runtime_config import RuntimeConfig

SEARCH = SearchConfig(
    max_turns=3, open="e", close="n", budget_tokens=12, template=" ({passages})", num_passages=1
)
"""Two letters, which a random policy writes."""
PROMPTS = [Prompt(f"p{i}", (Message("user", f"Where was {i} born?"),)) for i in range(24)]


class Echo:
    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [[Passage(q, "Arlen", 1.0, "d", 0, 4)] for q in queries]


def subject(context: int | None = None) -> Subject:
    policy = small_policy()
    if context is not None:
        policy.spec = dataclasses.replace(policy.spec, context=context)
    config = small_config(
        conditions=["closed", "search"],
        search=SEARCH,
        sampling=SamplingConfig(max_new_tokens=20, batch_size=8),
    )
    runtime = RuntimeConfig(device="cpu", micro_batch_size=4)
    searcher = Searcher(Echo(), SEARCH)
    tracker = StoppingTracker()
    return Subject(policy, None, None, config, runtime, tracker, searcher=searcher)


def test_answers_are_the_last_turns_with_every_passage_that_was_shown() -> None:
    of = subject()
    answered, notes = of.respond(PROMPTS, "prompts search", condition="search")
    assert not notes
    assert [one.episode.prompt.id for one in answered] == [prompt.id for prompt in PROMPTS]
    calls = 0
    for one in answered:
        searching = one.episode.searching
        assert searching is not None
        shown = [text for call in searching.calls for text in call.passages]
        assert list(one.episode.passages) == shown
        last = re.sub(r"<\|\w+\|>", "", searching.turns[-1])
        assert one.episode.response == last.strip()
        calls += len(searching.calls)
    assert calls >= 3
    again, _ = of.respond(PROMPTS[::-1], "prompts search", condition="search")
    assert [one.episode for one in again[::-1]] == [one.episode for one in answered]
    assert dataclasses.replace(of, reference=of.policy).log_ratios(answered) is None


def test_a_benchmark_measures_it_with_its_searches() -> None:
    items = [
        BenchmarkItem(p.id, "open_qa", {"question": p.messages[0].content, "answers": ["Arlen"]})
        for p in PROMPTS
    ]
    of = subject()
    measured = open_qa.measure(items, "search", of)
    found = open_qa.summarise(measured.items, Intervals(0.95, 100, 0))
    assert set(SEARCHES) <= set(found)
    number = sum(row["search_calls"] for row in measured.items) / len(items)
    assert found["search_calls"].value == number
    closed = open_qa.summarise(open_qa.measure(items, "closed", of).items, Intervals(0.95, 100, 0))
    assert not set(SEARCHES) & set(closed)


def test_prompts_without_room_for_answers_to_calls_are_left_out_and_said() -> None:
    longest = max(len(small_policy().encode(prompt.messages)) for prompt in PROMPTS)
    room = longest - 1 + 20 + SEARCH.most_result_tokens
    answered, notes = subject(room).respond(PROMPTS, "prompts search", condition="search")
    assert len(answered) < len(PROMPTS)
    assert f"{len(PROMPTS) - len(answered)} of {len(PROMPTS)} items are longer" in notes[0]


def test_settings_and_inputs_that_do_not_go_together_are_refused() -> None:
    for changes in ({"conditions": ["search"]}, {"search": SEARCH}):
        with pytest.raises(ConfigError, match=r"eval.search.max_turns .* if and only if"):
            small_config(**changes)
    with pytest.raises(ConfigError, match=r"eval.conditions \(=search\) needs an index"):
        dataclasses.replace(subject(), searcher=None).respond(
            PROMPTS, "prompts search", condition="search"
        )
