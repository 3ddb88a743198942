r"""A benchmark of your own: does the policy repeat a word when it is asked to?

Its rows are `{"id": "1", "task": "copying", "fields": {"word": "plumb"}}`. Measure a policy:
    plumbrule --plugin docs/examples/benchmark.py run.goals=[eval_copying] \
        '+nodes.copying={kind: data, set: {role: copying}}' \
        +dataset@data.copying=jsonl data.copying.path=<items> \
        '+nodes.eval_copying={kind: eval, inputs: {policy: sft, copying: copying}}'

`python docs/examples/benchmark.py` summarises two rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.benchmarks.answers import sample_row
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.quantity import Quantity
from eval.benchmarks.registry import register
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, known
from plumbrule.data.benchmark_items import ItemFormat
from plumbrule.data.records import BenchmarkItem, Message, Prompt

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject


def asked(items: Sequence[BenchmarkItem], config: EvalConfig) -> list[Prompt]:
    """Return the chats that the policy will be given; they are checked before any work."""
    return [
        Prompt(item.id, (Message("user", f"Repeat the word {item.fields['word']}."),))
        for item in items
    ]


def measure(items: Sequence[BenchmarkItem], condition: str, subject: Subject) -> Measured:
    """Return a row for each item with `correct`: the greedy answer is the word."""
    words = {item.id: str(item.fields["word"]) for item in items}
    answered, notes = subject.respond(asked(items, subject.config), "copying", greedy=True)
    rows, samples = [], []
    for episode in (one.episode for one in answered):
        name = episode.prompt.id
        correct = episode.response.strip(" .").lower() == words[name].lower()
        rows.append({"id": name, "group": name, "condition": condition, "correct": int(correct)})
        samples.append(sample_row("copying", condition, episode, correct=int(correct)))
    return Measured(rows, samples[: subject.config.num_samples], notes)


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of one condition, with intervals over groups; no model is needed."""
    return known({"copying_accuracy": intervals.share(rows, "correct")})


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return what a comparison of two policies pairs, item by item."""
    return [Quantity("copying_accuracy_change", "correct", better=1)]


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return the metric's names among those of the run, such as `sft/copying_accuracy`."""
    return [f"{kind}/{metric}"]


register(
    Benchmark(
        name="copying",
        items=ItemFormat({"copying": ["word"]}),
        asked=asked,
        measure=measure,
        summarise=summarise,
        quantities=quantities,
        metrics={"copying_accuracy": "share of words that are repeated and nothing else said"},
        headline=headline,
    )
)


if __name__ == "__main__":
    rows = [{"id": str(n), "group": str(n), "condition": "closed", "correct": n} for n in (0, 1)]
    print(summarise(rows, Intervals(0.95))["copying_accuracy"].value)  # 0.5
