"""What a benchmark is: one object, declared in a module of its own.

    BENCHMARK = Benchmark(
        name="bold", items=ItemFormat({"bold": ["prompt"]}, ["domain", "group"]), asked=...,
        measure=measure, summarise=summarise, quantities=quantities, metrics=(...), headline=...,
    )

`measure` asks the policy and returns *item rows*; `summarise` turns rows into metrics with
intervals and needs no model; `quantities` names what a comparison of two evaluations pairs. The
eval stage writes the quantities into `benchmarks.json`, beside the rows, and the stage `compare`
reads them there, so that it knows no benchmark.

Adding one takes its module, its name in `eval/benchmarks/registry.py` (or a plug-in that calls
`register`), and a node that prepares its records. Planning a run imports every benchmark, since the
inputs of eval and the roles of data are read from here; so a module must not import torch. What
needs a model is asked of the `Subject` that `measure` is given.

An item that does not fit the policy's context is left out whole and counted in a note: an item that
was cut would be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.few_shot import ExampleOf
from eval.intervals import Intervals, Metrics, Row
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Prompt
from plumbrule.store.file_names import RECORDS, VALIDATION

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


class Measured(NamedTuple):
    """What measuring one benchmark under one condition gave; all of it is JSON.

    items: a row per item. samples: rows that a report shows. notes: sentences. seconds: that it
    took; None where several processes had a part in it.
    """

    items: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    notes: list[str]
    seconds: float | None = None


def no_setting(config: EvalConfig) -> None:
    """Return None: the benchmark has no such setting of its own."""


def no_signature(config: EvalConfig) -> str:
    """Return "": the benchmark depends on nothing but its records."""
    return ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark; see the module."""

    name: str
    """The input of eval that holds its records, the role of the data node that prepares them, and
    the name of its files."""
    asked: Callable[[Any, EvalConfig], Sequence[Prompt]]
    """(records, config) -> the chats that the policy will be given; raises DataError for a record
    that can't be used. The stage checks all of them before any work."""
    measure: Callable[[Any, str, Subject], Measured]
    """(records, condition, subject) -> rows, samples and notes of one condition."""
    summarise: Callable[[Sequence[Row], Intervals], Metrics]
    """Rows of one condition -> metrics."""
    quantities: Callable[[Sequence[Row]], Sequence[Quantity]]
    """Rows of all conditions -> what a comparison pairs, as far as a row has its column."""
    metrics: Collection[str]
    """Its metrics; `*` stands for any text, and one that none fits is refused. What they mean says
    `eval/metrics.toml`; a plug-in gives a mapping, metric -> what it measures, with its unit, which
    goes into `benchmarks.json`."""
    headline: Callable[[str, str, str], Sequence[str]]
    """(metric, kind of the policy, condition) -> its names among the metrics of the run; none for
    one that stands in metrics.json alone."""
    items: ItemFormat | None = None
    """Of its records; None: they are `Prompt`s, which are split, and the held-out ones are used."""
    both_conditions: bool = False
    """Whether it is measured with retrieved passages too, and not closed-book only."""
    folder: Callable[[EvalConfig], str | None] = no_setting
    """Setting for a folder of the official files, in the format of the benchmark's name."""
    per_group: Callable[[EvalConfig], int | None] = no_setting
    """Setting for the most items of a group (`ItemFormat.counted_by`)."""
    unit: str = "groups"
    """What its intervals count: rows, entities, prompts; stands beside each number."""
    signature: Callable[[EvalConfig], str] = no_signature
    """What its numbers depend on beside the records, as `key:value|...`: a lexicon's version, a
    threshold, a protocol. Two numbers of another signature are not to be compared."""

    example: ExampleOf | None = None
    """An item as an answered question, for `eval.num_shots`; None: it is asked without examples."""
    train_split: Callable[[EvalConfig], str | None] = no_setting
    """Setting for the file or folder that examples are drawn from, in the same format."""
    no_shots: str = "it declares no way to show an answered question"
    """Why it is asked without them, where `example` is None."""

    @property
    def record(self) -> type[Prompt] | type[BenchmarkItem]:
        """The type of its records."""
        return Prompt if self.items is None else BenchmarkItem

    @property
    def file(self) -> str:
        """The file of the data artifact that holds them."""
        return VALIDATION if self.items is None else RECORDS

    def declares(self, metric: str) -> bool:
        """Return whether a metric is one of its own."""
        return any(fnmatchcase(metric, name) for name in self.metrics)

    def meanings(self, metrics: Iterable[str]) -> dict[str, str]:
        """Return metric -> what it measures, of a plug-in's; the first name that fits counts."""
        if not isinstance(self.metrics, Mapping):
            return {}
        return {
            metric: next(text for name, text in self.metrics.items() if fnmatchcase(metric, name))
            for metric in metrics
        }
