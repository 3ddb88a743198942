"""Terms that a local language model judges: numbers by its own softmax, bad input, a PPO run."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from worlds import ppo as world
from worlds.rankings import chat, saved_policy, tiny_policy

from plumbrule.data.records import Message, Prompt
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.loading import load_policy, save_policy
from plumbrule.protocols import Episode
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.artifacts import Artifact
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.rollout import parquet
from rlhf.ppo.stage import run
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.graph_checks import check_reward
from rlhf.rewards.judge import GradingJudge, LocalJudge, Rubric, weighted_share
from rlhf.rewards.judge_config import (
    CriterionConfig,
    JudgeModelConfig,
    JudgeTermConfig,
    RubricConfig,
)
from rlhf.rewards.terms import open_terms
from rlhf.rewards.verdicts import parse_grade, parse_word

SHORT = "{prompt}|{response}"
CRITERIA = [CriterionConfig("brief", "it is short", 3.0), CriterionConfig("red", "it is red")]


def episodes(*texts, passages=(), name="p"):
    prompt = Prompt(name, chat("what is it?"))
    return [Episode(prompt, passages, text, True) for text in texts]


def judged(policy, texts, batch_size=2, **settings):
    config = JudgeTermConfig(**{"question": SHORT, "lowest": 1, "highest": 3, **settings})
    return GradingJudge(config, LocalJudge(policy, batch_size)).score(episodes(*texts))


def rubric(criteria=CRITERIA, **settings):
    return RubricConfig(criteria=criteria, question="{response}|{criterion}|{prompt}", **settings)


def chance(policy, text, word):
    """p(word | question), one token at a time from the model's own softmax."""
    tokens, total = policy.encode([Message("user", text)]), 1.0
    for token in policy.encode_response(word, terminal=False):
        with torch.no_grad():
            logits = policy.model(torch.tensor([tokens])).logits[0, -1]
        total *= torch.softmax(logits.double(), -1)[token].item()
        tokens = [*tokens, token]
    return total


# Numbers


def test_a_grade_is_the_expected_one_over_the_judges_own_probabilities():
    policy, texts = tiny_policy(3), ("red", "blue tall", "cold")
    found = judged(policy, texts)
    for text, score, mass in zip(texts, found["score"], found["word_mass"], strict=True):
        p = [chance(policy, f"what is it?|{text}", word) for word in "123"]
        assert score == pytest.approx((p[0] + 2 * p[1] + 3 * p[2]) / sum(p), abs=1e-5)
        assert mass == pytest.approx(sum(p), rel=1e-4)
    assert np.ptp(found["score"]) > 1e-4
    assert found["failed"].tolist() == [0.0, 0.0, 0.0]
    asked = [policy.encode([Message("user", f"what is it?|{text}")]) for text in texts]
    assert found["prompt_tokens"].tolist() == [len(tokens) for tokens in asked]


def test_a_rubric_is_the_weighted_share_of_what_holds():
    # weights 3 and 1: (3 * 1 + 1 * 0) / 4 and (3 * .5 + 1 * 1) / 4
    met = np.array([[1.0, 0.0], [0.5, 1.0]])
    assert weighted_share(met, CRITERIA).tolist() == [0.75, 0.625]
    policy, texts = tiny_policy(3), ("red", "blue tall")
    found = Rubric(rubric(), LocalJudge(policy, 3)).score(episodes(*texts))
    for i, text in enumerate(texts):
        shares = []
        for criterion in CRITERIA:
            asked = f"{text}|{criterion.text}|what is it?"
            yes, no = (chance(policy, asked, word) for word in ("yes", "no"))
            shares.append(yes / (yes + no))
            assert found[criterion.name][i] == pytest.approx(shares[-1], abs=1e-5)
        assert found["score"][i] == pytest.approx((3 * shares[0] + shares[1]) / 4, abs=1e-5)


