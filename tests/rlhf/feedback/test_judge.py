"""A language model as the labeller: its votes, what becomes of them, and the stage."""

import json
import math
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from worlds.rankings import WORDS, chat, saved_policy, saved_prompts, tiny_policy
from worlds.stages import CPU, run_stage, small_feedback

from plumbrule.cli.merged_model import merge
from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Message, Preference, Prompt, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.loading import load_policy, make_policy, save_policy
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.progress import Progress
from rlhf.feedback import judge, sampling
from rlhf.feedback import stage as feedback
from rlhf.feedback.config import JudgeConfig
from rlhf.feedback.judge import Vote, measure, open_judge, scores_of, turn, vote_on_chunk
from rlhf.feedback.rankings import ranks_of
from rlhf.feedback.sampling import SampledPrompt, SampledResponse

SHORT = "{first}|{second}|{prompt}"
LINE = Progress(0, "judge", "questions", stream=None)


def question(text="what is it?", passages=(), name="q"):
    return SampledPrompt(Prompt(name, chat(text), {"answer": "red"}), "train", passages)


def answered(*texts):
    return [SampledResponse(text, True, -1.0, k, 3, 10) for k, text in enumerate(texts)]


def votes_on(policy, answers, asked=None, **settings):
    config = JudgeConfig(question=settings.pop("question", SHORT), **settings)
    return vote_on_chunk(policy, [asked or question()], [answers], config, LINE)[0]


# Votes into scores


def test_scores_and_biases_by_hand():
    # a against b: 0.9 and 1 - 0.4 = 0.6 for a in the two places, mean 0.75; a against c: 0.8 and
    # 0.7, mean 0.75; b against c: 0.6 and 0.2, mean 0.4. a (0.75 + 0.75) / 2; b (0.25 + 0.4) / 2;
    # c (0.25 + 0.6) / 2. Only b and c are preferred in both of their orders when shown first.
    votes = [
        Vote(0, 1, 0.9),
        Vote(1, 0, 0.4),
        Vote(0, 3, 0.8),
        Vote(3, 0, 0.3),
        Vote(1, 3, 0.6),
        Vote(3, 1, 0.8),
    ]
    scores = scores_of(votes, answered("a", "b", "a", "c"))
    assert scores == pytest.approx([0.75, 0.325, 0.75, 0.425])
    assert measure([votes, [], None]) == pytest.approx(
        {"feedback/judge_position_bias": 1 / 3, "feedback/judge_first": 3.8 / 6}
    )


