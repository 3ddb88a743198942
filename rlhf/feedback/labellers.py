"""Who ranks a policy's answers, and how scores become a ranking.

gold          the utility of the generated world, so that what the rankings say falsely is known
rm            a reward, from one reward model to a stack of terms (`rlhf/rewards/terms.py`):
              rankings by the model that others are measured by, as in Gao et al. 2022
              (arXiv:2210.10760)
judge         a language model (`judge.py`)
person, file  people (`people/`), who rank and give no scores

From the scores of the first three a ranking is made in the same way:

1. A person is not a function: normal noise, keyed per answer, and a planted taste for length are
   added to the scores.
2. Answers are ranked by the sum; those within `tie_width` tie. Answers of equal text are one
   answer, and a prompt whose answers are all equal is not ranked.
3. A share `flipped` of the rankings, keyed per prompt, is reversed. With two answers that
   is the label noise of Coste et al. 2023 (arXiv:2310.02743), who flip a quarter of all pairs; with
   more, the pairs of one prompt turn together. Scores change their sign, so that they follow the
   ranks.

Whatever the labeller, the gold utilities and their terms without noise go along in each ranking
(`utilities`, `terms`) where a prompt names its answer, for measurement only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plumbrule.atlas.config import GoldConfig
from plumbrule.atlas.gold import GoldUtility
from plumbrule.data.records import Preference
from plumbrule.lm.loading import Policy
from plumbrule.lm.randomness import generator
from plumbrule.protocols import Scorer, Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CHECKPOINTS, JUDGEMENTS, PEOPLES_LABELS, QUESTIONS, REPLIES
from rlhf.feedback import judge
from rlhf.feedback.config import PEOPLE, FeedbackConfig, JudgeConfig
from rlhf.feedback.people import asking
from rlhf.feedback.people.judgements import read_file, write_file
from rlhf.feedback.people.questions import in_asking_order, question_of, write_questions
from rlhf.feedback.people.verdicts import verdicts
from rlhf.feedback.rankings import ranks_of, reversed_ranking
from rlhf.feedback.sampling import SampledPrompt, SampledResponse, distinct, episodes_of
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.scored_answers import AnsweredPrompt, score_answers
from rlhf.rewards.terms import open_terms

Terms = Mapping[str, Sequence[float]]
"""Of one question's K answers: "score" and the terms it is the sum of, (K,) each, without noise."""


class Judged(NamedTuple):
    """What is known of one question's K answers.

    scores: (K,) of the labeller, without noise; None where people judge or a judge could not.
    utilities: (K,) gold, without noise; None where they are not known. preference: of the distinct
    answers; None where all are equal or no one could say.
    """

    scores: list[float] | None
    utilities: list[float] | None
    preference: Preference | None


class Labels(NamedTuple):
    """What a labeller made of all questions; metrics and notes are of the labeller itself."""

    judged: list[Judged]
    metrics: dict[str, float]
    notes: list[str]


def check_labeller(
    config: FeedbackConfig, inputs: Mapping[str, Artifact], runtime: RuntimeConfig
) -> None:
    """Open what the labeller needs and let it go: what is wrong with it then costs no sampling.

    Raises: ConfigError: a reward or judge that does not open. DataError: a row of the file of
    judgements that is wrong by itself.
    """
    if config.labels is not None:
        read_file(Path(config.labels))
    elif config.labeller == "rm":
        open_terms(config.reward, inputs, runtime)
    elif config.labeller == "judge":
        judge.open_judge(config.judge, inputs, runtime)


