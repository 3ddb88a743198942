"""The language model that a search asks: greedy answers to prompts, each asked once.

It is a policy of the node's inputs or a model that a setting names, and an index holds a copy. Its
answers are kept by prompt, because decoding is slow and queries repeat. They depend on how prompts
are batched in the last bits of logits alone, so nearly never.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation.sampler import generate
from plumbrule.lm.policy import Policy
from plumbrule.protocols import ProgressLine, Tracker
from rag.search.answer_journal import BATCHES_KEPT, AnswerJournal

KEPT_ANSWERS = 16_384
"""Answers that are remembered; the one that was asked for longest ago goes first."""
ELLIPSIS = " ... "
"""Stands where a prompt lost its middle."""


class AskedModel:
    """An `Answer`: a policy that answers each prompt greedily, as a chat of one turn.

    A prompt that is longer than the context leaves beside an answer loses its middle.

    Args: max_new_tokens: of an answer. batch_size: prompts decoded together. tracker: shows how
        far the answers are; None: nothing does. journal: where answers are kept as they are made,
        and known from; None: nowhere.
    """

    def __init__(
        self,
        policy: Policy,
        max_new_tokens: int,
        batch_size: int,
        tracker: Tracker | None = None,
        journal: AnswerJournal | None = None,
    ):
        self._policy, self._tracker, self._journal = policy, tracker, journal
        self._sampling = SamplingConfig(0.0, max_new_tokens, batch_size)
        self._kept: OrderedDict[str, str] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        """Return the answer to each prompt, without space around it.

        Raises: ConfigError: the context has no room for any prompt beside an answer.
        """
        todo = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._kept]
        shown = self._tracker is not None and todo
        with self._progress(len(todo)) if shown else nullcontext() as line:
            answers = self._answers(todo, line)
        for prompt in dict.fromkeys(prompts):
            answers.setdefault(prompt, self._kept.pop(prompt, ""))
        self._kept.update(answers)
        while len(self._kept) > KEPT_ANSWERS:
            self._kept.popitem(last=False)
        return [answers[prompt] for prompt in prompts]

    def _answers(self, prompts: Sequence[str], line: ProgressLine | None) -> dict[str, str]:
        """Return the answers to distinct prompts, those in the journal without asking."""
        if self._journal is None:
            return self._asked(prompts, line)
        together = BATCHES_KEPT * self._sampling.batch_size
        answers: dict[str, str] = {}
        for start in range(0, len(prompts), together):
            block = prompts[start : start + together]
            if not all(prompt in self._journal for prompt in block):
                self._journal.keep(self._asked(block, line))
            elif line is not None:
                line.skip(len(block))
            answers |= {prompt: self._journal.answer(prompt) for prompt in block}
        return answers

    def _asked(self, prompts: Sequence[str], line: ProgressLine | None) -> dict[str, str]:
        samples = generate(
            self._policy,
            [self._encoded(prompt) for prompt in prompts],
            sampling=self._sampling,
            keys=[0] * len(prompts),
            progress=line,
        )
        return {p: self._policy.decode(s.tokens) for p, s in zip(prompts, samples, strict=True)}

    def _progress(self, total: int) -> AbstractContextManager[ProgressLine]:
        assert self._tracker is not None
        return self._tracker.progress(total, "asking the language model", "answers")

    def _encoded(self, prompt: str) -> list[int]:
        most = self._policy.spec.context - self._sampling.max_new_tokens
        text, kept = prompt, len(prompt)
        while True:
            tokens = self._policy.encode([Message("user", text)])
            if len(tokens) <= most:
                return tokens
            kept = min(kept - 1, int(kept * most / len(tokens)))
            if kept < 2:
                raise ConfigError(
                    "rag.refine.language_model.max_new_tokens "
                    f"(={self._sampling.max_new_tokens} tokens) must leave room for a prompt in "
                    f"the model's context (={self._policy.spec.context} tokens); lower it."
                )
            text = prompt[: kept - kept // 2] + ELLIPSIS + prompt[len(prompt) - kept // 2 :]