def one_that_always_says_the_first(odds: float):
    """A judge whose last hidden state is the same after any text: log-odds of A over B."""
    policy = tiny_policy()
    shape = GPT2Config(
        vocab_size=len(policy.tokenizer), n_positions=96, n_embd=32, n_layer=1, n_head=2
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(shape)
    a, b = (policy.encode_response(word, terminal=False)[-1] for word in "AB")
    apart = model.lm_head.weight[a] - model.lm_head.weight[b]
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(odds * apart / apart.square().sum())
    return make_policy(model, policy.tokenizer, 96)


def test_a_judge_that_always_says_the_first_prefers_none():
    # odds 3 to 1 for the first place, whatever stands there: every vote is 0.75, every score 0.5
    votes = votes_on(one_that_always_says_the_first(math.log(3)), answered("a", "b", "c"))
    assert [(v.first, v.second) for v in votes] == list(permutations(range(3), 2))
    assert [v.p_first for v in votes] == pytest.approx([0.75] * 6, abs=1e-6)
    assert scores_of(votes, answered("a", "b", "c")) == pytest.approx([0.5] * 3)
    assert measure([votes]) == pytest.approx(
        {"feedback/judge_position_bias": 1.0, "feedback/judge_first": 0.75}, abs=1e-6
    )


def chance(policy, prompt, word):
    """p(word | prompt), one token at a time from the model's own softmax."""
    tokens, total = list(prompt), 1.0
    for token in policy.encode_response(word, terminal=False):
        with torch.no_grad():
            logits = policy.model(torch.tensor([tokens])).logits[0, -1]
        total *= torch.softmax(logits.double(), -1)[token].item()
        tokens.append(token)
    return total


@pytest.mark.parametrize("words", [["A", "B"], ["red", "small"], ["red", "what is it?"]])
def test_a_vote_is_the_share_of_the_first_word(words):
    # Two tokens that differ in the last; one token each; words of other lengths.
    policy, texts = tiny_policy(3), ("red", "blue tall", "cold")
    votes, odds = votes_on(policy, answered(*texts), words=words, batch_size=2), []
    for first, second, p_first in votes:
        asked = Message("user", f"{texts[first]}|{texts[second]}|what is it?")
        one, other = (chance(policy, policy.encode([asked]), word) for word in words)
        odds.append(math.log(p_first / (1 - p_first)))
        assert odds[-1] == pytest.approx(math.log(one / other), abs=1e-4)
    assert max(odds) - min(odds) > 1e-3


def test_scores_belong_to_answers_and_not_to_their_places():
    policy, texts = tiny_policy(3), ["red", "blue tall", "cold", "red"]
    scores = scores_of(votes_on(policy, answered(*texts)), answered(*texts))
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        turned = answered(*(texts[k] for k in order))
        again = scores_of(votes_on(policy, turned), turned)
        assert again == pytest.approx([scores[k] for k in order], abs=1e-6)
    assert len(set(ranks_of(scores))) == 3
    # votes of both orders, and a rival's are the rest: scores sum to half the number of answers
    assert scores[0] + scores[1] + scores[2] == pytest.approx(1.5)


def test_swapping_the_words_turns_every_vote_round():
    policy, answers = tiny_policy(3), answered("red", "blue tall", "cold")
    one, other = votes_on(policy, answers), votes_on(policy, answers, words=["B", "A"])
    assert [v.p_first for v in other] == pytest.approx([1 - v.p_first for v in one], abs=1e-6)


# What is asked


def test_the_question_holds_all_that_is_judged():
    answers = answered("red {second}", "blue")
    shown = turn(JudgeConfig().question, question(passages=("One.", "Two.")), *answers)
    assert shown == (
        "Here are a question and two answers to it.\nOne.\nTwo.\nQuestion: what is it?\n"
        "Answer A: red {second}\nAnswer B: blue\nWhich answer is better? Say A or B."
    )
    without = turn(JudgeConfig().question, question(), *answers)
    assert without == shown.replace("One.\nTwo.\n", "")


def test_a_prompt_of_several_turns_is_told_with_its_roles():
    messages = (Message("user", "hi"), Message("assistant", "ho"), Message("user", "and?"))
    asked = SampledPrompt(Prompt("q", messages), "train", ())
    shown = turn("{prompt}\n{first}{second}", asked, *answered("a", "b"))
    assert shown == "User: hi\nAssistant: ho\nUser: and?\nab"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"question": "{first} or {second}?"}, r"feedback\.judge\.question .*must hold {prompt}"),
        ({"question": "{prompt}{first}{second}{third}"}, "no other field"),
        ({"words": ["A"]}, r"feedback\.judge\.words .*two different words"),
        ({"words": ["A", " A"]}, "two different words"),
        ({"words": ["A", ""]}, "two different words"),
        ({"batch_size": 0}, r"feedback\.judge\.batch_size \(=0 questions\)"),
        ({"precision": "float16"}, r"feedback\.judge\.precision"),
        ({"name_or_path": "someone/judge"}, r"feedback\.judge\.revision"),
        ({"name_or_path": "./nowhere"}, r"feedback\.judge\.name_or_path"),
        ({"pad_token": "x"}, r"feedback\.judge\.pad_token .*be null without"),
        ({"revision": "0" * 40}, r"feedback\.judge\.revision .*be null without"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        JudgeConfig(**settings)


def test_a_judge_without_a_pad_token_is_told_of_its_own_setting(tmp_path):
    policy = tiny_policy()
    policy.model.save_pretrained(tmp_path)
    policy.tokenizer.pad_token = None
    policy.tokenizer.save_pretrained(tmp_path)
    config = JudgeConfig(name_or_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"feedback\.judge\.pad_token \(=None\) must name"):
        open_judge(config, {}, CPU)
    named = JudgeConfig(name_or_path=str(tmp_path), pad_token="<|eos|>", precision="bfloat16")
    assert open_judge(named, {}, CPU).model.dtype == torch.bfloat16


# The stage


small = partial(small_feedback, labeller="judge", judge=JudgeConfig(question=SHORT))
build = partial(run_stage, feedback.run)


@pytest.fixture(scope="module")
def given(given, tmp_path_factory):
    judge = saved_policy(tmp_path_factory.mktemp("judge"), seed=3)
    return {**given, "judge": Artifact.of(judge, "sft")}


def published(out: Path) -> dict[str, str]:
    return {p.name: p.read_text("utf-8") for p in out.glob("*.json*")}


def rankings_of(out: Path) -> list[Preference]:
    names = ("records.jsonl", "validation.jsonl")
    return [p for name in names for p in read_records(Preference, out / name)]


def test_a_policy_of_this_run_ranks_by_its_votes(given, tmp_path):
    metrics = build(small(), given, tmp_path)
    rows = [row for _, row in read_rows(tmp_path / "judgements.jsonl")]
    samples = [row for _, row in read_rows(tmp_path / "samples.jsonl")]
    for preference in rankings_of(tmp_path):
        own = [row for row in rows if row["id"] == preference.id]
        said = [row for row in samples if row["id"] == preference.id]
        texts, k = [row["response"] for row in said], len(preference.responses)
        assert len(own) == k * (k - 1)
        votes = [Vote(row["first"], row["second"], row["p_first"]) for row in own]
        for vote in votes:
            shown = answered(texts[vote.first], texts[vote.second])
            again = votes_on(tiny_policy(3), shown, question(said[0]["prompt"]))[0]
            assert vote.p_first == pytest.approx(again.p_first, abs=1e-5)
        scores = scores_of(votes, answered(*texts))
        assert [row["score"] for row in said] == scores
        assert preference.scores == tuple(scores[texts.index(t)] for t in preference.responses)
        assert preference.ranks == ranks_of(preference.scores)
        assert preference.annotator == "judge"
        assert len(preference.utilities) == k
    assert 0.0 <= metrics["feedback/judge_position_bias"] <= 1.0
    assert metrics["feedback/judge_first"] == pytest.approx(
        sum(r["p_first"] for r in rows) / len(rows)
    )
    assert metrics["feedback/prompts_not_judged"] == 0


def test_a_judge_by_name_is_the_same_judge(given, tmp_path):
    build(small(), given, tmp_path / "input")
    named = JudgeConfig(question=SHORT, name_or_path=str(given["judge"].file("model")))
    inputs = {slot: given[slot] for slot in ("policy", "prompts")}
    build(small(judge=named), inputs, tmp_path / "named")
    assert published(tmp_path / "named") == published(tmp_path / "input")


def test_killed_and_started_again_gives_the_same_files(given, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "CHUNK_PROMPTS", 5)
    metrics = build(small(), given, tmp_path / "whole")
    judged = []
    real = judge.vote_on_chunk

    def counted(policy, questions, answers, config, line):
        judged.append(len(questions))
        if len(judged) == 2:
            raise KeyboardInterrupt
        return real(policy, questions, answers, config, line)

    monkeypatch.setattr(judge, "vote_on_chunk", counted)
    with pytest.raises(KeyboardInterrupt):
        build(small(), given, tmp_path / "killed")
    monkeypatch.setattr(sampling, "sample_chunk", None)  # nothing is sampled again
    assert build(small(), given, tmp_path / "killed") == metrics
    assert judged == [5, 5, 5, 4]  # the first chunk once, the second twice, the third once
    assert published(tmp_path / "killed") == published(tmp_path / "whole")


def with_long_prompts(folder: Path, number: int) -> Path:
    """Prompts of which the first `number` fit the policy, but not the judge with two answers."""
    saved_prompts(folder, 10, 4)
    rows = [row for _, row in read_rows(folder / "records.jsonl")]
    for row in rows[:number]:
        row["messages"][0]["content"] = " ".join(WORDS * 8 + WORDS[:5])
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    if number == 10:
        (folder / "validation.jsonl").write_text("", "utf-8")
    return folder


def test_what_does_not_fit_the_judge_is_left_out_and_said(given, tmp_path):
    prompts = Artifact.of(with_long_prompts(tmp_path / "prompts", 2), "data")
    metrics = build(small(), {**given, "prompts": prompts}, tmp_path / "out")
    assert metrics["feedback/prompts_not_judged"] == 2
    assert not {"q0", "q1"} & {p.id for p in rankings_of(tmp_path / "out")}
    (note,) = json.loads((tmp_path / "out" / "notes.json").read_text("utf-8"))
    assert note.startswith("2 prompts were not ranked: two of their answers do not fit the judge's")
    samples = [row for _, row in read_rows(tmp_path / "out" / "samples.jsonl")]
    assert {row["id"] for row in samples if row["score"] is None} == {"q0", "q1"}


def test_a_judge_whose_context_nothing_fits_is_an_error(given, tmp_path):
    prompts = Artifact.of(with_long_prompts(tmp_path / "prompts", 10), "data")
    with pytest.raises(DataError, match=r"at least one of 10 prompts must fit the judge's context"):
        build(small(), {**given, "prompts": prompts}, tmp_path / "out")


def test_a_judge_that_is_wrong_costs_no_sampling(given, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sample_chunk", None)
    config = small(judge=JudgeConfig(words=["red", "red round"]))
    with pytest.raises(ConfigError, match="neither may begin the other"):
        build(config, given, tmp_path)


def test_ties_of_a_judge_have_a_width(given, tmp_path):
    metrics = build(small(tie_width=1.0), given, tmp_path)
    assert metrics["feedback/tie_rate"] == 1.0


def test_saved_judges_keep_what_they_are(tmp_path):
    judged = one_that_always_says_the_first(math.log(3))
    save_policy(judged, tmp_path)
    again = open_judge(JudgeConfig(name_or_path=str(tmp_path)), {}, CPU)
    assert votes_on(again, answered("a", "b")) == votes_on(judged, answered("a", "b"))


def test_a_judge_may_be_an_adapter(tmp_path, adapted):
    policy = Artifact.of(saved_policy(tmp_path / "policy"), "sft")
    folder = adapted(policy.file("model"), tmp_path / "judge" / "model")
    merge(folder, tmp_path / "whole")
    judges = [
        open_judge(JudgeConfig(name_or_path=str(path)), {}, CPU)
        for path in (folder, tmp_path / "whole")
    ]
    judges.append(open_judge(JudgeConfig(), {"judge": Artifact.of(folder.parent, "dpo")}, CPU))
    votes = [votes_on(j, answered("red", "blue")) for j in judges]
    assert votes[0] == votes[2]
    chances = [[vote[2] for vote in found] for found in votes]
    assert chances[0] == pytest.approx(chances[1], abs=1e-5)
    plain = votes_on(load_policy(policy.file("model")), answered("red", "blue"))
    assert [vote[2] for vote in plain] != pytest.approx(chances[0], abs=1e-5)
