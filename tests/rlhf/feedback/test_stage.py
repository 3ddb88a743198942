import json
from functools import partial
from pathlib import Path

import pytest
from worlds.rankings import QUESTIONS, WORDS, chat, saved_prompts, tiny_policy
from worlds.stages import run_stage
from worlds.stages import small_feedback as small

from plumbrule.atlas.config import GoldConfig
from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Message, Preference, Prompt, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.chat import encode_chat
from plumbrule.lm.config import RetrievalConfig, SamplingConfig
from plumbrule.lm.retrieval_prompts import passages_for
from plumbrule.protocols import Passage
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from rlhf.feedback import sampling
from rlhf.feedback import stage as feedback
from rlhf.feedback.labellers import Judged
from rlhf.feedback.rankings import count_agreement, count_ties, first_of_each, ranks_of
from rlhf.feedback.sampling import SampledPrompt, SampledResponse
from rlhf.feedback.stage import cost

build = partial(run_stage, feedback.run)
NUM_TRAIN, NUM_HELD_OUT = 10, 4


def published(out: Path) -> dict[str, str]:
    return {p.name: p.read_text("utf-8") for p in out.glob("*.json*")}


def samples(out: Path) -> list[dict]:
    return [row for _, row in read_rows(out / "samples.jsonl")]


# Rankings


@pytest.mark.parametrize(
    ("utilities", "tie_width", "ranks"),
    [
        ([1.0, 3.0, 2.0], 0.0, (3, 1, 2)),
        ([1.0, 1.0, 0.0], 0.0, (1, 1, 2)),
        # 2.0 and 1.6 tie (0.4 apart); 1.4 lies 0.6 below 2.0 and starts a rank of its own, and
        # 1.1 joins it, although 1.6 and 1.4 are closer than the width
        ([2.0, 1.6, 1.4, 1.1], 0.5, (1, 1, 2, 2)),
        ([0.0, -1.0], 5.0, (1, 1)),
        ([-2.0], 0.0, (1,)),
    ],
)
def test_ranks_by_hand(utilities, tie_width, ranks):
    assert ranks_of(utilities, tie_width) == ranks


def test_first_of_each_text():
    assert first_of_each(["b", "a", "b", "c", "a"]) == [0, 1, 3]


def test_ties_and_agreement_by_hand():
    # Pairs of ranks (1, 1, 2, 3): one of six ties. Against utilities 4, 3, 5, 3: pair 0-1 ties in
    # the ranking and 1-3 in the utilities; 0-2 and 1-2 are turned round; 0-3 and 2-3 agree.
    assert count_ties((1, 1, 2, 3)) == (1, 6)
    assert count_agreement([4.0, 3.0, 5.0, 3.0], (1, 1, 2, 3)) == (2, 4)


def test_agreement_is_measured_where_utilities_are_known():
    def judged(ranks, utilities):
        answers = tuple("abc"[: len(ranks)])
        known = None if utilities is None else tuple(utilities)
        preference = Preference("p", chat("?"), answers, ranks, utilities=known)
        return Judged([0.0] * len(ranks), utilities, preference)

    rows = [[SampledResponse(text, True, -1.0, 0, 3, 10) for text in "abc"] for _ in range(3)]
    rankings = [judged((1, 2, 3), [3.0, 1.0, 2.0]), judged((2, 1, 3), None)]
    # of the pairs of utilities 3, 1, 2 the ranking turns one round
    found = feedback.measure(rows, [*rankings, Judged(None, [0.0, 0.0, 0.0], None)])
    assert found["feedback/agreement"] == 2 / 3
    assert found["feedback/utility"] == 1.0  # six known of nine answers
    unknown = feedback.measure(rows, [judged((1, 2, 3), None)])
    assert not {"feedback/agreement", "feedback/utility"} & set(unknown)


# The stage


def test_what_is_written(given, tmp_path):
    metrics = build(small(), given, tmp_path)
    train = read_records(Preference, tmp_path / "records.jsonl")
    held_out = read_records(Preference, tmp_path / "validation.jsonl")
    assert {p.id for p in train} <= {f"q{i}" for i in range(NUM_TRAIN)}
    assert {p.id for p in held_out} <= {f"q{i}" for i in range(NUM_TRAIN, 14)}
    assert metrics["feedback/prompts"] == len(train) + len(held_out)
    assert metrics["feedback/answers"] == 3 * 14 == len(samples(tmp_path))
    for preference in (*train, *held_out):
        assert preference.annotator == "gold"
        assert len(preference.finished) == len(preference.responses)
        sums = [sum(values) for values in zip(*preference.terms.values(), strict=True)]
        assert sums == pytest.approx(preference.utilities)
    row = samples(tmp_path)[0]
    assert row["id"] == "q0"
    assert row["split"] == "train"
    assert row["prompt"] == f"{QUESTIONS[0]} 0"
    assert row["logprob"] < 0
    assert row["meta"] == {"answer": "red", "values": WORDS, "entity": "it", "answerable": "memory"}
    assert row["score"] == row["utility"]


