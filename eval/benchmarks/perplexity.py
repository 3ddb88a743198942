"""Perplexity and bits per byte of texts, read as plain text without a chat template.

`perplexity` is exp(nats / tokens) over all tokens of all texts, not a mean of the texts' own; it
depends on the tokenizer. `bits_per_byte` is nats / (ln 2 x UTF-8 bytes), which does not, so
policies with different tokenizers can be compared by it.

A text begins behind the tokenizer's beginning-of-text token, where it has one; else its first token
is not scored, and neither are that token's bytes. A text longer than the context is read in windows
of the context's length, each `eval.perplexity_stride` tokens behind the one before; a token is
scored once, in the first window that holds it, so all but those of the first window have at least
context - stride tokens before them. The notes say both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Prompt
from plumbrule.errors import ConfigError, DataError

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


def text_of(item: BenchmarkItem) -> str:
    """Return an item's text. Raises: DataError: it has none."""
    text = item.fields.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"item {item.id!r} must have a text; add it, or remove the item.")
    return text


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return no chat: texts are plain. Raises: DataError: as `text_of`."""
    for item in items:
        text_of(item)
    return []


def windows(num_tokens: int, context: int, stride: int) -> list[tuple[int, int, int]]:
    """Return (begin, first scored, end) of each window; every token but the first is scored once.

    Args: num_tokens: with the beginning-of-text token, which is not scored.
    """
    found, scored, begin = [], 1, 0
    while scored < num_tokens:
        end = min(begin + context, num_tokens)
        found.append((begin, scored, end))
        scored, begin = end, begin + stride
    return found


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row per text with `nats` (-log p), `tokens` and `bytes`, all of what is scored.

    Raises: DataError: an item without text. ConfigError: the stride is longer than the context.
    """
    context = subject.policy.spec.context
    stride = subject.config.perplexity_stride or max(1, context // 2)
    if stride >= context:
        raise ConfigError(
            f"eval.perplexity_stride (={stride} tokens) must be below the policy's context "
            f"(={context}); lower it."
        )
    bos = subject.policy.tokenizer.bos_token_id
    encoded = [subject.encode_plain(text_of(item)) for item in items]
    rows, owners = [], []
    for place, tokens in enumerate(encoded):
        for begin, scored, end in windows(len(tokens), context, stride):
            rows.append((tokens[begin:scored], tokens[scored:end]))
            owners.append(place)
    nats = subject.response_nats(rows, "perplexity closed")
    found = []
    windows_of: dict[int, list[int]] = {}
    for k, place in enumerate(owners):
        windows_of.setdefault(place, []).append(k)
    for place, item in enumerate(items):
        own = windows_of.get(place)
        if not own:
            continue  # a single token, without one before it
        first = "" if bos is not None else str(subject.policy.tokenizer.decode(encoded[place][:1]))
        found.append(
            {
                "id": item.id,
                "group": item.group or item.id,
                "condition": condition,
                "nats": -sum(nats[k] for k in own),
                "tokens": sum(len(rows[k][1]) for k in own),
                "bytes": len(text_of(item).encode()) - len(first.encode()),
            }
        )
    begins = "behind the beginning-of-text token" if bos is not None else "without its first token"
    note = f"perplexity: texts {begins}, windows of {context} tokens, stride {stride}."
    return Measured(found, [], [note])


def perplexity(nats: np.ndarray, tokens: np.ndarray) -> float:
    """Return exp of the nats per token of all texts. Args: (n,) sums of each text."""
    return math.exp(float(nats.sum() / tokens.sum()))


def bits_per_byte(nats: np.ndarray, num_bytes: np.ndarray) -> float:
    """Return the bits per byte of all texts. Args: (n,) sums of each text."""
    return float(nats.sum() / (math.log(2) * num_bytes.sum()))


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return both, each with a jackknife over texts."""
    return known(
        {
            name: intervals.statistic(formula, rows, ("nats", per), low=least, high=math.inf)
            for name, formula, per, least in (
                ("perplexity", perplexity, "tokens", 1.0),
                ("bits_per_byte", bits_per_byte, "bytes", 0.0),
            )
        }
    )


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return the nats of each text."""
    return [Quantity("perplexity_nats_change", "nats", better=-1)]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/<metric>_<kind>`."""
    return [f"eval/{metric}_{kind}"]


BENCHMARK = Benchmark(
    name="perplexity",
    items=ItemFormat({"perplexity": ["text"]}),
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=("perplexity", "bits_per_byte"),
    headline=headline,
    folder=lambda config: config.perplexity.path,
    per_group=lambda config: config.perplexity.per_group,
    unit="texts",
    no_shots="it reads texts, and asks nothing",
    signature=lambda config: f"stride:{config.perplexity_stride or 'half the context'}",
)
