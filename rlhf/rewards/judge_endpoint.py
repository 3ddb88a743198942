"""A judge behind an OpenAI-compatible endpoint: `POST <url>/chat/completions`, a question each.

    {"model": "<reward.judge_model.model>", "messages": [{"role": "user", "content": "..."}],
     "temperature": 0, "max_tokens": 16}
    -> {"choices": [{"message": {"content": "4"}}],
        "usage": {"prompt_tokens": 210, "completion_tokens": 1}}

What the endpoint computes is outside of every fingerprint, and at temperature 0 too it may differ
from one day to the next. So each reply is kept (`replies/judge/<process>.jsonl` beside the
rollouts) and read before anyone is asked; the run is marked as not reproducible from its config.
`num_requests` questions are asked at once, each of them patiently (`patient_post.py`). A key comes
from an environment variable and goes into one header, nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.data.strict_json import parse_json
from plumbrule.errors import TrainingError
from plumbrule.lm.parallel import distributed
from rlhf.rewards.judge_config import JudgeModelConfig
from rlhf.rewards.kept_replies import append_rows, files_of, key_of, read_rows
from rlhf.rewards.patient_post import Service, headers_with, shown
from rlhf.rewards.verdicts import Scale, Verdicts

MOST_BYTES, BYTES_PER_TOKEN = 2**18, 64
"""Of a reply: 256 KiB, and more where it may be long."""
FORM = '{"choices": [{"message": {"content": ...}}]}'
"""Of a reply: what is read of it."""
REPLIES_TO_KEEP = 64
"""After so many new ones they are written down."""
SHOWN_CHARACTERS = 120
"""Of a reply without a verdict, in a warning."""


class Reply(NamedTuple):
    """What an endpoint said to a question. Tokens are 0 where it does not count them."""

    text: str
    prompt_tokens: int
    reply_tokens: int


class EndpointJudge:
    """The model `config.model` of the endpoint `config.url`.

    replies: folder that keeps them; None: they are kept in memory.
    Raises: ConfigError: the variable that should hold the key is not set.
    """

    def __init__(self, config: JudgeModelConfig, replies: Path | None = None):
        section = "reward.judge_model"
        self.config = config
        self.service = Service(
            name=f"the judge {config.model} at {config.url}",
            url=f"{str(config.url).rstrip('/')}/chat/completions",
            section=section,
            timeout_seconds=config.timeout_seconds,
            patience_seconds=config.patience_seconds,
            headers=headers_with(config.token_env, section),
        )
        self.kept = None if replies is None else replies / "judge" / f"{distributed.rank()}.jsonl"
        self.known: dict[str, Reply] = {}
        if self.kept is not None:
            for path in files_of(self.kept):
                self.known |= read_replies(path)

    def ask(self, questions: Sequence[str], scale: Scale) -> Verdicts:
        """Return what the replies say, NaN where one says none of the scale's words.

        Raises: TrainingError: the endpoint stays away, refuses, or answers in another form.
        """
        bodies = [self._body(question) for question in questions]
        keys = [key_of(self.config.url, body) for body in bodies]
        new = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self.known}
        self._ask_all(new)
        replies = [self.known[key] for key in keys]
        said = [scale.read(reply.text) for reply in replies]
        example = next((r.text for r, s in zip(replies, said, strict=True) if s is None), "")
        return Verdicts(
            np.array([np.nan if value is None else value for value in said], dtype=np.float64),
            {
                "prompt_tokens": np.array([float(r.prompt_tokens) for r in replies]),
                "reply_tokens": np.array([float(r.reply_tokens) for r in replies]),
            },
            f"such as {example[:SHOWN_CHARACTERS]!r}",
        )

    def _body(self, question: str) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": self.config.max_reply_tokens,
        }

    def _ask_all(self, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        """Ask for what is not known yet, and keep each reply, also where another one fails."""
        keys = list(bodies)
        with ThreadPoolExecutor(self.config.num_requests) as threads:
            for start in range(0, len(keys), REPLIES_TO_KEEP):
                part = keys[start : start + REPLIES_TO_KEEP]
                asked = {key: threads.submit(self._ask, bodies[key]) for key in part}
                try:
                    for future in asked.values():
                        future.result()
                finally:
                    begun = {key: one for key, one in asked.items() if not one.cancel()}
                    wait(begun.values())  # what is under way will be charged for as well
                    answered = {key: one for key, one in begun.items() if not one.exception()}
                    self._keep({key: one.result() for key, one in answered.items()})

    def _keep(self, replies: Mapping[str, Reply]) -> None:
        self.known.update(replies)
        if self.kept is not None and replies:
            rows = [{"key": key, **reply._asdict()} for key, reply in replies.items()]
            append_rows(self.kept, rows)

    def _ask(self, body: Mapping[str, Any]) -> Reply:
        most = MOST_BYTES + BYTES_PER_TOKEN * self.config.max_reply_tokens
        return self.service.ask(json.dumps(body).encode(), self._read, most, "to a question")

    def _read(self, reply: bytes) -> Reply:
        """Return a reply's text and tokens. Raises: TrainingError: it is of another form."""
        try:
            answer = parse_json(reply)
            text = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            tokens = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            why = f" ({error})" if type(error) is ValueError else ""
            raise TrainingError(
                f"{self.service.name} must answer {FORM}{why}; it answered: {shown(reply)}"
            ) from None
        text = "" if text is None else text  # it refused, or its tokens went into reasoning
        if not isinstance(text, str) or not all(type(n) is int and 0 <= n < 2**53 for n in tokens):
            raise TrainingError(
                f"{self.service.name} must answer a text and whole numbers of tokens; it answered: "
                f"{shown(reply)}"
            )
        return Reply(text, *tokens)


def read_replies(path: Path) -> dict[str, Reply]:
    """Return the replies that a file holds, by their keys."""
    found = {}
    for row in read_rows(path):
        text, read, said = (row.get(name) for name in Reply._fields)
        if isinstance(text, str) and type(read) is int and type(said) is int:
            found[row["key"]] = Reply(text, read, said)
    return found
