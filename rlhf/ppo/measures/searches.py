"""What is logged of a rollout whose policy may search: how often, how well, and to what end.

Beside the reward, since a policy's calls break down before its score does: watch the calls per
episode, the malformed ones, and how much of the answers the passages support.
"""

from __future__ import annotations

from collections.abc import Sequence

from plumbrule.grounding.citations import without_citations
from plumbrule.grounding.support import content_words, support
from rlhf.ppo.rollout.trajectory import Trajectory


def search_metrics(trajectory: Trajectory) -> dict[str, float]:
    """Return the `search/*` metrics of one rollout, means over its episodes; {} without searching.

    `search/found_nothing` is a share of the calls, 0 where there are none. `search/support` is the
    share of an answer's content words, its citations aside, that stand in the passages shown; 0
    where none was, or where the answer has no content word; the answer is the last turn.
    """
    if trajectory.searching is None:
        return {}
    episodes, number = trajectory.searching, len(trajectory)
    calls = [call for one in episodes for call in one.calls]
    supported = [
        _support(without_citations(text), passages)
        for text, passages in zip(trajectory.texts, trajectory.passages, strict=True)
    ]
    all_tokens = sum(map(len, trajectory.responses))
    totals = {
        "calls": len(calls),
        "turns": sum(len(one.turns) for one in episodes),
        "malformed": sum(one.malformed for one in episodes),
        "unanswered": sum(one.unanswered for one in episodes),
        "passages": sum(len(call.passages) for call in calls),
        "result_tokens": all_tokens - int(trajectory.action_mask.sum()),
        "support": sum(supported),
    }
    metrics = {f"search/{name}": total / number for name, total in totals.items()}
    empty = sum(not call.passages for call in calls)
    return {**metrics, "search/found_nothing": empty / max(1, len(calls))}


def _support(answer: str, passages: Sequence[str]) -> float:
    """Return 0 for an answer without content words too: of `support` it would be 1."""
    return support(answer, "\n".join(passages)) if passages and content_words(answer) else 0.0
