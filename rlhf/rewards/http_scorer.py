"""A reward behind a URL: `POST` of responses, an answer of as many numbers.

    {"episodes": [{"messages": [{"role": ..., "content": ...}, ...], "passages": [...],
                   "response": "...", "finished": true}, ...]}
    -> {"version": "<reward.http.version>", "scores": [0.3, ...]}

What such a scorer computes is outside of every fingerprint. So its version is part of the config
and must be what it answers; every reply is kept (`replies/<process>.jsonl` beside the rollouts) and
read before anyone is asked, so a resumed run sees the same rewards; and the run is marked as not
reproducible from its config.

How long it is asked again while it is down, and what stops the run:
`plumbrule/lm/endpoints/patient_post.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.records import LARGEST
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import TrainingError
from plumbrule.lm.endpoints.kept_replies import append_rows, files_of, key_of, read_rows
from plumbrule.lm.endpoints.patient_post import Service, headers_with, shown
from plumbrule.lm.parallel import distributed
from plumbrule.protocols import Episode
from rlhf.rewards.config import HTTPConfig
from rlhf.rewards.options import TermInputs

MOST_BYTES, BYTES_PER_SCORE = 2**20, 256
"""Of a reply: a mebibyte, and more where many scores are asked for at once."""


def open_term(given: TermInputs) -> HTTPScorer:
    """Return the scorer of `reward.http`; each process keeps its replies in a file of its own."""
    own = None if given.replies is None else given.replies / f"{distributed.rank()}.jsonl"
    return HTTPScorer(given.settings, own)


class HTTPScorer:
    """A scorer behind `config.url`. kept: file of its replies; None: they are kept in memory.

    Raises: ConfigError: the variable that should hold the token is not set.
    """

    def __init__(self, config: HTTPConfig, kept: Path | None = None):
        self.config, self.kept = config, kept
        self.service = Service(
            name=f"the scorer at {config.url}",
            url=str(config.url),
            section="reward.http",
            timeout_seconds=config.timeout_seconds,
            patience_seconds=config.patience_seconds,
            headers=headers_with(config.token_env, "reward.http"),
        )
        self.known: dict[str, float] = {}
        if kept is not None:
            for path in files_of(kept):
                self.known |= read_replies(path)

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return {"score": (n,) float64}, in the order of `episodes`.

        Raises: TrainingError: the scorer stays away, refuses, or answers in another form.
        """
        bodies = [as_json(episode) for episode in episodes]
        keys = [key_of(self.config.version, body) for body in bodies]
        asked = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self.known}
        new = list(asked)
        size = self.config.batch_size
        for start in range(0, len(new), size):
            part = new[start : start + size]
            self._keep(part, self._ask([asked[key] for key in part]))
        return {"score": np.array([self.known[key] for key in keys], dtype=np.float64)}

    def _keep(self, keys: Sequence[str], scores: Sequence[float]) -> None:
        self.known.update(zip(keys, scores, strict=True))
        if self.kept is not None:
            rows = [{"key": k, "score": score} for k, score in zip(keys, scores, strict=True)]
            append_rows(self.kept, rows)

    def _ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[float]:
        number = len(bodies)
        return self.service.ask(
            json.dumps({"episodes": bodies}).encode(),
            lambda reply: self._read(reply, number),
            MOST_BYTES + BYTES_PER_SCORE * number,
            f"to {number} response(s)",
        )

    def _read(self, reply: bytes, number: int) -> list[float]:
        """Return the scores of a reply. Raises: TrainingError: it is of another form."""
        try:
            answer = parse_json(reply)
            version, scores = answer["version"], answer["scores"]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            why = f" ({error})" if type(error) is ValueError else ""
            raise TrainingError(
                f"the scorer at {self.config.url} must answer "
                f'{{"version": ..., "scores": [...]}}{why}; it answered: {shown(reply)}'
            ) from None
        if version != self.config.version:
            raise TrainingError(
                f"the scorer at {self.config.url} is version {version!r:.60} and must be "
                f"{self.config.version!r} (reward.http.version); start that one, or change the "
                "setting, which begins another run."
            )
        if not isinstance(scores, list) or len(scores) != number or not all(map(_is_score, scores)):
            raise TrainingError(
                f"the scorer at {self.config.url} must answer {number} finite scores, one for "
                f"each response; it answered: {shown(reply)}"
            )
        return [float(score) for score in scores]


def _is_score(value: Any) -> bool:
    """Return whether a value is a number: neither true or false, nor a text that looks like one."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def as_json(episode: Episode) -> dict[str, Any]:
    """Return what a scorer is told of an episode."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in episode.prompt.messages],
        "passages": list(episode.passages),
        "response": episode.response,
        "finished": episode.finished,
    }


def read_replies(path: Path) -> dict[str, float]:
    """Return the scores that a file of replies holds, by their keys."""
    rows = read_rows(path)
    return {row["key"]: float(row["score"]) for row in rows if _is_score(row.get("score"))}