def test_a_score_depends_on_its_own_answer_alone():
    policy = tiny_policy(3)
    texts = ["red", "blue tall", "cold old red small", "red blue"]
    whole = judged(policy, texts, batch_size=4)["score"]
    alone = [judged(policy, [text], batch_size=1)["score"][0] for text in texts]
    np.testing.assert_allclose(whole, alone, atol=1e-6)
    np.testing.assert_allclose(judged(policy, texts[::-1], 3)["score"], whole[::-1], atol=1e-6)
    assert judged(policy, texts, batch_size=4)["score"].tolist() == whole.tolist()


def test_what_is_asked_shows_passages_and_the_scale():
    class Asked:
        def ask(self, questions, scale):
            seen.extend(questions)
            return LocalJudge(tiny_policy(context=512), 1).ask(questions, scale)

    seen = []
    given = episodes("red {prompt}", passages=("One.", "Two."))
    GradingJudge(JudgeTermConfig(), Asked()).score(given)
    assert seen.pop() == (
        "Here are a question and an answer to it.\nOne.\nTwo.\nQuestion: what is it?\n"
        "Answer: red {prompt}\n"
        "How good is the answer, from 1 (useless) to 5 (excellent)? Say the number only."
    )
    GradingJudge(JudgeTermConfig(), Asked()).score(episodes("red"))
    assert "{" not in seen[0]
    assert "it.\nQuestion" in seen.pop()
    Rubric(RubricConfig(criteria=CRITERIA[:1]), Asked()).score(episodes("red"))
    assert seen[0].endswith("Does this hold of the answer: it is short Say yes or no.")


# Text that is read of an endpoint's reply


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("4", 4.0),
        (" 4.\n", 4.0),
        ("**3**", 3.0),
        ("Grade: 2", 2.0),
        ("score is 5 because it is short", 5.0),
        ("4/5", 4.0),
        ("4 out of 5", 4.0),
        ("3.5", None),  # grades are whole numbers
        ("4.0", 4.0),
        ("6", None),
        ("0", None),
        ("-3", None),
        ("4/9", None),
        ("3 or 4", None),
        ("3-4", None),
        ("4 is too high", None),
        ("**4** would be wrong", None),
        ("4/5 isn't right", None),
        ("4 can't be said", None),
        ("4 because it is not long", 4.0),
        ("4, it is not long", 4.0),  # of the answer, not of the grade
        ("4 - is short, but not wrong", 4.0),
        ("4.\nIs it short? It is.", 4.0),
        ("I would say 4", None),
        ("", None),
        ("four", None),
    ],
)
def test_a_grade_in_text(text, grade):
    assert parse_grade(text, 1, 5) == grade


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", 1.0),
        ("No.", 0.0),
        (" **Yes**, it is", 1.0),
        ("maybe", None),
        ("", None),
        ("Yes and no", None),
        ("yes/no", None),
        ("**No**, but also yes", None),
        ("Yes. No rain falls.", 1.0),  # the second sentence explains the first
        ("Yes, there is no doubt", 1.0),
        ("Yes is wrong", None),
        ("**Yes** is not right.", None),
        ("Yes would be wrong", None),
        ("yes it is not", None),
        ("Yes, but not quite", None),
        ("Yes, wrong", None),
        ("Yes; it does not say so", 1.0),
        ("Yes it is", 1.0),
        ("Yes\nIs it short? It is.", 1.0),
        ("No is wrong", None),
        ("No isn't right", None),
        ("No it is not", 0.0),  # a denial agrees with it
        ("No, not at all", 0.0),
    ],
)
def test_a_word_in_text(text, value):
    assert parse_word(text, ("yes", "no"), (1.0, 0.0)) == value


# Bad input


def test_an_answer_that_does_not_fit_the_judge_counts_the_stated_score(caplog):
    policy, long = tiny_policy(context=40), " ".join(["red"] * 60)
    with caplog.at_level(logging.WARNING):
        found = judged(policy, ["red", long], failed_score=1.5)
    assert found["failed"].tolist() == [0.0, 1.0]
    assert found["score"][1] == 1.5 != found["score"][0]
    assert "1 of 2 questions got no verdict (1 questions exceed its context" in caplog.text
    assert judged(policy, ["red", long])["score"][1] == 1.0
    found = Rubric(rubric(failed_score=0.25), LocalJudge(policy, 4)).score(episodes("red", long))
    assert [found[name][1] for name in ("score", "brief", "red", "failed")] == [0.25] * 3 + [1.0]


