"""The models that refine a search, as an index holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

Answer: TypeAlias = Callable[[Sequence[str]], Sequence[str]]
"""A language model: prompts in, one text each out."""


class RefiningModels(NamedTuple):
    """What a reranker is made of: an entry of `rag.options.RERANKERS` takes it.

    answer: the language model; None: the index holds none. folder: of the sequence classification
    model; None: likewise. device: as `runtime.device` names it.
    """

    answer: Answer | None
    folder: Path | None
    device: str
