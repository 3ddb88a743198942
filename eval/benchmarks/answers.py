"""Sampled answers: with their tokens, as a report shows them, and the note on those left out."""

from __future__ import annotations

from typing import Any, NamedTuple

from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Episode


class Answered(NamedTuple):
    """A sampled answer beside its token ids."""

    episode: Episode
    row: TokenRow


def left_out(what: str, num_left_out: int, num_items: int, most_tokens: int) -> list[str]:
    """Return the note on items that did not fit, or none."""
    if num_left_out == 0:
        return []
    return [
        f"{what}: {num_left_out} of {num_items} items are longer than {most_tokens} tokens, all "
        "that the policy's context leaves for them; they are left out whole."
    ]


def sample_row(benchmark: str, condition: str, episode: Episode, **shown: Any) -> dict[str, Any]:
    """Return the row of `samples.jsonl` that shows an episode."""
    return {
        "id": episode.prompt.id,
        "benchmark": benchmark,
        "condition": condition,
        "prompt": episode.prompt.messages[-1].content,
        "passages": list(episode.passages),
        "response": episode.response,
        **shown,
    }
