"""A reward behind a URL: `POST` of responses, an answer of as many numbers.

    {"episodes": [{"messages": [{"role": ..., "content": ...}, ...], "passages": [...],
                   "response": "...", "finished": true}, ...]}
    -> {"version": "<reward.http.version>", "scores": [0.3, ...]}

What such a scorer computes is outside of every fingerprint. So its version is part of the config
and must be what it answers; every reply is kept (`replies/<process>.jsonl` beside the rollouts) and
read before anyone is asked, so a resumed run sees the same rewards; and the run is marked as not
reproducible from its config.

A scorer that is down, slow or overloaded (no connection, no whole reply in `timeout_seconds`,
status 429 or 5xx) is asked again after 1, 2, 4, ... at most 15 seconds, until `patience_seconds`
have passed; then the run stops, and the same command goes on from its newest checkpoint. Any other
status, and a reply of another form or without end, stops it at once; redirects are not followed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import urllib.error
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from plumbrule.data.records import LARGEST
from plumbrule.data.strict_json import parse_json
from plumbrule.errors import ConfigError, TrainingError
from plumbrule.protocols import Episode
from plumbrule.store.content_digests import is_as_written, with_digest
from rlhf.rewards.bounded_post import CutOffError, post
from rlhf.rewards.config import HTTPConfig, RewardConfig

log = logging.getLogger(__name__)
LONGEST_PAUSE = 15.0
"""Seconds between two tries."""
SHOWN_CHARACTERS = 200
"""Of a reply that is refused."""
MOST_BYTES, BYTES_PER_SCORE = 2**20, 256
"""Of a reply: a mebibyte, and more where many scores are asked for at once."""


class HTTPScorer:
    """A scorer behind `config.url`. kept: file of its replies; None: they are kept in memory.

    Raises: ConfigError: the variable that should hold the token is not set.
    """

    def __init__(self, config: HTTPConfig, kept: Path | None = None):
        self.config, self.kept = config, kept
        self.headers = {"Content-Type": "application/json"}
        if config.token_env is not None:
            token = os.environ.get(config.token_env)
            if not token:
                raise ConfigError(
                    f"reward.http.token_env (={config.token_env}) must name an environment "
                    "variable that is set; set it, or leave the setting out."
                )
            if not (token.isascii() and token.isprintable()):
                raise ConfigError(
                    f"the value of {config.token_env} (reward.http.token_env) must be one line of "
                    "plain letters; set it without line breaks."
                )
            self.headers["Authorization"] = f"Bearer {token}"
        self.known: dict[str, float] = {}
        if kept is not None:  # those of all processes, which may have been more
            for path in sorted(kept.parent.glob("*.jsonl")):
                self.known |= read_replies(path)

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return {"score": (n,) float64}, in the order of `episodes`.

        Raises: TrainingError: the scorer stays away, refuses, or answers in another form.
        """
        bodies = [as_json(episode) for episode in episodes]
        keys = [self._key(body) for body in bodies]
        asked = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self.known}
        new = list(asked)
        size = self.config.batch_size
        for start in range(0, len(new), size):
            part = new[start : start + size]
            self._keep(part, self._ask([asked[key] for key in part]))
        return {"score": np.array([self.known[key] for key in keys], dtype=np.float64)}

    def _key(self, body: Mapping[str, Any]) -> str:
        text = json.dumps([self.config.version, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _keep(self, keys: Sequence[str], scores: Sequence[float]) -> None:
        self.known.update(zip(keys, scores, strict=True))
        if self.kept is not None:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            with open(self.kept, "a", encoding="utf-8") as file:
                file.write("\n")  # the last line may have been cut off
                for key, score in zip(keys, scores, strict=True):
                    row = with_digest({"key": key, "score": score})
                    file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def _ask(self, bodies: Sequence[Mapping[str, Any]]) -> list[float]:
        data = json.dumps({"episodes": bodies}).encode()
        begun, pause = time.monotonic(), 1.0
        while True:
            try:
                reply = post(
                    str(self.config.url),
                    data,
                    self.headers,
                    seconds=self.config.timeout_seconds,
                    most_bytes=_most_bytes(len(bodies)),
                )
                return self._read(reply, len(bodies))
            except urllib.error.HTTPError as error:
                if error.code != 429 and error.code < 500:
                    raise TrainingError(
                        f"the scorer at {self.config.url} refused (status {error.code}); check "
                        "reward.http.url and reward.http.token_env."
                    ) from None
                why = f"status {error.code}"
            except CutOffError as error:
                why = f"{error}" + (f"; it began: {_shown(error.reply)}" if error.reply else "")
            except (OSError, HTTPException) as error:
                why = str(getattr(error, "reason", error))
            waited = time.monotonic() - begun
            if waited + pause > self.config.patience_seconds:
                raise TrainingError(
                    f"the scorer at {self.config.url} gave no answer for {waited:.0f} s ({why}); "
                    "start it and run the same command again, which goes on from the newest "
                    "checkpoint."
                )
            log.warning("reward http: %s; asking again in %.0f s", why, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _read(self, reply: bytes, number: int) -> list[float]:
        """Return the scores of a reply. Raises: TrainingError: it is of another form."""
        most = _most_bytes(number)
        if len(reply) > most:
            raise TrainingError(
                f"the scorer at {self.config.url} must answer at most {most} bytes to {number} "
                f"response(s); it answered: {_shown(reply)}"
            )
        try:
            answer = parse_json(reply)
            version, scores = answer["version"], answer["scores"]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            why = f" ({error})" if type(error) is ValueError else ""
            raise TrainingError(
                f"the scorer at {self.config.url} must answer "
                f'{{"version": ..., "scores": [...]}}{why}; it answered: {_shown(reply)}'
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
                f"each response; it answered: {_shown(reply)}"
            )
        return [float(score) for score in scores]


def _most_bytes(number: int) -> int:
    """Return the bytes that a reply to `number` responses may have."""
    return MOST_BYTES + BYTES_PER_SCORE * number


def _shown(reply: bytes) -> str:
    """Return the beginning of a reply, on one line."""
    return repr(reply[:SHOWN_CHARACTERS].decode("utf-8", "replace"))


def _is_score(value: Any) -> bool:
    """Return whether a value is a number: neither true or false, nor a text that looks like one."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def note_on(reward: RewardConfig) -> list[str]:
    """Return what a reader of the report must know of a reward that is behind a URL."""
    if "http" not in reward.weights:
        return []
    return [
        f"The reward came from {reward.http.url} (version {reward.http.version}): this run is not "
        "reproducible from its config. The replies are kept in the artifact."
    ]


def as_json(episode: Episode) -> dict[str, Any]:
    """Return what a scorer is told of an episode."""
    return {
        "messages": [{"role": m.role, "content": m.content} for m in episode.prompt.messages],
        "passages": list(episode.passages),
        "response": episode.response,
        "finished": episode.finished,
    }


def read_replies(path: Path) -> dict[str, float]:
    """Return the replies in a file, without lines that were cut off while they were written, and
    those that changed since: they are asked for again.
    """
    known: dict[str, float] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("key"), str):
                score: Any = row.get("score")
                if _is_score(score) and is_as_written(row):
                    known[row["key"]] = float(score)
    return known
