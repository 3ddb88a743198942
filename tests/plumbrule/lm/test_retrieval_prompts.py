"""Passages of a prompt: their order, what chance takes away and adds, numbers to cite them by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from worlds import tiny_models

from plumbrule.data.records import Demonstration, Message, Prompt
from plumbrule.errors import ConfigError
from plumbrule.lm.config import RetrievalConfig
from plumbrule.lm.demonstrations import with_retrieved
from plumbrule.lm.loading import Policy
from plumbrule.lm.policy import PolicySpec
from plumbrule.lm.retrieval_prompts import ShownPrompt, shown_prompts
from plumbrule.protocols import Passage

PROMPTS = [Prompt(f"p{i}", (Message("user", f"Q{i}?"),)) for i in range(24)]
BEST = ("a0", "a1", "a2")


class Ranks:
    """Finds `a0`, `a1`, ... for any query, best first; notes how many it was asked for."""

    def __init__(self, most: int = 99) -> None:
        self.most, self.asked = most, 0

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked = k
        found = [Passage(f"a{i}", f"a{i}", -float(i), "d", 0, 2) for i in range(min(k, self.most))]
        return [found for _ in queries]


def policy(template: str = "{passage}") -> Policy:
    own = tiny_models.policy()
    own.spec = dataclasses.replace(own.spec, passage_template=template)
    return own


def shown(
    update: int = 0, prompts: Sequence[Prompt] = PROMPTS, most: int = 99, **changes: object
) -> list[ShownPrompt]:
    retrieval = RetrievalConfig(**{"share": 1.0, "budget_tokens": 40, **changes})  # type: ignore[arg-type]
    return shown_prompts(
        prompts, policy(), Ranks(most), retrieval, seed=5, max_new_tokens=4, update=update
    )


def test_orders() -> None:
    assert {one.passages for one in shown()} == {BEST}
    assert {one.passages for one in shown(order="best_last")} == {BEST[::-1]}
    mixed = [one.passages for one in shown(order="shuffled")]
    assert {tuple(sorted(own)) for own in mixed} == {BEST}
    assert len(set(mixed)) > 3


@pytest.mark.parametrize("order", ["best_first", "best_last", "shuffled"])
def test_what_fits_is_chosen_best_first_in_every_order(order: str) -> None:
    for one, prompt in zip(shown(order=order, budget_tokens=6), PROMPTS, strict=True):
        plain = policy().encode(prompt.messages)
        assert one.tokens == policy().encode(prompt.messages, one.passages)
        assert len(one.tokens) - len(plain) <= 6
        assert 1 <= len(one.passages) < 3
        assert set(one.passages) == set(BEST[: len(one.passages)])


def test_dropout_is_of_the_prompt_and_the_update_alone() -> None:
    first = [one.passages for one in shown(1, dropout=0.5)]
    assert first == [one.passages for one in shown(1, dropout=0.5)]
    back = shown(1, PROMPTS[::-1], dropout=0.5)[::-1]
    assert first == [one.passages for one in back]
    assert first[3:5] == [one.passages for one in shown(1, PROMPTS[3:5], dropout=0.5)]
    assert first != [one.passages for one in shown(2, dropout=0.5)]
    assert len(set(first)) > 3  # each prompt by itself
    kept = sum(map(len, first)) / (3 * len(first))
    assert 0.3 < kept < 0.7
    assert all(list(own) == sorted(own) for own in first)
    assert {one.passages for one in shown(dropout=1.0)} == {()}
    assert [one.tokens for one in shown(dropout=1.0)] == [
        policy().encode(prompt.messages) for prompt in PROMPTS
    ]


def test_distractors_come_from_the_ranks_behind() -> None:
    first = [one.passages for one in shown(1, num_distractors=2)]
    for own in first:
        assert own[:3] == BEST
        ranks = [int(text[1:]) for text in own[3:]]
        assert len(ranks) == 2
        assert 3 <= min(ranks) < max(ranks) < 23
    assert len(set(first)) > 10
    assert first == [one.passages for one in shown(1, PROMPTS[::-1], num_distractors=2)[::-1]]
    assert first != [one.passages for one in shown(2, num_distractors=2)]
    # All the right ones dropped: what is left is noise, on which a policy should abstain.
    noise = shown(num_distractors=1, dropout=1.0)
    assert all(len(one.passages) == 1 and int(one.passages[0][1:]) >= 3 for one in noise)
    assert {one.passages for one in shown(num_distractors=3, most=4)} == {(*BEST, "a3")}
    assert {one.passages for one in shown(num_distractors=3, most=2)} == {BEST[:2]}


def test_nothing_more_is_asked_for_than_was() -> None:
    ranks = Ranks()
    retrieval = RetrievalConfig(share=1.0)
    shown_prompts(PROMPTS, policy(), ranks, retrieval, seed=0, max_new_tokens=4)
    assert ranks.asked == 3


def test_numbers_to_cite_by() -> None:
    own = policy("[{n}] {passage}")
    found = shown_prompts(
        PROMPTS[:1],
        own,
        Ranks(),
        RetrievalConfig(share=1.0, order="best_last"),
        seed=0,
        max_new_tokens=4,
    )[0]
    assert found.passages == BEST[::-1]  # without numbers: what rewards and citations read
    text = own.tokenizer.decode(found.tokens)
    assert "[1] a2\n[2] a1\n[3] a0\nQ0?" in text
    braces = own.encode([Message("user", "q")], ["{n} {passage}"])
    assert "[1] {n} {passage}\nq" in own.tokenizer.decode(braces)


def test_a_policy_without_a_passage_template_is_written_as_before(tmp_path) -> None:
    spec = PolicySpec("0" * 64, (2,), 64)
    spec.write(tmp_path / "policy.json")
    assert "passage_template" not in (tmp_path / "policy.json").read_text(encoding="utf-8")
    assert PolicySpec.read(tmp_path / "policy.json") == spec
    numbered = dataclasses.replace(spec, passage_template="[{n}] {passage}")
    numbered.write(tmp_path / "policy.json")
    assert PolicySpec.read(tmp_path / "policy.json") == numbered


def test_demonstrations_that_bring_passages_keep_them() -> None:
    given = [
        Demonstration("d0", (Message("user", "Q?"),), "A.", ("own",)),
        Demonstration("d1", (Message("user", "Q?"),), "A."),
    ]
    retrieval = RetrievalConfig(share=1.0)
    found = with_retrieved(policy(), given, Ranks(), retrieval, 0)
    assert [one.passages for one in found] == [("own",), BEST]
    assert with_retrieved(policy(), given, None, RetrievalConfig(), 0) == given
    with pytest.raises(ConfigError, match=r"retrieval.share \(=1\) must be 0 without an index"):
        with_retrieved(policy(), given, None, retrieval, 0)


def test_one_long_response_takes_passages_from_no_other_demonstration() -> None:
    """Its own room is left for each response; the long one alone has none for passages."""
    own = policy()
    long = "A" + " river" * own.spec.context
    given = [
        Demonstration(f"d{i}", (Message("user", "Q?"),), text)
        for i, text in enumerate(("A.", long, "B."))
    ]
    told: list[str] = []
    found = with_retrieved(own, given, Ranks(), RetrievalConfig(share=1.0), 0, told.append)
    assert [one.passages for one in found] == [BEST, (), BEST]
    assert len(told) == 1
    assert told[0].startswith("1 of 3 demonstrations that were to have passages got none")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"order": "best"}, "retrieval.order"),
        ({"dropout": 1.5}, r"retrieval.dropout \(=1.5\) must lie in \[0, 1\]"),
        ({"num_distractors": -1}, "retrieval.num_distractors"),
    ],
)
def test_settings_that_can_not_work_are_refused(changes: dict[str, object], refused: str) -> None:
    with pytest.raises(ConfigError, match=refused):
        RetrievalConfig(**changes)  # type: ignore[arg-type]
