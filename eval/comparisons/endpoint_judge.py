"""A judge of pairs behind an OpenAI-compatible endpoint, which answers in text.

It reads both answers in both orders and says A or B. An order counts as failed where no reply came
in `win_rate.endpoint.patience_seconds`, the endpoint refused the question (most do one that is too
long for them), or the reply says no letter alone (`read_letter`); a pair with a failed order has no
verdict. Replies are kept in `replies/judge.jsonl` and read before anyone is asked, so a resumed run
asks for the missing ones alone; failures are not kept, and are asked again.

Temperature is 0 where the endpoint takes one. What it computes is outside of every fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.comparisons.config import JudgeEndpointConfig
from eval.reward_models.rankings import Tested
from plumbrule.data.records import Preference
from plumbrule.errors import TrainingError
from plumbrule.lm.endpoints.chat_endpoint import ChatEndpoint, EndpointSettings, Reply
from plumbrule.lm.judges.questions import conversation, fill
from plumbrule.lm.judges.verdict_retraction import REASON, TURNING
from plumbrule.protocols import Tracker

QUESTION = (
    "Two assistants answered the same request. Which answer is better: the one that is right, "
    "follows the request and is clear? Say A or B and nothing else.\n"
    "Both were shown these passages: {passages}\n\n"
    "Request:\n{request}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}"
)
LETTERS = ("A", "B")
_LEAD = r"(?:(?:(?i:the\s+)?(?i:better\s+)?(?i:answer|verdict|assistant)\s*(?i:is)?[\s:*=\"'(]*)?)"
_END = r"[*_`\"')\].,;:!\n]"
_BETTER = (
    r"\s+is\s+(?i:the\s+)?(?i:better|best|correct|preferred|winner)(?i:\s+(?:one|answer))?"
    r"(?i:\s+than(?:\s+(?:answer|assistant))?\s+(?-i:[AB])\b)?"
)
_VERDICT = re.compile(
    rf"[\s*_`\"'(\[]*{_LEAD}([AB])[*_`\"')\]]*"
    rf"(?:(?=[\s*_`\"')\].,;:!]*$)|(?=[.,;:!\n]|\s+[-\u2013\u2014]\s|{REASON})"
    rf"|{_BETTER}(?=\s*$|{_END}|{REASON}))"
)


def read_letter(text: str) -> str | None:
    """Return A or B where a reply begins with one of them and says no more than that it is the
    better one; None: it is no verdict, or may be another one.

    `Answer:` or `The better answer is` before the letter is understood, and `is better` or `is the
    better one` behind it, with `than` the other. What follows may give a reason. It makes the reply
    none where it names the other letter or holds a word that turns it round (`not`, `worse`,
    `tied`): "A is worse than B" and "A is wrong. B is right." are not for A. A reply that could be
    read either way is a failure, which is counted, and never the wrong verdict.
    """
    found = _VERDICT.match(text.strip())
    if found is None:
        return None
    rest = text.strip()[found.end() :]
    other = LETTERS[found[1] == LETTERS[0]]
    return None if re.search(rf"\b{other}\b", rest) or TURNING.search(rest) else found[1]


class PairwiseEndpointJudge:
    """The model of an endpoint that is asked which answer is better.

    replies: folder that keeps what it says.
    Raises: ConfigError: the variable that should hold the key is not set.
    """

    def __init__(self, config: JudgeEndpointConfig, replies: Path, tracker: Tracker):
        self.config, self.tracker = config, tracker
        settings = EndpointSettings(
            section="win_rate.endpoint",
            url=str(config.url),
            model=str(config.model),
            token_env=config.token_env,
            max_reply_tokens=config.max_reply_tokens,
            num_requests=config.num_requests,
            timeout_seconds=config.timeout_seconds,
            patience_seconds=config.patience_seconds,
        )
        self.endpoint = ChatEndpoint(settings, replies / "judge.jsonl")
        self._replies: list[Reply | None] = []
        self._unread = ""

    def fits(self, ranking: Tested) -> bool:
        """Return True: what is too long, the endpoint refuses, which counts as failed."""
        return True

    def scores(self, rankings: Sequence[Tested]) -> tuple[list[list[float]], list[dict[str, Any]]]:
        """Return the scores of both answers of each ranking, 1 and -1 where both orders prefer one,
        and a row of each: `failed`, and where it is 0 `first_share` and `contradicts`.

        Raises: TrainingError: the endpoint answers nothing, or never one of the letters.
        """
        asked = [question(one.preference, *order) for one in rankings for order in ((0, 1), (1, 0))]
        with self.tracker.progress(len(asked), "judge", "questions") as line:
            self._replies = self.endpoint.ask_each(asked, line.advance)
        said = [None if reply is None else read_letter(reply.text) for reply in self._replies]
        self._unread = next(
            (r.text for r, s in zip(self._replies, said, strict=True) if r is not None and not s),
            "",
        )
        if rankings and not any(said):
            raise TrainingError(
                f"{self.endpoint.service.name} must answer A or B, and did so to none of "
                f"{len(asked)} questions (such as {self._unread[:120]!r}); raise "
                "win_rate.endpoint.max_reply_tokens for a model that reasons first, or ask another."
            )
        scores, rows = [], []
        for one, given, swapped in zip(rankings, said[::2], said[1::2], strict=True):
            row: dict[str, Any] = {"id": one.preference.id, "group": one.group}
            if given is None or swapped is None:
                scores.append([0.0, 0.0])
                rows.append({**row, "failed": 1})
                continue
            forward, backward = (
                1.0 if letter == LETTERS[0] else -1.0 for letter in (given, swapped)
            )
            preferred = (forward - backward) / 2
            scores.append([preferred, -preferred])
            shares = {
                "first_share": ((forward > 0) + (backward > 0)) / 2,
                "contradicts": int(forward * backward > 0),
            }
            rows.append({**row, "failed": 0, **shares})
        return scores, rows

    def notes(self) -> list[str]:
        """Return who judged, what it cost, and how many questions got no verdict."""
        replies = [reply for reply in self._replies if reply is not None]
        tokens = sum(reply.prompt_tokens for reply in replies)
        said = sum(reply.reply_tokens for reply in replies)
        notes = [
            f"The judge is {self.config.model} at {self.config.url}: {len(self._replies)} questions"
            f", {tokens} tokens read and {said} said, as it counts them. What it says is not "
            "reproducible from the config of this run; its replies are in replies/judge.jsonl."
        ]
        lost = len(self._replies) - len(replies)
        if lost:
            notes.append(f"{lost} questions got no reply; their pairs are left out, as failed.")
        if self._unread:
            notes.append(
                f"Replies that say neither A nor B alone, such as {self._unread[:120]!r}, are "
                "failures."
            )
        return notes


def question(preference: Preference, a: int, b: int) -> str:
    """Return what the endpoint is asked. Args: a, b: places of the answers shown as A and B."""
    filled = {"request": conversation(preference.messages)}
    filled |= {"a": preference.responses[a], "b": preference.responses[b]}
    return fill(QUESTION, preference.passages, filled)
