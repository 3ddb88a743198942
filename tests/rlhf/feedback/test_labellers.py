"""Scores into rankings: noise, taste, flips; and a reward as the labeller, through the stage."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from scorer_server import lengths, served
from worlds.rankings import chat, saved_prompts, saved_rankings
from worlds.stages import CPU, run_stage
from worlds.stages import small_feedback as small

from plumbrule.atlas.config import GoldConfig
from plumbrule.atlas.gold import GoldUtility
from plumbrule.data.json_lines import read_rows
from plumbrule.data.records import Preference, Prompt, read_records, write_records
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.protocols import Episode
from plumbrule.store.artifacts import Artifact
from plumbrule.tracking.stage_tracker import NullTracker
from rlhf.feedback import sampling
from rlhf.feedback import stage as feedback
from rlhf.feedback.labellers import gold_terms, noise_of, rank
from rlhf.feedback.rankings import count_agreement, ranks_of, reversed_ranking
from rlhf.feedback.sampling import SampledPrompt, SampledResponse
from rlhf.reward_model import stage as rm
from rlhf.reward_model.config import RMConfig
from rlhf.rewards.config import EnsembleConfig, HTTPConfig, RewardConfig, RewardTermConfig
from rlhf.rewards.functions import _DIGESTS, FUNCTIONS

SAMPLING = SamplingConfig(max_new_tokens=4, batch_size=8)


def question(passages=(), name="q", **meta):
    return SampledPrompt(
        Prompt(name, chat("what is it?"), meta or {"answer": "red"}), "train", passages
    )


def answered(*texts):
    return [SampledResponse(text, True, -1.0, k, 3, 10) for k, text in enumerate(texts)]


def ranked(terms, answers, config, asked=None):
    noise = noise_of(config)
    return rank(asked or question(), answers, terms["score"], terms, noise, config.labeller)


# Scores into a ranking


def test_without_noise_the_ranking_is_that_of_the_scores():
    terms = {"score": [0.5, 2.0, 1.0], "right": [0.0, 1.5, 1.0], "brief": [0.5, 0.5, 0.0]}
    judged = ranked(terms, answered("a", "b", "c"), small(noise=0.0))
    assert judged.preference.ranks == (3, 1, 2)
    assert judged.preference.scores == (0.5, 2.0, 1.0)
    assert judged.preference.utilities == (0.5, 2.0, 1.0)
    assert judged.preference.terms == {"right": (0.0, 1.5, 1.0), "brief": (0.5, 0.5, 0.0)}
    assert judged.preference.meta["answer"] == "red"
    assert judged.preference.flipped is None


def test_scores_rank_and_the_truth_goes_along():
    truth = {"score": [3.0, 2.0, 1.0], "right": [3.0, 2.0, 1.0]}
    config = small(labeller="rm", noise=0.0)
    judged = rank(
        question(), answered("a", "b", "b"), [0.1, 0.2, 0.2], truth, noise_of(config), "rm"
    )
    assert judged.scores == [0.1, 0.2, 0.2]
    assert judged.utilities == [3.0, 2.0, 1.0]
    assert judged.preference.ranks == (2, 1)
    assert judged.preference.scores == (0.1, 0.2)
    assert judged.preference.annotator == "rm"
    assert judged.preference.utilities == (3.0, 2.0)


def test_equal_answers_are_merged_before_ranking():
    judged = ranked({"score": [1.0, 1.0, 3.0]}, answered("a", "a", "b"), small(noise=0.0))
    assert judged.preference.responses == ("a", "b")
    assert judged.preference.ranks == (2, 1)
    assert judged.utilities == [1.0, 1.0, 3.0]


def test_equal_answers_alone_and_unknown_scores_give_no_preference():
    assert ranked({"score": [1.0, 1.0]}, answered("a", "a"), small()).preference is None
    judged = rank(
        question(), answered("a", "b"), None, {"score": [1.0, 2.0]}, noise_of(small()), "gold"
    )
    assert judged == (None, [1.0, 2.0], None)


def test_length_taste_is_per_ten_words():
    # 0 + 0.8 * 5 / 10 = 0.4 against 0.3 + 0.8 * 1 / 10 = 0.38: the taste turns the order round
    config = small(noise=0.0, length_taste=0.8)
    judged = ranked({"score": [0.0, 0.3]}, answered("one two three four five", "one"), config)
    assert judged.preference.scores == pytest.approx((0.4, 0.38))
    assert judged.preference.ranks == (1, 2)
    assert judged.preference.utilities == (0.0, 0.3)


def test_noise_has_the_stated_deviation_and_belongs_to_its_answer():
    terms = {"score": [0.0] * 4}
    config = small(noise=2.0)
    drawn = []
    for i in range(300):
        asked = question(name=f"q{i}")
        drawn += ranked(terms, answered("a", "b", "c", "d"), config, asked).preference.scores
    # 1200 draws: mean within 4 * 2 / sqrt(1200) = 0.23, deviation within 4 * 2 / sqrt(2400) = 0.16
    assert sum(drawn) / 1200 == pytest.approx(0.0, abs=0.23)
    assert (sum(x * x for x in drawn) / 1200) ** 0.5 == pytest.approx(2.0, abs=0.16)
    again = ranked({"score": [0.0, 0.0]}, answered("a", "b"), config).preference.scores
    more = ranked({"score": [0.0] * 3}, answered("a", "b", "c"), config)
    assert more.preference.scores[:2] == again


def test_only_the_gold_utility_has_noise_unless_told_so():
    deviations = {name: small(labeller=name).noise_deviation for name in ("gold", "rm", "judge")}
    assert deviations == {"gold": 0.1, "rm": 0.0, "judge": 0.0}
    assert small(labeller="rm", noise=0.5).noise_deviation == 0.5


def test_a_prompt_s_meta_does_not_pass_for_what_is_known_of_answers(tmp_path):
    """Neither in the ranking nor once it is written and read again."""
    asked = question(finished=[True] * 7, utilities=[1.0] * 7, flipped=True, group="g")
    made = rank(asked, answered("a", "b"), [0.0, 1.0], None, noise_of(small()), "gold").preference
    write_records([made], tmp_path / "rows.jsonl")
    for ranking in (made, *read_records(Preference, tmp_path / "rows.jsonl")):
        assert ranking.meta == asked.prompt.meta
        assert ranking.finished == (True, True)
        assert (ranking.utilities, ranking.terms, ranking.flipped) == (None, None, None)


def test_the_truth_is_known_where_a_prompt_names_its_answer():
    asked = [question(), question(group="g")]
    rows = [answered("red", "blue"), answered("red", "blue")]
    known, unknown = gold_terms(asked, rows, small().gold, every=False)
    assert unknown is None
    wanted = GoldUtility(GoldConfig()).score(
        [Episode(asked[0].prompt, (), text, True) for text in ("red", "blue")]
    )
    assert known == {term: values.tolist() for term, values in wanted.items()}
    assert None not in gold_terms(asked, rows, small().gold, every=True)


# Flips


@pytest.mark.parametrize(
    ("ranks", "turned"), [((1, 2, 3), (3, 2, 1)), ((1, 1, 2), (2, 2, 1)), ((1, 1), (1, 1))]
)
def test_upside_down_by_hand(ranks, turned):
    assert reversed_ranking(ranks) == turned


def flipped(share, number=400, **settings):
    terms = {"score": [0.0, 1.0, 2.0]}
    config = small(flipped=share, **settings)
    asked = [question(name=f"q{i}") for i in range(number)]
    return [ranked(terms, answered("a", "b", "c"), config, q).preference for q in asked]


def test_a_share_of_rankings_is_turned_upside_down():
    plain, quarter, half = (flipped(share) for share in (0.0, 0.25, 0.5))
    for before, after in zip(plain, quarter, strict=True):
        turned = after.flipped
        assert after.ranks == (reversed_ranking(before.ranks) if turned else before.ranks)
        assert after.ranks == ranks_of(after.scores)  # scores follow
        assert after.scores == tuple(-s if turned else s for s in before.scores)
        assert after.utilities == before.utilities
    # 400 coins: 100 +- 4 * sqrt(75)
    assert sum(p.flipped for p in quarter) == pytest.approx(100, abs=35)
    assert all(h.flipped for q, h in zip(quarter, half, strict=True) if q.flipped)
    other = flipped(0.25, seed=1)
    assert [p.flipped for p in other] != [p.flipped for p in quarter]
    assert flipped(0.25) == quarter


def test_with_two_answers_a_share_of_all_pairs_is_wrong():
    config = small(flipped=0.25, noise=0.0)
    asked = [question(name=f"q{i}") for i in range(400)]
    wrong = [
        ranked({"score": [0.0, 1.0]}, answered("a", "b"), config, q).preference.ranks == (1, 2)
        for q in asked
    ]
    assert sum(wrong) == pytest.approx(100, abs=35)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"flipped": 0.6}, r"feedback\.flipped \(=0\.6\) must lie in \[0, 0\.5\]"),
        ({"flipped": -0.1}, r"feedback\.flipped"),
        ({"flipped": 0.1, "labeller": "person"}, "be 0 with feedback.labeller=person"),
        ({"noise": -1.0}, r"feedback\.noise \(=-1\.0\) must be at least 0"),
        ({"labeller": "rmm"}, "feedback.labeller"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        small(**settings)


# A reward as the labeller


build = partial(run_stage, feedback.run)


@pytest.fixture(scope="module")
def given(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward-models")
    rankings = Artifact.of(saved_rankings(folder / "rankings", 20, 8), "data")
    inputs = {"policy": given["policy"], "preferences": rankings}
    models = {}
    for slot, seed in (("rm", 0), ("rm_1", 1)):
        settings = RMConfig(seed=seed, batch_size=5, sampling=SAMPLING, num_calibration_prompts=16)
        run_stage(rm.run, settings, inputs, folder / slot)
        opener = "rlhf.reward_model.model:open_reward"
        models[slot] = Artifact.of(folder / slot, "rm", opener=opener)
    return {**given, **models}


def one_rm(given):
    return {slot: artifact for slot, artifact in given.items() if slot != "rm_1"}


def rankings_of(out: Path) -> list[Preference]:
    names = ("records.jsonl", "validation.jsonl")
    return [p for name in names for p in read_records(Preference, out / name)]


def samples_of(out: Path) -> list[dict]:
    return [row for _, row in read_rows(out / "samples.jsonl")]


def notes_of(out: Path) -> list[str]:
    return json.loads((out / "notes.json").read_text("utf-8"))


def scored(artifacts, preference) -> list[list[float]]:
    prompt = Prompt(preference.id, preference.messages)
    episodes = [
        Episode(prompt, preference.passages, text, ended)
        for text, ended in zip(preference.responses, preference.finished, strict=True)
    ]
    return [a.open(CPU).score(episodes)["score"].tolist() for a in artifacts]


def test_a_reward_model_ranks_and_the_truth_measures_it(given, tmp_path):
    metrics = build(small(labeller="rm"), one_rm(given), tmp_path / "rm")
    build(small(), one_rm(given), tmp_path / "gold")
    ours, gold = rankings_of(tmp_path / "rm"), rankings_of(tmp_path / "gold")
    assert len(ours) == len(gold) > 0
    same = compared = 0
    for preference, by_gold in zip(ours, gold, strict=True):
        (wanted,) = scored([given["rm"]], preference)
        assert preference.scores == pytest.approx(wanted, abs=1e-5)
        assert preference.ranks == ranks_of(preference.scores)
        assert preference.annotator == "rm"
        assert preference.responses == by_gold.responses
        assert preference.utilities == by_gold.utilities
        assert preference.terms == by_gold.terms
        found = count_agreement(by_gold.utilities, preference.ranks)
        same, compared = same + found[0], compared + found[1]
    assert metrics.get("feedback/agreement", 0.0) == (same / compared if compared else 0.0)
    by_gold = samples_of(tmp_path / "gold")
    for row, other in zip(samples_of(tmp_path / "rm"), by_gold, strict=True):
        assert row["score"] != other["score"]
        assert {**row, "score": 0} == {**other, "score": 0}  # the same words, utilities and meta
    assert notes_of(tmp_path / "rm") == notes_of(tmp_path / "gold")


def test_of_an_ensemble_the_lowest_score_ranks(given, tmp_path):
    reward = RewardConfig(ensemble=EnsembleConfig(rule="worst"))
    build(small(labeller="rm", reward=reward), given, tmp_path)
    for preference in rankings_of(tmp_path):
        both = scored([given["rm"], given["rm_1"]], preference)
        wanted = [min(pair) for pair in zip(*both, strict=True)]
        assert preference.scores == pytest.approx(wanted, abs=1e-5)


def test_rules_of_text_rank_too_and_read_what_the_prompt_says(given, tmp_path, monkeypatch):
    def unlike(episodes):
        return [-float(e.response[:1] == e.prompt.meta["answer"][0]) for e in episodes]

    monkeypatch.setitem(FUNCTIONS, "unlike", unlike)
    monkeypatch.setitem(_DIGESTS, "unlike", "of a plug-in")
    reward = RewardConfig([RewardTermConfig("length", -1.0), RewardTermConfig("unlike", 100.0)])
    inputs = {slot: given[slot] for slot in ("policy", "prompts")}
    build(small(labeller="rm", reward=reward), inputs, tmp_path)
    for preference in rankings_of(tmp_path):
        episodes = [Episode(Prompt("p", chat("?")), (), t, True) for t in preference.responses]
        words = FUNCTIONS["length"](episodes)
        wanted = [
            -n - 100.0 * (text[:1] == "r")
            for n, text in zip(words, preference.responses, strict=True)
        ]
        assert preference.scores == pytest.approx(wanted)


def test_without_a_known_answer_there_is_no_truth(given, tmp_path):
    folder = saved_prompts(tmp_path / "prompts", 6, 2)
    for name in ("records.jsonl", "validation.jsonl"):
        rows = [row for _, row in read_rows(folder / name)]
        bare = [{k: v for k, v in row.items() if k != "meta"} for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in bare), "utf-8")
    inputs = {**one_rm(given), "prompts": Artifact.of(folder, "data")}
    metrics = build(small(labeller="rm"), inputs, tmp_path / "out")
    assert not {"feedback/utility", "feedback/agreement"} & set(metrics)
    assert "feedback/prompts_cant_say" not in metrics
    for preference in rankings_of(tmp_path / "out"):
        assert preference.meta == {}
        assert (preference.utilities, preference.terms) == (None, None)
    assert {row["utility"] for row in samples_of(tmp_path / "out")} == {None}
    assert None not in {row["score"] for row in samples_of(tmp_path / "out")}


def test_replies_of_a_scorer_behind_a_url_are_kept_and_said(given, tmp_path):
    inputs = {slot: given[slot] for slot in ("policy", "prompts")}
    with served(lengths) as (url, seen):
        http = HTTPConfig(url=url, version="7", patience_seconds=0.5)
        reward = RewardConfig([RewardTermConfig("http")], http=http)
        build(small(labeller="rm", reward=reward), inputs, tmp_path)
        asked = len(seen)
        build(small(labeller="rm", reward=reward), inputs, tmp_path)
        assert len(seen) == asked > 0  # a resumed stage reads the replies
    for preference in rankings_of(tmp_path):
        assert preference.scores == tuple(float(len(text)) for text in preference.responses)
    assert any("not reproducible from its config" in note for note in notes_of(tmp_path))


def test_a_reward_model_that_is_wrong_costs_no_sampling(given, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "sample_chunk", None)
    copy = shutil.copytree(given["rm"].path, tmp_path / "rm")
    stats = json.loads((copy / "reward_stats.json").read_text("utf-8"))
    (copy / "reward_stats.json").write_text(json.dumps(stats | {"append_terminal": False}))
    inputs = {**one_rm(given), "rm": Artifact.of(copy, "rm", opener=given["rm"].opener)}
    with pytest.raises(ConfigError, match=r"append_terminal \(=False\) must be true"):
        build(small(labeller="rm"), inputs, tmp_path / "out")


def test_a_reward_that_is_not_a_number_is_named(given, tmp_path, monkeypatch):
    monkeypatch.setitem(FUNCTIONS, "length", lambda episodes: [float("nan") for _ in episodes])
    monkeypatch.setitem(_DIGESTS, "length", "of a plug-in")
    config = small(labeller="rm", reward=RewardConfig([RewardTermConfig("length")]))
    with pytest.raises(TrainingError, match="reward term length must be finite"):
        build(config, given, tmp_path)


def test_flips_turn_rankings_and_nothing_else(given, tmp_path):
    inputs = {slot: given[slot] for slot in ("policy", "prompts")}
    build(small(noise=0.0), inputs, tmp_path / "plain")
    metrics = build(small(noise=0.0, flipped=0.5), inputs, tmp_path / "flipped")
    samples = "samples.jsonl"
    plain, turned = (tmp_path / name / samples for name in ("plain", "flipped"))
    assert plain.read_bytes() == turned.read_bytes()
    flips = [p.flipped for p in rankings_of(tmp_path / "flipped")]
    assert metrics["feedback/flipped"] == sum(flips) / len(flips)
    for before, after in zip(
        rankings_of(tmp_path / "plain"), rankings_of(tmp_path / "flipped"), strict=True
    ):
        wanted = reversed_ranking(before.ranks) if after.flipped else before.ranks
        assert after.ranks == wanted
        assert (
            dataclasses.replace(after, flipped=None, ranks=before.ranks, scores=before.scores)
            == before
        )


def test_a_student_learns_from_a_reward_model_s_rankings(given, tmp_path):
    build(small(labeller="rm", noise=0.0), one_rm(given), tmp_path / "labels")
    (tmp_path / "student").mkdir()
    source = Artifact.of(tmp_path / "labels", "feedback")
    settings = RMConfig(num_train_epochs=1.0, batch_size=5, num_calibration_prompts=8)
    inputs = {"policy": given["policy"], "preferences": source}
    metrics = rm.run(settings, inputs, CPU, tmp_path / "student", NullTracker())
    assert 0.0 <= metrics["rm/accuracy"] <= 1.0