def test_without_noise_all_pairs_agree(given, tmp_path):
    metrics = build(small(noise=0.0), given, tmp_path)
    assert metrics.get("feedback/agreement", 1.0) == 1.0


def test_answers_do_not_depend_on_other_prompts_or_batches(given, tmp_path):
    build(small(), given, tmp_path / "all")
    few = small(num_prompts=4, sampling=SamplingConfig(max_new_tokens=4, batch_size=3))
    build(few, given, tmp_path / "few")
    whole = {(r["id"], r["sample"]): r["response"] for r in samples(tmp_path / "all")}
    part = {(r["id"], r["sample"]): r["response"] for r in samples(tmp_path / "few")}
    # 4 of 10 training prompts, so 4 * 4 / 10 = 1.6, rounded up to 2, held-out ones
    assert len(part) == 3 * (4 + 2)
    assert all(whole[key] == response for key, response in part.items())


def test_held_out_prompts_can_be_counted_apart(given, tmp_path):
    build(small(num_prompts=4, num_held_out=3), given, tmp_path)
    splits = [r["split"] for r in samples(tmp_path) if r["sample"] == 0]
    assert splits.count("train") == 4
    assert len(splits) == 4 + 3


def test_another_seed_gives_other_answers(given, tmp_path):
    for seed in (0, 1):
        build(small(seed=seed), given, tmp_path / str(seed))
    first, second = ([r["response"] for r in samples(tmp_path / name)] for name in ("0", "1"))
    assert first != second


