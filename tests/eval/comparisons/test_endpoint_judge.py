"""A judge of pairs behind an OpenAI-compatible endpoint, asked over a real socket."""

from __future__ import annotations

import json
import threading

import pytest
from comparisons_world import inputs, prompt, row
from scorer_server import served
from worlds.evaluation import read_lines

from eval.comparisons.config import JudgeEndpointConfig, WinRateConfig, check_judges
from eval.comparisons.endpoint_judge import question, read_letter
from eval.comparisons.judged_answers import run
from plumbrule.data.records import Preference
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.tracking.stage_tracker import NullTracker

GOOD, BAD = "in Bosk", "no"


def reply(text):
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def shown(body):
    """Return the answers shown as A and B."""
    text = body["messages"][0]["content"]
    return text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")


def knows(body, number):
    """Prefers the answer that names a town, wherever it stands."""
    a, _ = shown(body)
    return 200, reply("A" if "Bosk" in a else "**B**.")


def config(url, **settings):
    base = f"{url.rpartition('/')[0]}/v1"
    known = {"patience_seconds": 0.0, "timeout_seconds": 5.0, "num_requests": 2}
    return WinRateConfig(endpoint=JudgeEndpointConfig(url=base, model="m", **{**known, **settings}))


def stage(settings, given, out):
    out.mkdir(exist_ok=True)
    return run(settings, given, RuntimeConfig(), out, NullTracker())


def sides(number, old=BAD, new=GOOD):
    return [row(i, old) for i in range(number)], [row(i, f"{new} {i}") for i in range(number)]


def test_both_orders_are_asked_and_replies_are_kept_and_reused(tmp_path):
    given = inputs(tmp_path, *sides(4))
    with served(knows) as (url, seen):
        flat = stage(config(url), given, tmp_path / "out")
        again = stage(config(url), given, tmp_path / "out")
    assert flat["ppo/judge_win_rate"] == again["ppo/judge_win_rate"] == 1.0
    assert flat["ppo/judge_first_share"] == 0.5
    assert flat["ppo/judge_contradicts"] == flat["ppo/judge_failure_rate"] == 0.0
    assert len(seen) == 8  # four pairs in two orders, and nobody twice
    assert {tuple("Bosk" in side for side in shown(body)) for body, _ in seen} == {
        (True, False),
        (False, True),
    }
    notes = json.loads((tmp_path / "out/notes.json").read_text(encoding="utf-8"))
    assert any("8 questions, 56 tokens read and 16 said" in note for note in notes)
    assert any("not reproducible from the config" in note for note in notes)


def test_a_position_bias_is_a_tie_and_is_reported(tmp_path):
    with served(lambda body, number: (200, reply("A"))) as (url, _):
        flat = stage(config(url), inputs(tmp_path, *sides(3)), tmp_path / "out")
    assert flat["ppo/judge_win_rate"] == 0.5
    assert flat["ppo/judge_win_rate_ties"] == flat["ppo/judge_contradicts"] == 1.0
    assert flat["ppo/judge_first_share"] == 1.0


def test_an_endpoint_that_times_out_is_a_counted_failure_and_is_asked_again(tmp_path):
    given_up = threading.Event()
    slow = True

    def answer(body, number):
        if slow and any(side.strip().endswith(" 1") for side in shown(body)):
            given_up.wait(60)
        return knows(body, number)

    given = inputs(tmp_path, *sides(4))
    with served(answer) as (url, seen):
        try:
            settings = config(url, timeout_seconds=0.5, num_requests=4)
            flat = stage(settings, given, tmp_path / "out")
        finally:
            given_up.set()
        assert flat["ppo/judge_failure_rate"] == 0.25
        assert flat["ppo/judge_win_rate"] == 1.0
        rows = read_lines(tmp_path / "out/items/judge.jsonl")
        assert [r.get("failed", 0) for r in rows] == [0, 1, 0, 0]
        assert "win" not in rows[1]
        notes = json.loads((tmp_path / "out/notes.json").read_text(encoding="utf-8"))
        assert any("2 questions got no reply" in note for note in notes)
        slow, before = False, len(seen)
        flat = stage(config(url), given, tmp_path / "out")
        assert len(seen) == before + 2  # what failed, and nothing else
    assert flat["ppo/judge_failure_rate"] == 0.0


def test_a_reply_that_is_neither_letter_counts_as_failed(tmp_path):
    def answer(body, number):
        odd = any(side.strip().endswith(" 2") for side in shown(body))
        return (200, reply("Both are fine.")) if odd else knows(body, number)

    with served(answer) as (url, _):
        flat = stage(config(url), inputs(tmp_path, *sides(4)), tmp_path / "out")
    assert flat["ppo/judge_failure_rate"] == 0.25
    notes = json.loads((tmp_path / "out/notes.json").read_text(encoding="utf-8"))
    assert any("say neither A nor B alone, such as 'Both are fine.'" in note for note in notes)


