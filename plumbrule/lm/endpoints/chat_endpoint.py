"""A language model behind an OpenAI-compatible endpoint: `POST <url>/chat/completions`.

    {"model": "<model>", "messages": [{"role": "user", "content": "..."}],
     "temperature": 0, "max_tokens": 16}
    -> {"choices": [{"message": {"content": "4"}}],
        "usage": {"prompt_tokens": 210, "completion_tokens": 1}}

Each request asks one question; `num_requests` of them are under way at once, each of them patiently
(`patient_post.py`). What the endpoint computes is outside of every fingerprint, and at temperature
0 too it may differ from one day to the next. So each reply is kept in a file and read before anyone
is asked. A key comes from an environment variable and goes into one header, nowhere else.

Models that reason take `max_completion_tokens` for `max_tokens`, and some no temperature but their
own. An endpoint that refuses a request and names one of the two is asked without it, from then on.
A reply is kept under the request as it would be with both, so it is found again either way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from plumbrule.data.strict_json import parse_json
from plumbrule.errors import TrainingError
from plumbrule.lm.endpoints.kept_replies import append_rows, files_of, key_of, read_rows
from plumbrule.lm.endpoints.patient_post import RefusedError, Service, headers_with, shown

log = logging.getLogger(__name__)
MOST_BYTES, BYTES_PER_TOKEN = 2**18, 64
"""Of a reply: 256 KiB, and more where it may be long."""
FORM = '{"choices": [{"message": {"content": ...}}]}'
"""Of a reply: what is read of it."""
REPLIES_TO_KEEP = 64
"""After so many new ones they are written down."""
OF_SETTINGS = (400, 422)
"""Statuses of an endpoint that refuses a setting of the request."""
MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"


class Reply(NamedTuple):
    """What an endpoint said to a question. Tokens are 0 where it does not count them."""

    text: str
    prompt_tokens: int
    reply_tokens: int


class EndpointSettings(NamedTuple):
    """What a section of the config says of an endpoint."""

    section: str
    """For messages."""
    url: str
    model: str
    token_env: str | None
    max_reply_tokens: int
    num_requests: int
    timeout_seconds: float
    patience_seconds: float


class RequestForm(NamedTuple):
    """How an endpoint takes its settings: how its limit of tokens is called, and whether
    it takes a temperature.
    """

    limit: str = MAX_TOKENS
    temperature: bool = True

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request of the first form in this one."""
        kept = {k: v for k, v in body.items() if k != "temperature" or self.temperature}
        return {self.limit if k == MAX_TOKENS else k: v for k, v in kept.items()}

    def after(self, refusal: str) -> RequestForm | None:
        """Return the form to try once a refusal names a setting; None: it names neither."""
        if self.limit == MAX_TOKENS and MAX_TOKENS in refusal:
            return self._replace(limit=MAX_COMPLETION_TOKENS)
        if self.temperature and "temperature" in refusal:
            return self._replace(temperature=False)
        return None


class ChatEndpoint:
    """The model `settings.model` of the endpoint `settings.url`.

    kept: file of this process's replies, beside which those
    of others are read; None: they are kept in memory.
    Raises: ConfigError: the variable that should hold the key is not set.
    """

    def __init__(self, settings: EndpointSettings, kept: Path | None = None):
        self.settings, self.kept = settings, kept
        self.service = Service(
            name=f"the judge {settings.model} at {settings.url}",
            url=f"{settings.url.rstrip('/')}/chat/completions",
            section=settings.section,
            timeout_seconds=settings.timeout_seconds,
            patience_seconds=settings.patience_seconds,
            headers=headers_with(settings.token_env, settings.section),
        )
        self.form = RequestForm()
        self.known: dict[str, Reply] = {}
        if kept is not None:
            for path in files_of(kept):
                self.known |= read_replies(path)

    def ask(self, questions: Sequence[str]) -> list[Reply]:
        """Return the reply to each question, in order; equal questions are asked once.

        Raises: TrainingError: the endpoint stays away, refuses, or answers in another form. What
            was answered until then is kept.
        """
        keys, new = self._new(questions)
        parts = list(new)
        for start in range(0, len(parts), REPLIES_TO_KEEP):
            part = {key: new[key] for key in parts[start : start + REPLIES_TO_KEEP]}
            self._ask_part(part, stops=True)
        return [self.known[key] for key in keys]

    def ask_each(
        self, questions: Sequence[str], advance: Callable[[int], None] = lambda number: None
    ) -> list[Reply | None]:
        """Return the reply to each question, None where it got none: the endpoint stayed away for
        `patience_seconds`, refused it, or answered in another form.

        Raises: TrainingError: none of the first `REPLIES_TO_KEEP` questions got a reply, or none
            of all: what is wrong with one of them is then wrong with the endpoint.
        """
        keys, new = self._new(questions)
        parts, answered = list(new), 0
        advance(len(keys) - len(parts))
        for start in range(0, len(parts), REPLIES_TO_KEEP):
            part = {key: new[key] for key in parts[start : start + REPLIES_TO_KEEP]}
            failed = self._ask_part(part, stops=False)
            answered += len(part) - len(failed)
            if failed and not answered:
                raise failed[0]
            advance(len(part))
        return [self.known.get(key) for key in keys]

    def _new(self, questions: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Return the key of each question, and the requests that no reply is known to."""
        bodies = [self._body(question) for question in questions]
        keys = [key_of(self.settings.url, body) for body in bodies]
        new = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self.known}
        return keys, new

    def _body(self, question: str) -> dict[str, Any]:
        return {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            MAX_TOKENS: self.settings.max_reply_tokens,
        }

    def _ask_part(
        self, bodies: Mapping[str, Mapping[str, Any]], *, stops: bool
    ) -> list[TrainingError]:
        """Ask, keep each reply, also where another one fails, and return the failures.

        stops: raise the first failure, and ask nothing that is not under way.
        """
        failed: list[TrainingError] = []
        with ThreadPoolExecutor(self.settings.num_requests) as threads:
            asked = {key: threads.submit(self._ask, body) for key, body in bodies.items()}
            try:
                for future in asked.values():
                    try:
                        future.result()
                    except TrainingError as error:
                        if stops:
                            raise
                        failed.append(error)
            finally:
                begun = {key: one for key, one in asked.items() if not one.cancel()}
                wait(begun.values())  # what is under way will be charged for as well
                answered = {key: one for key, one in begun.items() if not one.exception()}
                self._keep({key: one.result() for key, one in answered.items()})
        return failed

    def _keep(self, replies: Mapping[str, Reply]) -> None:
        self.known.update(replies)
        if self.kept is not None and replies:
            rows = [{"key": key, **reply._asdict()} for key, reply in replies.items()]
            append_rows(self.kept, rows)

    def _ask(self, body: Mapping[str, Any]) -> Reply:
        most = MOST_BYTES + BYTES_PER_TOKEN * self.settings.max_reply_tokens
        while True:
            form = self.form
            data = json.dumps(form.applied(body)).encode()
            try:
                return self.service.ask(data, self._read, most, "to a question")
            except RefusedError as error:
                other = form.after(error.said) if error.status in OF_SETTINGS else None
                if other is None:
                    raise
                if self.form == form:  # another request may have found out first
                    self.form = other
                    log.warning(
                        "%s refuses the request as it is; from now on it gets %s and %s.",
                        self.service.name,
                        other.limit,
                        "temperature 0" if other.temperature else "no temperature",
                    )

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
