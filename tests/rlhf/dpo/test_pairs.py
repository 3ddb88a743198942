"""From rankings to pairs of token ids."""

import dataclasses

import pytest
from worlds.rankings import chat, saved_rankings, tiny_policy

from plumbrule.data.records import Preference, read_records
from plumbrule.errors import DataError
from rlhf.dpo.pairs import encode_split, pairs_of


def preference(responses, ranks, **more):
    return Preference("p", chat("what is it?"), tuple(responses), tuple(ranks), **more)


def test_all_pairs_are_those_that_the_ranking_orders_strictly():
    ranked = preference("abcd", (2, 1, 3, 2))
    assert set(pairs_of(ranked, "all", 0)) == {(1, 0), (1, 2), (1, 3), (0, 2), (3, 2)}
    assert pairs_of(ranked, "best_worst", 0) == [(1, 2)]
    for which in ("all", "best_worst"):
        assert pairs_of(preference("abc", (1, 1, 1)), which, 0) == []


def test_among_equals_the_pair_does_not_depend_on_the_order_of_answers():
    texts, ranks = ["a", "b", "c", "d", "e"], [1, 1, 2, 3, 3]
    picked = set()
    for seed in range(20):
        ((best, worst),) = pairs_of(preference(texts, ranks), "best_worst", seed)
        assert (ranks[best], ranks[worst]) == (1, 3)
        turned = preference(texts[::-1], ranks[::-1])
        ((other_best, other_worst),) = pairs_of(turned, "best_worst", seed)
        assert (turned.responses[other_best], turned.responses[other_worst]) == (
            texts[best],
            texts[worst],
        )
        picked.add((best, worst))
    assert len(picked) == 4  # and every one of them has its turn


@pytest.mark.parametrize("which", ["all", "best_worst"])
def test_equal_rankings_in_another_order_give_the_same_pairs(tmp_path, which):
    policy = tiny_policy()
    folder = saved_rankings(tmp_path, 12, 0)
    rankings = read_records(Preference, folder / "records.jsonl")
    rankings[0] = dataclasses.replace(rankings[0], ranks=(1, 1, 2))

    def pairs(given):
        split = encode_split(policy, given, 96, which, 0)
        return {tuple(split.answers[i][k] for i, k in pair) for pair in split.pairs}

    assert len(pairs(rankings)) == (35 if which == "all" else 12)
    assert pairs(rankings[::-1]) == pairs(rankings)


def test_passages_stand_in_the_prompt_as_the_policy_encodes_them():
    policy = tiny_policy()
    policy.spec = dataclasses.replace(policy.spec, retrieval_template="{passages} so {question}")
    shown = preference(["red", "blue"], (1, 2), passages=("tall", "warm"))
    split = encode_split(policy, [shown], 96, "all", 0)
    prompt = split.answers[0][0].prompt
    assert list(prompt) == policy.encode(chat("what is it?"), ("tall", "warm"))
    assert "tall\nwarm so what is it?" in policy.tokenizer.decode(prompt)
    assert split.answers[0][1].prompt == prompt


def test_an_answer_cut_by_its_limit_has_no_terminal_token():
    policy = tiny_policy()
    cut = preference(["red", "blue", "warm"], (1, 2, 3), meta={"finished": [True, False, True]})
    answers = encode_split(policy, [cut], 96, "all", 0).answers[0]
    assert [a.response[-1] == policy.terminal_id for a in answers] == [True, False, True]
    assert answers[1].response == tuple(policy.encode_response("blue", terminal=False))
    wrong = preference(["red", "blue"], (1, 2), meta={"finished": [True]})
    with pytest.raises(DataError, match=r"p: meta.finished \(=1 values\) must number as many"):
        encode_split(policy, [wrong], 96, "all", 0)


def test_a_pair_that_fits_to_the_token_is_kept():
    policy, ranked = tiny_policy(), preference(["red", "blue blue blue"], (1, 2))
    longest = max(
        len(a.prompt) + len(a.response)
        for a in encode_split(policy, [ranked], 96, "all", 0).answers[0]
    )
    for limit, kept in ((longest, 1), (longest - 1, 0)):
        split = encode_split(policy, [ranked], limit, "all", 0)
        assert (len(split.pairs), split.num_too_long) == (kept, 1 - kept)


def test_a_blank_answer_is_its_terminal_token_and_a_cut_one_makes_no_pair():
    policy = tiny_policy()
    policy.spec = dataclasses.replace(policy.spec, response_prefix="")
    blank = preference(["red", "", "blue"], (1, 2, 3))
    split = encode_split(policy, [blank], 96, "all", 0)
    assert split.answers[0][1].response == (policy.terminal_id,)
    assert (len(split.pairs), split.num_empty) == (3, 0)
    cut = dataclasses.replace(blank, meta={"finished": [True, False, True]})
    split = encode_split(policy, [cut], 96, "all", 0)
    assert (len(split.pairs), split.num_empty, split.num_too_long) == (1, 2, 0)