def test_a_judge_that_no_answer_fits_stops_the_run():
    long = " ".join(["red"] * 60)
    with pytest.raises(TrainingError, match=r"did so to none of 8 questions.*reward\.judge\.quest"):
        judged(tiny_policy(context=40), [f"{long} {i}" for i in range(8)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: JudgeTermConfig(question="{prompt}"), r"judge\.question .*must hold {prompt} and"),
        (lambda: JudgeTermConfig(lowest=3, highest=3), r"reward\.judge\.highest \(=3\)"),
        (lambda: JudgeTermConfig(highest=10), r"reward\.judge\.highest \(=10\) must lie in \[2, 9"),
        (lambda: JudgeTermConfig(failed_score=0.0), r"reward\.judge\.failed_score .*\[1, 5\]"),
        (lambda: CriterionConfig("a b", "x"), r"criteria\.name \(='a b'\) must be a name of let"),
        (lambda: CriterionConfig("failed", "x"), r"criteria\.name .*none of score, failed"),
        (lambda: CriterionConfig("a", " "), r"criteria\.a\.text .*must say what must hold"),
        (lambda: CriterionConfig("a", "x", 0.0), r"criteria\.a\.weight \(=0\.0\)"),
        (lambda: CriterionConfig("a", "x", -1.0), r"criteria\.a\.weight \(=-1\.0\)"),
        (lambda: CriterionConfig("a", "x", float("nan")), r"criteria\.a\.weight \(=nan\)"),
        (lambda: rubric([CRITERIA[0], CRITERIA[0]]), r"rubric\.criteria .*name of its own each"),
        (lambda: rubric(words=["yes", "Yes"]), r"reward\.rubric\.words .*two different words"),
        (lambda: rubric(failed_score=2.0), r"reward\.rubric\.failed_score .*\[0, 1\]"),
        (
            lambda: RewardConfig([RewardTermConfig("rubric")]),
            r"reward\.rubric\.criteria \(=\[\]\) must hold at least one",
        ),
        (lambda: JudgeModelConfig(name_or_path="gpt2"), r"reward\.judge_model\.revision"),
        (lambda: JudgeModelConfig(pad_token="x"), r"judge_model\.pad_token .*null without"),
        (lambda: JudgeModelConfig(precision="float16"), r"judge_model\.precision"),
        (lambda: JudgeModelConfig(url="http://h/v1"), r"judge_model\.model \(=None\) must name a"),
        (lambda: JudgeModelConfig(model="m"), r"judge_model\.model \(=m\) must be null without"),
        (
            lambda: JudgeModelConfig(url="http://me:secret@h/v1", model="m"),
            r"judge_model\.url \(=hidden\).*judge_model\.token_env",
        ),
        (lambda: JudgeModelConfig(max_reply_tokens=0), r"judge_model\.max_reply_tokens"),
        (lambda: JudgeModelConfig(num_requests=0), r"judge_model\.num_requests"),
    ],
)
def test_settings_that_can_not_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_model_and_an_endpoint_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match=r"judge_model\.url .*must be null with"):
        JudgeModelConfig(name_or_path=str(tmp_path), url="http://h/v1", model="m")


def test_a_node_needs_exactly_one_judge(tmp_path):
    reward = RewardConfig([RewardTermConfig("judge")])
    node = PlacedNode("ppo", "ppo", {})
    with pytest.raises(ConfigError, match=r"judge_model \(=None\).*nodes\.ppo\.inputs\.judge=sft"):
        check_reward(node, reward)
    given = PlacedNode("ppo", "ppo", {"judge": PlacedNode("sft", "sft", {})})
    check_reward(given, reward)
    named = dataclasses.replace(reward, judge_model=JudgeModelConfig(name_or_path=str(tmp_path)))
    check_reward(node, named)
    with pytest.raises(ConfigError, match=r"must be left out where .* \(=sft\).*judge=null"):
        check_reward(given, named)


