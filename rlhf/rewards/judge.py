"""The terms `judge` and `rubric`: a language model reads an answer and says what it is worth.

judge   The model is asked for a grade, a whole number of one digit.
rubric  It is asked of each criterion whether it holds. The score is the sum of the weights of those
        that do, over the sum of all weights (0 to 1).

Both ask for one of a few words, each of which has a value: the grades, or 1 for yes and 0 for no.
Whom they ask is `reward.judge_model`:

- A local policy generates nothing. The value is the expected one, sum_w p(w) value(w), over its own
  probabilities of the words as the first ones of its answer, which sum to 1 among them (as the
  scores of G-Eval, Liu et al. 2023, arXiv:2303.16634, which samples to estimate the p(w)). It reads
  text with its own tokenizer and chat template, so it may belong to another family than the policy.
  The same answer gives the same number, in any batch up to rounding.
- An endpoint answers in text (`judge_endpoint.py`), of which the word is read; temperature 0.

An answer without a value (the reply is none of the words, or the question does not fit a local
judge's context) counts `failed_score`, and `failed` counts it. Where all of eight or more questions
asked together fail, the question or the model is wrong, and the run stops. An endpoint that refuses
a question, as most do one that is too long for them, stops it as well.

Beside the score stand the parts that are logged (`reward/<term>/<part>_raw`) and kept with every
response: `failed`, the share of its questions without a value; `prompt_tokens` and `reply_tokens`,
what it cost; of a local judge `word_mass`, how much of its probability the words have together,
which is small where it would rather say something else; of a rubric each criterion.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import logsumexp, softmax

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.judges.answer_likelihood import require_apart, word_logprobs
from plumbrule.lm.judges.questions import conversation, fill
from plumbrule.lm.loading import Policy, resolve_device
from plumbrule.lm.named_policy import load_named
from plumbrule.protocols import Episode
from rlhf.rewards.judge_config import (
    CriterionConfig,
    JudgeModelConfig,
    JudgeTermConfig,
    RubricConfig,
)
from rlhf.rewards.judge_endpoint import EndpointJudge
from rlhf.rewards.options import TermInputs
from rlhf.rewards.verdicts import GradeScale, JudgeModel, JudgeVerdicts, grades, yes_or_no

log = logging.getLogger(__name__)
FEWEST_TO_STOP = 8
"""Questions asked together, none of which got a value, that end a run; of each process its own."""


class LocalJudge:
    """A policy that is read, and generates nothing. batch_size: questions read together."""

    def __init__(self, policy: Policy, batch_size: int):
        self.policy, self.batch_size = policy, batch_size

    def word_ids(self, words: Sequence[str]) -> list[list[int]]:
        """Return the token ids of words as they stand where an answer begins.

        Raises: ConfigError: its tokenizer does not tell them apart.
        """
        ids = [self.policy.encode_response(word, terminal=False) for word in words]
        for i, one in enumerate(ids):
            for other in ids[i + 1 :]:
                require_apart(one, other)
        return ids

    def ask(self, questions: Sequence[str], scale: GradeScale) -> JudgeVerdicts:
        """Return the expected value of each answer; NaN where a question does not fit.

        Raises: DataError: the judge's chat template refuses a user turn.
        """
        words = self.word_ids(scale.words)
        most = self.policy.spec.context - max(map(len, words))
        prompts = [self.policy.encode((Message("user", text),)) for text in questions]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= most]
        nats = word_logprobs(
            self.policy, [prompts[i] for i in fitting], words, max_rows=self.batch_size
        )
        values, mass = np.full(len(prompts), math.nan), np.zeros(len(prompts))
        values[fitting] = softmax(nats, axis=1) @ np.array(scale.values)
        mass[fitting] = np.exp(logsumexp(nats, axis=1))
        read = np.zeros(len(prompts))
        read[fitting] = [len(prompts[i]) for i in fitting]
        lost = len(prompts) - len(fitting)
        example = f"{lost} questions exceed its context of {self.policy.spec.context} tokens"
        return JudgeVerdicts(values, {"prompt_tokens": read, "word_mass": mass}, example)


class GradingJudge:
    """A grade of each answer as a Scorer."""

    def __init__(self, config: JudgeTermConfig, model: JudgeModel):
        self.config, self.model, self.scale = config, model, grades(config)

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return `score`, `failed` and costs, (n,) float64 each, in the order of `episodes`.

        Raises: TrainingError: the endpoint stays away or refuses, or all of eight or more answers
        got no grade.
        """
        bounds = {"lowest": str(self.config.lowest), "highest": str(self.config.highest)}
        asked = [_question(self.config.question, episode, bounds) for episode in episodes]
        verdicts = _ask(self.model, asked, self.scale, "reward.judge")
        failed = np.isnan(verdicts.values)
        score = np.where(failed, self.config.failed, verdicts.values)
        return {"score": score, "failed": failed.astype(np.float64), **verdicts.costs}


