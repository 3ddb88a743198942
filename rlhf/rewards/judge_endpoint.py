"""A judge behind an OpenAI-compatible endpoint, as the terms `judge` and `rubric` ask it.

How it is asked: `plumbrule/lm/endpoints/chat_endpoint.py`. Replies are kept in
`replies/judge/<process>.jsonl` beside the rollouts, and the run is marked as not reproducible from
its config.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plumbrule.lm.endpoints.chat_endpoint import ChatEndpoint, EndpointSettings
from plumbrule.lm.parallel import distributed
from rlhf.rewards.judge_config import JudgeModelConfig
from rlhf.rewards.verdicts import GradeScale, JudgeVerdicts

SHOWN_CHARACTERS = 120
"""Of a reply without a verdict, in a warning."""


class EndpointJudge:
    """The model `config.model` of the endpoint `config.url`.

    replies: folder that keeps them; None: they are kept in memory.
    Raises: ConfigError: the variable that should hold the key is not set.
    """

    def __init__(self, config: JudgeModelConfig, replies: Path | None = None):
        self.config = config
        kept = None if replies is None else replies / "judge" / f"{distributed.rank()}.jsonl"
        settings = EndpointSettings(
            section="reward.judge_model",
            url=str(config.url),
            model=str(config.model),
            token_env=config.token_env,
            max_reply_tokens=config.max_reply_tokens,
            num_requests=config.num_requests,
            timeout_seconds=config.timeout_seconds,
            patience_seconds=config.patience_seconds,
        )
        self.endpoint = ChatEndpoint(settings, kept)

    def ask(self, questions: Sequence[str], scale: GradeScale) -> JudgeVerdicts:
        """Return what the replies say, NaN where one says none of the scale's words.

        Raises: TrainingError: the endpoint stays away, refuses, or answers in another form.
        """
        replies = self.endpoint.ask(questions)
        said = [scale.read(reply.text) for reply in replies]
        example = next((r.text for r, s in zip(replies, said, strict=True) if s is None), "")
        return JudgeVerdicts(
            np.array([np.nan if value is None else value for value in said], dtype=np.float64),
            {
                "prompt_tokens": np.array([float(r.prompt_tokens) for r in replies]),
                "reply_tokens": np.array([float(r.reply_tokens) for r in replies]),
            },
            f"such as {example[:SHOWN_CHARACTERS]!r}",
        )
