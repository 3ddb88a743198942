"""Rankings as pairs of token ids, and how likely a policy finds each answer.

An answer becomes the prompt that the policy would be sampled from (passages through its retrieval
template) and the response, with its terminal token where it ended by itself. A pair one of whose
answers does not fit is left out whole and counted: cut anywhere, it would compare other answers
than those that were ranked. So is one with an answer of no token at all: one cut before it began.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plumbrule.data.records import Preference, read_records
from plumbrule.errors import TrainingError
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import (
    efficient_rows,
    response_logprobs,
    token_row,
)
from plumbrule.lm.token_rows import TokenRow

Place = tuple[int, int]
"""A ranking's number in its split, and an answer's place in the ranking."""


class Pair(NamedTuple):
    """A better and a worse answer to one prompt."""

    chosen: Place
    rejected: Place


class PairTokens(NamedTuple):
    """Token ids of a pair, and the reference's log-probs of its responses, nats."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    ref_chosen: float
    ref_rejected: float


class PairSplit(NamedTuple):
    """The rankings of one split; answers[i][k]: answer k of ranking i."""

    preferences: Sequence[Preference]
    answers: list[list[TokenRow]]
    usable: list[list[bool]]
    """Whether an answer fits and has a token."""
    pairs: list[Pair]
    """Those whose answers are both usable."""
    num_too_long: int
    """Pairs that are left out because an answer does not fit."""
    num_empty: int
    """Pairs of answers that fit, left out because one has no token."""

    def used(self) -> dict[Place, TokenRow]:
        """Return the usable answers."""
        return {
            (i, k): self.answers[i][k]
            for i, row in enumerate(self.usable)
            for k, use in enumerate(row)
            if use
        }

    def paired(self) -> dict[Place, TokenRow]:
        """Return the answers that stand in a pair."""
        places = sorted({place for pair in self.pairs for place in pair})
        return {(i, k): self.answers[i][k] for i, k in places}


def read_preferences(paths: Sequence[Path]) -> list[Preference]:
    """Return the rankings in the files `paths`.

    Raises: DataError: a row that breaks the format.
    """
    return [preference for path in paths for preference in read_records(Preference, path)]


def encode_split(
    policy: Policy, preferences: Sequence[Preference], limit_tokens: int, which: str, seed: int
) -> PairSplit:
    """Return rankings as token ids, and their pairs.

    Args: limit_tokens: longest prompt and response together. which, seed: as in `pairs_of`.
    """
    policy.check_chats(preferences)
    answers = [encode_answers(policy, p) for p in preferences]
    fit = [[row.num_tokens <= limit_tokens for row in own] for own in answers]
    usable = [
        [fits and bool(a.response) for a, fits in zip(own, row, strict=True)]
        for own, row in zip(answers, fit, strict=True)
    ]
    every = [
        Pair((i, better), (i, worse))
        for i, p in enumerate(preferences)
        for better, worse in pairs_of(p, which, seed)
    ]
    fitting = [pair for pair in every if all(fit[i][k] for i, k in pair)]
    pairs = [pair for pair in fitting if all(usable[i][k] for i, k in pair)]
    num_too_long, num_empty = len(every) - len(fitting), len(fitting) - len(pairs)
    return PairSplit(preferences, answers, usable, pairs, num_too_long, num_empty)


def examples_of(split: PairSplit, reference: Mapping[Place, float]) -> list[PairTokens]:
    """Return the pairs of a split; reference: log-probs of their answers, nats."""
    found = []
    for better, worse in split.pairs:
        chosen, rejected = (split.answers[i][k] for i, k in (better, worse))
        nats = (reference[better], reference[worse])
        found.append(PairTokens(chosen.prompt, chosen.response, rejected.response, *nats))
    return found


def encode_answers(policy: Policy, preference: Preference) -> list[TokenRow]:
    """Return the token ids of each answer of a ranking."""
    return [
        token_row(policy, preference.messages, preference.passages, response, ended)
        for response, ended in zip(preference.responses, preference.which_finished(), strict=True)
    ]


def pairs_of(preference: Preference, which: str, seed: int) -> list[tuple[int, int]]:
    """Return (better, worse) places: `all` that the ranking orders strictly, or `best_worst`.

    Of several answers that share the first or the last rank, a hash of the seed, the ranking's id
    and the text picks one: neither the order of answers nor that of rankings matters. A ranking of
    ties alone has no pair.
    """
    pairs = preference.pairs()
    if which == "all" or not pairs:
        return pairs

    def key(place: int) -> int:
        return row_key("dpo pair", seed, preference.id, preference.responses[place])

    ranks = preference.ranks
    ends = [[k for k, rank in enumerate(ranks) if rank == end] for end in (1, max(ranks))]
    return [(min(ends[0], key=key), min(ends[1], key=key))]


def answer_logprobs(
    policy: Policy, answers: Sequence[TokenRow], rows_per_pass: int, precision: str = "float32"
) -> list[float]:
    """Return log p(response | prompt) of each answer, nats.

    Raises: TrainingError: one is NaN or Inf.
    """
    size = efficient_rows(policy.model, rows_per_pass)
    found = response_logprobs(policy, answers, size, precision=precision).tolist()
    bad = sum(not math.isfinite(value) for value in found)
    if bad:
        raise TrainingError(
            f"dpo: the policy's log-probs of {bad} answers must be finite; lower "
            "dpo.learning_rate, or start from another policy if it was not trained yet."
        )
    return found