class Rubric:
    """The weighted share of the criteria that hold of each answer, as a Scorer."""

    def __init__(self, config: RubricConfig, model: JudgeModel):
        self.config, self.model, self.scale = config, model, yes_or_no(config)

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return `score`, each criterion, `failed` and costs, (n,) float64 each.

        Raises: TrainingError: the endpoint stays away or refuses, or all of eight or more questions
        got no answer.
        """
        criteria = self.config.criteria
        asked = [
            _question(self.config.question, episode, {"criterion": criterion.text.strip()})
            for episode in episodes
            for criterion in criteria
        ]
        verdicts = _ask(self.model, asked, self.scale, "reward.rubric")
        shape = (len(episodes), len(criteria))
        values = verdicts.values.reshape(shape)
        failed = np.isnan(values)
        met = np.where(failed, self.config.failed_score, values)
        parts = {criterion.name: met[:, k] for k, criterion in enumerate(criteria)}
        costs = {name: cost.reshape(shape) for name, cost in verdicts.costs.items()}
        mean = {name: x.mean(1) for name, x in costs.items() if name == "word_mass"}
        total = {name: x.sum(1) for name, x in costs.items() if name not in mean}
        return {
            "score": weighted_share(met, criteria),
            **parts,
            "failed": failed.mean(1),
            **mean,
            **total,
        }


def weighted_share(met: np.ndarray, criteria: Sequence[CriterionConfig]) -> np.ndarray:
    """Return sum_k weight_k met_k / sum_k weight_k, (n,), of met (n, k) from 0 to 1."""
    weights = np.array([criterion.weight for criterion in criteria])
    return np.asarray((met * weights).sum(1) / weights.sum())


def open_judge_term(given: TermInputs) -> GradingJudge:
    """Return the term of `reward.judge`. Raises: ConfigError: its model does not open."""
    scorer = GradingJudge(given.settings, open_model(given))
    _check_words(scorer.model, scorer.scale, "reward.judge.lowest")
    return scorer


def open_rubric_term(given: TermInputs) -> Rubric:
    """Return the term of `reward.rubric`. Raises: ConfigError: its model does not open."""
    scorer = Rubric(given.settings, open_model(given))
    _check_words(scorer.model, scorer.scale, "reward.rubric.words")
    return scorer


def open_model(given: TermInputs) -> JudgeModel:
    """Return the model of `reward.judge_model`, else the node's `judge` input.

    Raises: ConfigError: it does not load, or the endpoint's token is not set.
    """
    config: JudgeModelConfig = given.reward.judge_model
    if config.url is not None:
        return EndpointJudge(config, given.replies)
    policy = load_named(
        config.name_or_path,
        given.inputs.get("judge"),
        "reward.judge_model",
        device=resolve_device(given.runtime),
        revision=config.revision,
        pad_token=config.pad_token,
        precision=config.precision,
    )
    return LocalJudge(policy, config.batch_size)


def _check_words(model: JudgeModel, scale: GradeScale, setting: str) -> None:
    if isinstance(model, LocalJudge):
        try:
            model.word_ids(scale.words)
        except ConfigError as error:
            raise ConfigError(
                f"{setting} (={list(scale.words)}) must be words that the judge's tokenizer tells "
                f"apart; choose others: {error}"
            ) from None


def _question(template: str, episode: Episode, fields: Mapping[str, str]) -> str:
    told = {"prompt": conversation(episode.prompt.messages), "response": episode.response}
    return fill(template, episode.passages, {**told, **fields})


def _ask(model: JudgeModel, asked: Sequence[str], scale: GradeScale, section: str) -> JudgeVerdicts:
    """Return the verdicts; say how many questions got none, and stop where all of several did."""
    verdicts = model.ask(asked, scale)
    failed = int(np.isnan(verdicts.values).sum())
    if failed and failed == len(asked) >= FEWEST_TO_STOP:
        raise TrainingError(
            f"the judge must answer one of {', '.join(scale.words)}, and did so to none of "
            f"{failed} questions ({verdicts.example}); mend {section}.question, or ask another "
            "model."
        )
    if failed:
        log.warning(
            "%s: %d of %d questions got no verdict (%s); each counts %s.failed_score",
            section,
            failed,
            len(asked),
            verdicts.example,
            section,
        )
    return verdicts