def test_killed_and_started_again_gives_the_same_files(given, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK_PROMPTS", 5)
    metrics = build(small(), given, tmp_path / "whole")
    sampled = []
    real = sampling.sample_chunk

    def counted(*args):
        sampled.append(len(args[1]))
        if len(sampled) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(sampling, "sample_chunk", counted)
    with pytest.raises(KeyboardInterrupt):
        build(small(), given, tmp_path / "killed")
    assert not (tmp_path / "killed" / "samples.jsonl").exists()
    assert build(small(), given, tmp_path / "killed") == metrics
    assert sampled == [5, 5, 5, 4]  # the first chunk once, the second twice, the third once
    assert published(tmp_path / "killed") == published(tmp_path / "whole")
    assert checkpoints.newest(tmp_path / "killed" / "checkpoints")[0] == 2


def test_prompts_without_room_are_left_out_and_said(given, tmp_path):
    folder = saved_prompts(tmp_path / "prompts", 5, 2)
    rows = (folder / "records.jsonl").read_text("utf-8").splitlines()
    long = json.loads(rows[0])
    long["messages"][0]["content"] = " ".join(WORDS * 20)
    rows[0] = json.dumps(long)
    (folder / "records.jsonl").write_text("\n".join(rows), "utf-8")
    build(small(), {**given, "prompts": Artifact.of(folder, "data")}, tmp_path / "out")
    assert len(samples(tmp_path / "out")) == 3 * 6
    said = json.loads((tmp_path / "out" / "notes.json").read_text("utf-8"))
    assert any(sentence.startswith("1 prompts were left out") for sentence in said)


def test_no_prompt_with_room_is_an_error(given, tmp_path):
    config = small(sampling=SamplingConfig(max_new_tokens=500))
    with pytest.raises(DataError, match="at least one of 14 prompts must leave room"):
        build(config, given, tmp_path)


def test_a_policy_that_always_says_the_same_is_an_error(given, tmp_path):
    config = small(sampling=SamplingConfig(temperature=1e-4, max_new_tokens=2))
    with pytest.raises(DataError, match="two different answers"):
        build(config, given, tmp_path)


# Passages


class Library:
    """A retriever that returns two short passages which name the query."""

    def search(self, queries, k):
        return [
            [Passage(f"{i}", f"red {query} {i}", 1.0, "d", 0, 9) for i in range(k)]
            for query in queries
        ]


def passages(share, prompts, **settings):
    retrieval = RetrievalConfig(share=share, num_passages=2, **settings)
    return passages_for(prompts, tiny_policy(), Library(), retrieval, seed=0, max_new_tokens=4)


class LibraryIndex:
    def retriever(self, method):
        assert method == "bm25"
        return Library()


DEVICES = []


def open_library(artifact, runtime):
    DEVICES.append(runtime.device)
    return LibraryIndex()


def test_the_index_is_opened_on_the_device_of_the_runtime(given, tmp_path: Path):
    index = Artifact.of(tmp_path, "index", opener=f"{__name__}:open_library")
    retrieval = RetrievalConfig(share=1.0, num_passages=2, budget_tokens=12, method="bm25")
    build(small(retrieval=retrieval), {**given, "index": index}, tmp_path / "out")
    assert DEVICES == ["cpu"]
    assert any(row["passages"] for row in samples(tmp_path / "out"))


def test_a_prompt_is_tokenised_once_for_each_set_of_passages_that_it_is_shown(
    given, tmp_path: Path, monkeypatch
):
    calls = []

    def counted(tokenizer, messages, generation_prompt=True):
        calls.append(tuple(messages))
        return encode_chat(tokenizer, messages, generation_prompt)

    monkeypatch.setattr("plumbrule.lm.policy.encode_chat", counted)
    monkeypatch.setattr("plumbrule.lm.policy.MAX_KEPT_PROMPTS", 4)  # fewer than there are
    index = Artifact.of(tmp_path, "index", opener=f"{__name__}:open_library")
    retrieval = RetrievalConfig(share=1.0, num_passages=2, budget_tokens=12, method="bm25")
    build(small(retrieval=retrieval), {**given, "index": index}, tmp_path / "out")
    assert len(calls) > 2 * (NUM_TRAIN + NUM_HELD_OUT)
    assert len(calls) == len(set(calls))


def test_passages_go_to_a_share_of_prompts_chosen_by_id():
    prompts = [Prompt(f"q{i}", chat("what is it?")) for i in range(200)]
    half = passages(0.5, prompts)
    # 200 coins: 100 +- 4 * sqrt(50)
    assert sum(map(bool, half)) == pytest.approx(100, abs=29)
    assert passages(0.5, prompts[::-1]) == half[::-1]
    assert all(more or not less for more, less in zip(passages(0.8, prompts), half, strict=True))
    assert all(passages(1.0, prompts))
    assert not any(passages(0.0, prompts))
    assert half[[bool(p) for p in half].index(True)][0] == "red what is it? 0"


def test_passages_are_left_out_whole_where_the_budget_or_the_context_ends():
    policy, messages = tiny_policy(), chat("what is it?")
    first, second = (f"red what is it? {i}" for i in range(2))
    plain = len(policy.encode(messages))
    budget = len(policy.encode(messages, (first, second))) - plain
    for budget_tokens, shown in [(budget, (first, second)), (budget - 1, (first,)), (2, ())]:
        assert passages(1.0, [Prompt("q", messages)], budget_tokens=budget_tokens) == [shown]
    crowded = chat(" ".join(WORDS * 8))
    assert len(policy.encode(crowded)) + 4 < policy.spec.context
    assert passages(1.0, [Prompt("q", crowded)], budget_tokens=1000) == [()]


def test_a_share_without_an_index_is_refused(given, tmp_path):
    with pytest.raises(ConfigError, match=r"retrieval\.share"):
        build(small(retrieval=RetrievalConfig(share=0.5)), given, tmp_path)


def test_gold_weights_reach_the_labels(given, tmp_path):
    build(small(gold=GoldConfig(brief=0.0, polite=0.0, wrong=-3.0), noise=0.0), given, tmp_path)
    found = {u for r in read_records(Preference, tmp_path / "records.jsonl") for u in r.scores}
    assert found <= {0.0, -3.0, 2.0, 2.5}


def test_what_answers_and_rankings_to_train_on_cost():
    asked = [
        SampledPrompt(
            Prompt(f"p{i}", (Message("user", "Who?"),)), "train" if i else "validation", ()
        )
        for i in range(5)
    ]
    rows = [[SampledResponse("a", True, -1.0, 0, n, 10) for n in (3, 4)] for _ in asked]
    ranked = Preference("p", (Message("user", "Who?"),), ("a", "b"), (1, 2))
    judged = [Judged(None, None, ranked if i != 2 else None) for i in range(5)]
    assert cost(asked, rows, judged, size=100) == {
        "cost/generated_tokens": 4 * 7,
        "cost/training_flops": 2 * 100 * 4 * (10 + 7),  # a prompt is read once for its answers
        "cost/labels": 3,
    }


def test_a_policy_with_an_adapter_answers(given, tmp_path, adapted):
    start = adapted(given["policy"].file("model"), tmp_path / "policy" / "model")
    policy = Artifact.of(start.parent, "dpo")
    build(small(), {**given, "policy": policy}, tmp_path / "adapter")
    build(small(), given, tmp_path / "base")
    assert samples(tmp_path / "adapter") != samples(tmp_path / "base")