def test_equal_answers_are_asked_of_nobody(tmp_path):
    before, after = [row(0, "a"), row(1, BAD)], [row(0, "a"), row(1, GOOD)]
    with served(knows) as (url, seen):
        flat = stage(config(url), inputs(tmp_path, before, after), tmp_path / "out")
    assert len(seen) == 2
    assert flat["ppo/judge_win_rate"] == 0.75


def test_an_endpoint_that_answers_nothing_stops_the_stage(tmp_path):
    given = inputs(tmp_path, *sides(4))
    with (
        served(lambda body, number: (500, b"")) as (url, _),
        pytest.raises(TrainingError, match=r"judge m at .*gave no answer .*status 500"),
    ):
        stage(config(url), given, tmp_path / "out")
    with (
        served(lambda body, number: (200, reply("Hm."))) as (url, _),
        pytest.raises(TrainingError, match=r"must answer A or B, .*none of 8 questions .*'Hm.'"),
    ):
        stage(config(url), given, tmp_path / "out2")


def test_passages_that_both_were_shown_are_shown_to_the_judge():
    messages = prompt(0).messages
    pair = Preference("p", messages, ("yes {a}", "no"), (1, 1), ("A town.", "A river."))
    asked = question(pair, 1, 0)
    assert "passages: A town.\nA river.\n\nRequest:\nWhere was 0 born?" in asked
    assert asked.endswith("Answer A:\nno\n\nAnswer B:\nyes {a}")
    bare = question(Preference("p", messages, ("yes", "no"), (1, 1)), 0, 1)
    assert "passages" not in bare
    assert "nothing else.\n\nRequest:" in bare


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B.\n", "B"),
        ("**A**", "A"),
        ("(B)", "B"),
        ("Answer: A", "A"),
        ("Answer B is better, as it names the town.", "B"),
        ("The better answer is B.", "B"),
        ("A. It names the town.", "A"),
        ("A. It names the town, and B does not.", None),  # "A: wrong. B: right" looks the same
        ("A is better", "A"),
        ("A is the best answer.", "A"),
        ("B is better than A.", "B"),
        ("Answer B is better than answer A because it names the town", "B"),
        ("**B** is better", "B"),
        ("**B** is bad", None),
        ("A is bad", None),
        ("**A** - it names the town", "A"),
        ("A because it names the town", "A"),
        ("A is better than B in style, but B is right", None),
        ("A is worse than B", None),
        ("A is the worse one.", None),
        ("Assistant A is less helpful.", None),
        ("A is wrong. B is right.", None),
        ("A is tied with B", None),
        ("A is as good as B", None),
        ("A is not as good as B", None),
        ("A is not better", None),
        ("A is better avoided", None),
        ("A isn't better", None),
        ("Answer A is incorrect, so B", None),
        ("A: wrong", None),
        ("A (not B)", None),
        ("A; B", None),
        ("A. Both are right", None),
        ("A\n\nNo wait, B", None),
        ("A, but I would rather say B", None),
        ("A\nBecause it is right.", "A"),
        ("A and B are alike", None),
        ("A, B", None),
        ("A/B", None),
        ("A better answer would be B", None),
        ("Both", None),
        ("a", None),
        ("Bosk", None),
        ("", None),
    ],
)
def test_a_letter_in_text(text, letter):
    assert read_letter(text) == letter


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "localhost", "model": "m"}, r"win_rate.endpoint.url \(=localhost\)"),
        ({"url": "http://localhost/v1"}, r"win_rate.endpoint.model \(=None\) must name a model"),
        ({"model": "m"}, r"win_rate.endpoint.model \(=m\) must be null without"),
        ({"timeout_seconds": 0.0}, r"win_rate.endpoint.timeout_seconds \(=0.0"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        JudgeEndpointConfig(**settings)


def test_a_node_has_one_judge_or_a_reward_model():
    asked = WinRateConfig(endpoint=JudgeEndpointConfig(url="http://localhost/v1", model="m"))

    def check(settings, *names):
        check_judges(
            PlacedNode("win_rate", "win_rate", dict.fromkeys(names), settings), RuntimeConfig()
        )

    check(asked, "baseline", "policy", "prompts")
    check(WinRateConfig(), "rm")
    with pytest.raises(ConfigError, match=r"inputs of node win_rate .* must hold a judge or an rm"):
        check(WinRateConfig(), "baseline")
    with pytest.raises(
        ConfigError, match=r"win_rate.endpoint.url .*nodes.win_rate.inputs.judge=null"
    ):
        check(asked, "judge")