def test_a_key_that_is_not_set_is_said_before_any_work(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    model = JudgeModelConfig(url="http://h/v1", model="m", token_env="JUDGE_KEY")
    reward = RewardConfig([RewardTermConfig("judge")], judge_model=model)
    with pytest.raises(ConfigError, match=r"judge_model\.token_env \(=JUDGE_KEY\) must name an"):
        check_reward(PlacedNode("ppo", "ppo", {}), reward)


def test_a_judge_that_does_not_load_is_named_by_its_setting(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    model = JudgeModelConfig(name_or_path=str(tmp_path))
    reward = RewardConfig([RewardTermConfig("judge")], judge_model=model)
    with pytest.raises(ConfigError, match=r"reward\.judge_model\.name_or_path"):
        open_terms(reward, {}, world.runtime())


def test_a_tokenizer_that_does_not_tell_the_words_apart_is_refused(tmp_path):
    """The world's tokenizer knows no digit, and no yes: all of them are its pad token."""
    save_policy(world.tiny_policy(), tmp_path / "model")
    inputs = {"judge": Artifact.of(tmp_path, "sft")}
    for term, setting in (("judge", r"judge\.lowest"), ("rubric", r"rubric\.words")):
        reward = RewardConfig([RewardTermConfig(term)], rubric=rubric())
        with pytest.raises(ConfigError, match=rf"reward\.{setting} .*tells apart"):
            open_terms(reward, inputs, world.runtime())


def test_a_judge_without_a_chat_template_is_asked_in_plain_text(tmp_path):
    folder = saved_policy(tmp_path, 3, context=256) / "model"
    (folder / "policy.json").unlink()
    for path in folder.glob("*.jinja"):
        path.unlink()
    about = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    about.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(about), "utf-8")
    asked = load_policy(folder).encode(chat("x"))
    assert load_policy(folder).tokenizer.decode(asked).startswith("User: x")
    model = JudgeModelConfig(name_or_path=str(folder))
    reward = RewardConfig([RewardTermConfig("judge")], judge_model=model)
    found = open_terms(reward, {}, world.runtime())["judge"].score(episodes("red", "cold"))
    assert np.isfinite(found["score"]).all()


# A run


def test_a_ppo_run_with_a_rubric_and_a_grade_of_a_local_judge(tmp_path):
    """The judge's tokenizer is another one than the policy's."""
    inputs = world.build(tmp_path)
    inputs["judge"] = Artifact.of(saved_policy(tmp_path / "judge", 3, context=512), "sft")
    reward = RewardConfig(
        [RewardTermConfig("rubric", 2.0), RewardTermConfig("judge", 0.0)], rubric=rubric()
    )
    settings = world.config(total_episodes=32, reward=reward)
    outs = [tmp_path / "out", tmp_path / "again"]
    for out in outs:
        out.mkdir()
        headline = run(settings, inputs, world.runtime(), out, FileTracker(out))
    rows = [read_metrics(out) for out in outs]
    for row, again in zip(*rows, strict=True):
        shown = {name: value for name, value in row.items() if name.startswith("reward/")}
        assert shown == {name: again[name] for name in shown}
        share = (3 * row["reward/rubric/brief_raw"] + row["reward/rubric/red_raw"]) / 4
        assert row["reward/rubric_raw"] == pytest.approx(share, abs=1e-6)
        assert row["reward/rubric"] == pytest.approx(2 * share, abs=1e-6)
        assert row["objective/scores_raw"] == pytest.approx(2 * share, abs=1e-6)
        assert row["reward/rubric/failed_raw"] == row["reward/judge/failed_raw"] == 0.0
        assert row["reward/rubric/prompt_tokens_raw"] > 20
        assert row["reward/judge/prompt_tokens_raw"] > 20
        assert 1.0 < row["reward/judge_raw"] < 5.0
    assert headline["reward/rubric/failed_raw"] == 0.0  # into the manifest
    rollout = parquet.read(parquet.path_of(outs[0] / "rollouts", 1))
    assert len(rollout.terms["rubric/brief"]) == 16
    assert "not reproducible" not in (outs[0] / "notes.json").read_text("utf-8")