def label(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    config: FeedbackConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Labels:
    """Return a ranking of every question's answers by the labeller that `config` names.

    Raises: NeedsInput: people have not judged all questions yet. DataError: labels of a file break
    a rule, or nothing fits the judge's context. ConfigError: a reward or judge that does not open.
    TrainingError: a reward term raises, or gives NaN or Inf.
    """
    if config.labeller in PEOPLE:
        return by_people(questions, answers, config, out)
    every = config.labeller == "gold"
    truths = gold_terms(questions, answers, config.gold, every=every)
    scores: Sequence[Sequence[float] | None]
    metrics: dict[str, float] = {}
    notes: list[str] = []
    if config.labeller == "gold":
        scores = [None if truth is None else truth["score"] for truth in truths]
    elif config.labeller == "rm":
        scorers = open_terms(config.reward, inputs, runtime, out / REPLIES)
        scores = by_reward(questions, answers, config.reward, scorers, tracker)
        notes = config.reward.notes()
    else:
        model = judge.open_judge(config.judge, inputs, runtime)
        scores, metrics, notes = by_judge(questions, answers, config.judge, model, out, tracker)
    noise = noise_of(config)
    judged = [
        rank(*one, noise, config.labeller)
        for one in zip(questions, answers, scores, truths, strict=True)
    ]
    return Labels(judged, metrics, notes)


def gold_terms(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    gold: GoldConfig,
    *,
    every: bool,
) -> list[Terms | None]:
    """Return what the gold utility makes of each question's answers.

    Args: every: of every question, for labeller=gold; else None where a prompt names no answer,
    since brevity and courtesy, all that it then knows, are no truth to measure a labeller by.
    """
    known = [every or "answer" in q.prompt.meta for q in questions]
    rows = [row for row, is_known in zip(answers, known, strict=True) if is_known]
    asked = [q for q, is_known in zip(questions, known, strict=True) if is_known]
    episodes = [e for q, row in zip(asked, rows, strict=True) for e in episodes_of(q, row)]
    found = GoldUtility(gold).score(episodes)
    values = {term: iter(column.tolist()) for term, column in found.items()}
    return [
        {term: [next(column) for _ in row] for term, column in values.items()} if is_known else None
        for row, is_known in zip(answers, known, strict=True)
    ]


def by_reward(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    reward: RewardConfig,
    scorers: Mapping[str, Scorer],
    tracker: Tracker,
) -> list[list[float]]:
    """Return the reward (K,) of each question's answers.

    A term that is normalised by its batch is normalised over all answers.
    Args: scorers: of the reward's terms (`open_terms`).
    """
    answered = [
        AnsweredPrompt(
            question.prompt,
            question.passages,
            tuple(a.response for a in row),
            tuple(a.finished for a in row),
            None,
            tuple(a.searching for a in row),
        )
        for question, row in zip(questions, answers, strict=True)
    ]
    return [s.tolist() for s in score_answers(answered, scorers, reward, tracker)]


def by_judge(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    config: JudgeConfig,
    model: Policy,
    out: Path,
    tracker: Tracker,
) -> tuple[list[list[float] | None], dict[str, float], list[str]]:
    """Return the scores (K,) of each question's answers by a language model, its metrics and notes.

    None where all answers are equal or two of them are too long for it. Writes `judgements.jsonl`.
    """
    folder = out / CHECKPOINTS / "judge"
    votes = judge.vote_on_all(model, questions, answers, config, folder, tracker)
    judge.write_votes(out / JUDGEMENTS, questions, votes)
    scores = [
        judge.scores_of(own, row) if own else None for own, row in zip(votes, answers, strict=True)
    ]
    num_too_long = sum(own is None for own in votes)
    metrics = judge.measure(votes) | {"feedback/prompts_not_judged": float(num_too_long)}
    note = (
        f"{num_too_long} prompts were not ranked: two of their answers do not fit the judge's "
        f"context of {model.spec.context} tokens."
    )
    return scores, metrics, [note] if num_too_long else []


class LabelNoise(NamedTuple):
    """What is done to scores and rankings on purpose."""

    seed: int
    deviation: float
    """Of the normal noise on a score."""
    length_taste: float
    """Added to a score per ten words."""
    tie_width: float
    """Scores closer than this are tied."""
    flipped: float
    """Share of the rankings that is reversed."""


def noise_of(config: FeedbackConfig) -> LabelNoise:
    """Return the noise that a config asks for."""
    return LabelNoise(
        config.seed,
        config.noise_deviation,
        config.length_taste,
        config.tie_width,
        config.flipped,
    )


def rank(
    question: SampledPrompt,
    answers: Sequence[SampledResponse],
    scores: Sequence[float] | None,
    truth: Terms | None,
    noise: LabelNoise,
    annotator: str,
) -> Judged:
    """Rank one question's distinct answers by noisy score: steps 1 to 3 above.

    Args: scores: (K,), without noise; None: not known, and there is no ranking.
    """
    utilities = None if truth is None else list(truth["score"])
    if scores is None:
        return Judged(None, utilities, None)
    kept = distinct(answers)
    if len(kept) < 2:
        return Judged(list(scores), utilities, None)
    noisy = []
    for k in kept:
        error = generator("label", noise.seed, question.prompt.id, k).normal()
        words = len(answers[k].response.split())
        added = error * noise.deviation
        noisy.append(scores[k] + added + noise.length_taste * words / 10)
    ranks = ranks_of(noisy, noise.tie_width)
    flipped = None
    if noise.flipped:
        drawn = float(generator("flip", noise.seed, question.prompt.id).random())
        flipped = drawn < noise.flipped
    if flipped:
        ranks, noisy = reversed_ranking(ranks), [-score for score in noisy]
    preference = Preference(
        id=question.prompt.id,
        messages=question.prompt.messages,
        responses=tuple(answers[k].response for k in kept),
        ranks=ranks,
        passages=question.passages,
        scores=tuple(noisy),
        annotator=annotator,
        finished=tuple(answers[k].finished for k in kept),
        utilities=None if truth is None else tuple(truth["score"][k] for k in kept),
        terms=None if truth is None else terms_of(truth, kept),
        flipped=flipped,
        meta=question.prompt.meta,
    )
    return Judged(list(scores), utilities, preference)


def terms_of(truth: Terms, kept: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """Return the terms of the utility, without the sum, of the answers at the places `kept`."""
    return {
        name: tuple(values[k] for k in kept) for name, values in truth.items() if name != "score"
    }


def by_people(
    questions: Sequence[SampledPrompt],
    answers: Sequence[Sequence[SampledResponse]],
    config: FeedbackConfig,
    out: Path,
) -> Labels:
    """Return what people made of each question's answers, and metrics of the people.

    Writes the questions and the judgements that were used, of those who judged all, beside the
    rankings. Raises: NeedsInput, or DataError for a file: fewer people than wanted have.
    """
    places = [distinct(row) for row in answers]
    wanted = [
        question_of(q.prompt.messages, q.passages, [row[k].response for k in kept])
        if len(kept) > 1
        else None
        for q, row, kept in zip(questions, answers, places, strict=True)
    ]
    asked = in_asking_order([w for w in wanted if w is not None], config.repeats)
    if config.labels is None:
        said = asking.of_people(asked, config.annotators, out)
    else:
        said = asking.of_file(asked, config.annotators, Path(config.labels))
    made = verdicts(asked, said)
    judged, unsaid = [], 0
    for question, row, kept, one in zip(questions, answers, places, wanted, strict=True):
        ranking = None if one is None else made.rankings.get(one.id)
        unsaid += one is not None and ranking is None
        if ranking is not None:
            ranking = dataclasses.replace(
                ranking,
                id=question.prompt.id,
                finished=tuple(row[k].finished for k in kept),
                meta={**question.prompt.meta, **ranking.meta, "question_id": ranking.id},
            )
        judged.append(Judged(None, None, ranking))
    write_questions(asked, out / QUESTIONS)
    write_file([own[q.id] for own in said.values() for q in asked], out / PEOPLES_LABELS)
    note = f"{unsaid} prompts were not ranked: no annotator could say which is better."
    metrics = {"feedback/prompts_cant_say": float(unsaid), **made.metrics}
    return Labels(judged, metrics, [note] if unsaid else [])
