"""A judge behind an OpenAI-compatible endpoint, asked over a real socket."""

import json
import threading
import time

import pytest
from scorer_server import served
from worlds import ppo as world
from worlds.rankings import chat

from plumbrule.data.records import Prompt
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.endpoints import patient_post
from plumbrule.lm.endpoints.chat_endpoint import read_replies
from plumbrule.lm.endpoints.kept_replies import append_rows, read_rows
from plumbrule.protocols import Episode
from plumbrule.store.metric_rows import read_metrics
from plumbrule.tracking.stage_tracker import FileTracker
from rlhf.ppo.config import KLConfig
from rlhf.ppo.stage import run
from rlhf.rewards.config import RewardConfig, RewardTermConfig
from rlhf.rewards.judge import GradingJudge, Rubric
from rlhf.rewards.judge_config import (
    CriterionConfig,
    JudgeModelConfig,
    JudgeTermConfig,
    RubricConfig,
)
from rlhf.rewards.judge_endpoint import EndpointJudge

CRITERIA = [CriterionConfig("gold", "It says gold.", 3.0), CriterionConfig("rain", "It rains.")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patient_post, "LONGEST_PAUSE", 0.05)
    pause = time.sleep
    monkeypatch.setattr(patient_post.time, "sleep", lambda seconds: pause(min(seconds, 0.05)))


def episodes(*texts):
    prompt = Prompt("p", chat("what is it?"))
    return [Episode(prompt, (), text, True) for text in texts]


def reply(text, **usage):
    usage = usage or {"prompt_tokens": 7, "completion_tokens": 2}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def graded_by_length(body, number):
    answer = body["messages"][0]["content"].split("Answer: ")[1].split("\n")[0]
    return 200, reply(str(len(answer.split())))


def model(url, **settings):
    base = url.rpartition("/")[0]
    return JudgeModelConfig(
        url=f"{base}/v1", model="m", **{"patience_seconds": 0.5, "num_requests": 2, **settings}
    )


def judge(url, replies=None, **settings):
    return GradingJudge(JudgeTermConfig(), EndpointJudge(model(url, **settings), replies))


def test_grades_come_in_order_with_their_costs():
    with served(graded_by_length) as (url, seen):
        found = judge(url).score(episodes("a b", "a", "a b c d e", "a"))
    assert found["score"].tolist() == [2.0, 1.0, 5.0, 1.0]
    assert found["failed"].tolist() == [0.0] * 4
    assert found["prompt_tokens"].tolist() == [7.0] * 4
    assert found["reply_tokens"].tolist() == [2.0] * 4
    assert len(seen) == 3  # equal questions are asked once
    body = next(body for body, _ in seen if "Answer: a b\n" in body["messages"][0]["content"])
    assert body["model"] == "m"
    assert (body["temperature"], body["max_tokens"]) == (0, 16)
    assert [m["role"] for m in body["messages"]] == ["user"]


def test_a_rubric_asks_each_criterion():
    def answer(body, number):
        text = body["messages"][0]["content"]
        held = "It says gold." in text and "Answer: gold" in text
        return 200, reply("Yes." if held else "no")

    with served(answer) as (url, seen):
        rubric = Rubric(RubricConfig(criteria=CRITERIA), EndpointJudge(model(url)))
        found = rubric.score(episodes("gold", "rain"))
    assert found["score"].tolist() == [0.75, 0.0]
    assert (found["gold"].tolist(), found["rain"].tolist()) == ([1.0, 0.0], [0.0, 0.0])
    assert found["prompt_tokens"].tolist() == [14.0, 14.0]
    assert len(seen) == 4


@pytest.mark.parametrize("text", ["I can't say.", "", None, "9", "3 or 4"])
def test_a_reply_without_a_grade_is_counted_and_scored_as_stated(text, caplog):
    def answer(body, number):
        bad = "Answer: odd" in body["messages"][0]["content"]
        return 200, reply(text if bad else "4")

    with served(answer) as (url, _):
        found = judge(url).score(episodes("odd", "fine"))
    assert found["score"].tolist() == [1.0, 4.0]
    assert found["failed"].tolist() == [1.0, 0.0]
    assert "reward.judge: 1 of 2 questions got no verdict" in caplog.text


