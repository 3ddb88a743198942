"""A language model as a judge: which of two answers is better, by the log-odds of A and B.

The judge is shown the question and both answers, once in each order, and says how much likelier A
is than B after the prompt; nothing is generated, so there is no verdict that can't be read. The
preference for an answer is the mean over both orders. An answer's score is its mean preference over
the ranking's other answers, in nats, so all formulas of scores hold for judges too.

`first_share` is how often the answer that stands first is preferred, over both orders of each pair:
0.5 without a position bias. `contradicts` is the share of pairs whose two orders prefer different
answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.reward_models.rankings import Tested
from plumbrule.data.records import Message, Preference
from plumbrule.lm.judges.answer_likelihood import log_odds
from plumbrule.lm.judges.questions import conversation, fill
from plumbrule.lm.policy import Policy
from plumbrule.protocols import Tracker

QUESTION = (
    "Two assistants answered the same request. Which answer is better: the one that is right, "
    "follows the request and is clear? Say A or B.\n\nRequest:\n{request}\n\n"
    "Answer A:\n{a}\n\nAnswer B:\n{b}"
)

WORD_TOKENS = 4
"""Room that is left for the verdict."""


class PairwiseJudge:
    """A policy that is asked which answer is better."""

    def __init__(self, policy: Policy, micro_batch_size: int, tracker: Tracker):
        self.policy, self.micro_batch_size, self.tracker = policy, micro_batch_size, tracker

    def fits(self, ranking: Tested) -> bool:
        """Return whether the question and any two answers of a ranking fit the judge's context."""
        preference, most = ranking.preference, self.policy.spec.context - WORD_TOKENS
        places = range(len(preference.responses))
        return all(
            len(self._prompt(preference, a, b)) <= most for a in places for b in places if b < a
        )

    def scores(self, rankings: Sequence[Tested]) -> tuple[list[list[float]], list[dict[str, Any]]]:
        """Return each ranking's scores, and a row per pair with `first_share` and `contradicts`."""
        pairs = [
            (place, a, b)
            for place, one in enumerate(rankings)
            for a in range(len(one.preference.responses))
            for b in range(a)
        ]
        odds = self._odds([(rankings[place], a, b) for place, a, b in pairs])
        scores = [[0.0] * len(one.preference.responses) for one in rankings]
        rows = []
        for (place, a, b), (forward, backward) in zip(pairs, odds, strict=True):
            others = len(scores[place]) - 1
            preferred = (forward - backward) / 2
            scores[place][a] += preferred / others
            scores[place][b] -= preferred / others
            firsts = [(x > 0) + (x == 0) / 2 for x in (forward, backward)]
            rows.append(
                {
                    "id": f"{rankings[place].preference.id}/{a}:{b}",
                    "group": rankings[place].group,
                    "first_share": sum(firsts) / 2,
                    "contradicts": int(forward * backward > 0),
                }
            )
        return scores, rows

    def scores_alone(self, rankings: Sequence[Tested]) -> list[list[float]]:
        """Return the scores of `scores`."""
        return self.scores(rankings)[0]

    def _odds(self, pairs: Sequence[tuple[Tested, int, int]]) -> list[tuple[float, float]]:
        """Return log p(A) - log p(B) of each pair, in the given order and in the other."""
        policy = self.policy
        one, other = (policy.encode_response(word, terminal=False) for word in ("A", "B"))
        prompts = [
            self._prompt(ranking.preference, *order)
            for ranking, a, b in pairs
            for order in ((a, b), (b, a))
        ]
        with self.tracker.progress(len(prompts), "judge", "questions") as line:
            found = log_odds(
                policy,
                prompts,
                one,
                other,
                max_rows=self.micro_batch_size,
                advance=line.advance,
            )
        return [(float(x), float(y)) for x, y in zip(found[::2], found[1::2], strict=True)]

    def _prompt(self, preference: Preference, a: int, b: int) -> list[int]:
        filled = {"request": conversation(preference.messages)}
        filled |= {"a": preference.responses[a], "b": preference.responses[b]}
        turn = fill(QUESTION, (), filled)
        return self.policy.encode((Message("user", turn),), preference.passages)
