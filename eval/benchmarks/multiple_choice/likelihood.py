"""Given answers, scored by how likely the policy finds each of them after the question.

No text is generated, so there is nothing to parse. The whole answer counts, without a terminal
token: log p(answer | question), in nats. Longer answers are less likely whatever they say, so each
comes with its tokens and its bytes, by which a benchmark may divide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from eval.benchmarks.answers import left_out
from eval.config import EvalConfig
from eval.few_shot import Shot, as_text, as_turns
from plumbrule.data.records import Message

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


class ScoredChoice(NamedTuple):
    """An answer's log-likelihood in nats, its tokens and its UTF-8 bytes."""

    nats: float
    tokens: int
    bytes: int

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def per_byte(self) -> float:
        """Nats per byte, which does not depend on the tokenizer."""
        return self.nats / self.bytes


def prompt_signature(config: EvalConfig) -> str:
    """Return what scores depend on beside the records: how the question is put."""
    return f"prompt:{config.choice_prompt}"


def score_choices(
    subject: Subject,
    questions: Sequence[str],
    choices: Sequence[Sequence[str]],
    what: str,
    shots: Sequence[Sequence[Shot]] | None = None,
) -> tuple[dict[int, list[ScoredChoice]], list[str]]:
    """Return the scored answers of each question that fits, by its place; and notes.

    A question is left out whole where one of its answers does not fit the policy's context.

    Args: choices: the answers to each question. what: name of the work, for progress and notes.
        shots: the examples in front of each question; None: there are none.
    """
    rows: list[tuple[list[int], list[int]]] = []
    owners: list[tuple[int, str]] = []
    too_long = 0
    most = subject.policy.spec.context
    for place, (question, answers) in enumerate(zip(questions, choices, strict=True)):
        examples = () if shots is None else shots[place]
        prompt, texts = _tokens(subject, question, answers, examples)
        if any(len(prompt) + len(text) > most for text in texts):
            too_long += 1
            continue
        rows += [(prompt, text) for text in texts]
        owners += [(place, answer) for answer in answers]
    nats = subject.response_nats(rows, what)
    found: dict[int, list[ScoredChoice]] = {}
    for (place, answer), (_, tokens), value in zip(owners, rows, nats, strict=True):
        scored = ScoredChoice(value, len(tokens), len(answer.encode()))
        found.setdefault(place, []).append(scored)
    return found, left_out(what, too_long, len(questions), most)


def _tokens(
    subject: Subject, question: str, answers: Sequence[str], examples: Sequence[Shot]
) -> tuple[list[int], list[list[int]]]:
    """Return the token ids of the question behind its examples, and of each answer, as
    eval.choice_prompt has it.
    """
    policy = subject.policy
    if subject.config.choice_prompt == "plain":
        prompt = subject.encode_plain(f"{as_text(examples)}Q: {question}\nA:")
        return prompt, [
            policy.tokenizer.encode(f" {answer}", add_special_tokens=False) for answer in answers
        ]
    turns = as_turns(examples, subject.with_passages)
    prompt = policy.encode((*turns, Message("user", question)))
    return prompt, [policy.encode_response(answer, terminal=False) for answer in answers]


def top_share(scores: Sequence[float], right: int) -> float:
    """Return 1 where the right answer alone scores highest, 1 / k where it ties with k - 1, else 0.

    Args: right: its place.
    """
    best = max(scores)
    return 1 / sum(score == best for score in scores) if scores[right] == best else 0.0