def test_an_endpoint_that_never_grades_stops_the_run():
    message = r"none of 8 questions \(such as 'As a model, I'"
    with (
        served(lambda body, number: (200, reply("As a model, I"))) as (url, _),
        pytest.raises(TrainingError, match=message),
    ):
        judge(url).score(episodes(*[f"a {i}" for i in range(8)]))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b""), r"refused \(status 401\); check reward\.judge_model\.url and"),
        ((404, b""), r"refused \(status 404\)"),
        ((302, b""), r"refused \(status 302\)"),
        ((200, b"<html>"), r"must answer .*it answered: '<html>'"),
        ((200, {"choices": []}), r"must answer \{\"choices\""),
        ((200, {"error": "no such model"}), r"it answered: .*no such model"),
        ((200, []), r"must answer \{\"choices\""),
        ((200, reply(5)), r"must answer a text and whole numbers"),
        ((200, reply("4", prompt_tokens=-1)), r"must answer a text and whole numbers"),
        ((200, reply("4", prompt_tokens="7")), r"must answer a text and whole numbers"),
        ((200, {**reply("4"), "usage": 5}), r"must answer \{\"choices\""),
        ((200, b" " * 2**19), r"must answer at most \d+ bytes to a question"),
    ],
)
def test_an_answer_of_another_form_stops_the_run(answer, message):
    with (
        served(lambda body, number: answer) as (url, seen),
        pytest.raises(TrainingError, match=message),
    ):
        judge(url).score(episodes("a"))
    assert len(seen) == 1


def refusing(names):
    """An endpoint of a model that reasons: it refuses the settings `names`, one at a time."""

    def answer(body, number):
        for name in names:
            if name in body:
                return 400, {"error": {"message": f"Unsupported: '{name}' with this model."}}
        return graded_by_length(body, number)

    return answer


@pytest.mark.parametrize("names", [["max_tokens"], ["temperature"], ["max_tokens", "temperature"]])
def test_settings_that_a_model_refuses_are_given_in_the_form_that_it_takes(names, tmp_path):
    with served(refusing(names)) as (url, seen):
        first = judge(url, tmp_path, num_requests=1).score(episodes("a b", "a"))["score"]
        again = judge(url, tmp_path).score(episodes("a b"))["score"]
    assert (first.tolist(), again.tolist()) == ([2.0, 1.0], [2.0])
    assert len(seen) == 2 + len(names)  # a refusal each, and then it is known
    limit = "max_completion_tokens" if "max_tokens" in names else "max_tokens"
    assert seen[-1][0][limit] == 16
    assert ("temperature" in seen[-1][0]) == ("temperature" not in names)


def test_a_refusal_that_names_another_setting_stops_the_run():
    answer = 400, {"error": {"message": "max_completion_tokens is too large"}}
    with (
        served(lambda body, number: answer) as (url, seen),
        pytest.raises(TrainingError, match="status 400"),
    ):
        judge(url).score(episodes("a"))
    assert len(seen) == 1


def test_an_endpoint_without_usage_costs_nothing_that_is_known():
    with served(lambda body, number: (200, {**reply("4"), "usage": None})) as (url, _):
        assert judge(url).score(episodes("a"))["prompt_tokens"].tolist() == [0.0]


def test_an_overloaded_endpoint_is_asked_again_and_one_that_is_down_stops_the_run():
    def busy(body, number):
        return (429, b"") if number < 3 else graded_by_length(body, number)

    with served(busy) as (url, seen):
        scores = judge(url, patience_seconds=30, num_requests=1).score(episodes("a b"))["score"]
    assert scores.tolist() == [2.0]
    assert len(seen) == 3
    with pytest.raises(TrainingError, match=r"the judge m at .*gave no answer.*same command again"):
        judge(url).score(episodes("a b"))


def test_an_endpoint_that_is_too_slow_is_given_up():
    given_up = threading.Event()

    def slow(body, number):
        given_up.wait(60)
        return graded_by_length(body, number)

    with served(slow) as (url, _):
        try:
            with pytest.raises(TrainingError, match=r"gave no answer.*(not whole after|timed out)"):
                judge(url, timeout_seconds=1.0, patience_seconds=0.0).score(episodes("a"))
        finally:
            given_up.set()


def test_replies_are_kept_read_again_and_kept_where_another_fails(tmp_path):
    def fails_once(body, number):
        bad = broken and "Answer: bad" in body["messages"][0]["content"]
        return (400, b"") if bad else graded_by_length(body, number)

    broken = True
    with served(fails_once) as (url, seen):
        with pytest.raises(TrainingError, match=r"status 400"):
            judge(url, tmp_path, num_requests=1).score(episodes("a b", "a", "bad"))
        broken = False
        found = judge(url, tmp_path).score(episodes("bad", "a", "a b", "a b c"))["score"]
    assert found.tolist() == [1.0, 1.0, 2.0, 3.0]
    asked = [body["messages"][0]["content"].split("Answer: ")[1].split("\n")[0] for body, _ in seen]
    assert sorted(asked) == ["a", "a b", "a b c", "bad", "bad"]
    path = tmp_path / "judge" / "0.jsonl"
    kept = read_replies(path)
    assert sorted(r.text for r in kept.values()) == ["1", "1", "2", "3"]
    text = path.read_text("utf-8")
    path.write_text(text.replace('"text": "3"', '"text": "5"') + '{"key": "x", "text": 3}\n{"key"')
    assert sorted(r.text for r in read_replies(path).values()) == ["1", "1", "2"]


def test_a_reply_that_is_under_way_when_another_fails_is_kept(tmp_path):
    """Both are asked at once; the one that is refused waits until the other was received."""
    received = threading.Event()

    def answer(body, number):
        if "Answer: bad" in body["messages"][0]["content"]:
            received.wait(30)
            return 400, b""
        received.set()
        threading.Event().wait(0.5)  # longer than the refusal takes
        return 200, reply("4")

    with (
        served(answer) as (url, _),
        pytest.raises(TrainingError, match=r"status 400\).*may be too long for it"),
    ):
        judge(url, tmp_path).score(episodes("bad", "good"))
    assert [r.text for r in read_replies(tmp_path / "judge" / "0.jsonl").values()] == ["4"]


def test_of_two_replies_to_a_question_a_process_reads_its_own(tmp_path):
    with served(graded_by_length) as (url, seen):
        judge(url, tmp_path).score(episodes("a b"))
        [row] = read_rows(tmp_path / "judge" / "0.jsonl")
        other = {"key": row["key"], "text": "5", "prompt_tokens": 7, "reply_tokens": 2}
        append_rows(tmp_path / "judge" / "1.jsonl", [other])
        assert judge(url, tmp_path).score(episodes("a b"))["score"].tolist() == [2.0]
    assert len(seen) == 1


def test_another_model_does_not_read_the_replies_of_this_one(tmp_path):
    with served(graded_by_length) as (url, seen):
        judge(url, tmp_path).score(episodes("a"))
        judge(url, tmp_path, max_reply_tokens=32).score(episodes("a"))
    assert len(seen) == 2


def test_a_key_is_sent_and_never_shown(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("JUDGE_KEY", "very secret")
    caplog.set_level("DEBUG")
    with served(graded_by_length) as (url, seen):
        scorer = judge(url, tmp_path, token_env="JUDGE_KEY")
        scorer.score(episodes("a"))
        assert seen[0][1]["Authorization"] == "Bearer very secret"
    with pytest.raises(TrainingError) as caught:
        scorer.score(episodes("b"))
    kept = (tmp_path / "judge" / "0.jsonl").read_text("utf-8")
    shown = (
        f"{caught.value} {caplog.text} {kept} {scorer.model.endpoint.service} {scorer.model.config}"
    )
    assert "secret" not in shown
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match=r"reward\.judge_model\.token_env .*must name an env"):
        judge(url, token_env="JUDGE_KEY")


@pytest.mark.slow
def test_a_ppo_run_learns_what_an_endpoints_rubric_asks_for(tmp_path):
    def answer(body, number):
        text = body["messages"][0]["content"]
        said = text.split("Answer: ")[1].split("\n")[0]
        word = "gold" if "It says gold." in text else "rain"
        return 200, reply("yes" if word in said else "no")

    inputs = world.build(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with served(answer) as (url, seen):
        reward = RewardConfig(
            [RewardTermConfig("rubric")],
            judge_model=model(url, patience_seconds=30),
            rubric=RubricConfig(criteria=CRITERIA),
        )
        settings = world.config(
            total_episodes=32 * 16,
            batch_size=32,
            learning_rate=1e-2,
            reward=reward,
            kl=KLConfig(coef=0.0),
        )
        run(settings, inputs, world.runtime(), out, FileTracker(out))
    rows = read_metrics(out)
    assert rows[-1]["reward/rubric/gold_raw"] > rows[0]["reward/rubric/gold_raw"] + 0.2
    assert rows[-1]["reward/rubric_raw"] > rows[0]["reward/rubric_raw"] + 0.15
    assert rows[0]["reward/rubric/failed_raw"] == 0.0
    assert rows[0]["reward/rubric/reply_tokens_raw"] == 4.0
    notes = json.loads((out / "notes.json").read_text("utf-8"))
    assert any("/v1 (model m)" in n and "not reproducible from its config" in n for n in notes)
    kept = read_replies(out / "replies" / "judge" / "0.jsonl")
    assert len(kept) == len(seen)
