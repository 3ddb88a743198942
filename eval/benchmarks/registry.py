"""The benchmarks by name: ours, in the order in which they are measured, then plug-ins'.

A plug-in (`plumbrule --plugin file.py`) declares one and calls `register(BENCHMARK)`;
docs/extending.md shows a whole one. The inputs of eval, the roles and checks of data, what is
measured and what is compared are all read from here.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from eval.benchmarks import bold, halueval, held_out_rewards, perplexity, questions, reading
from eval.benchmarks.benchmark import Benchmark
from eval.benchmarks.multiple_choice import bbq, classification, general, truthfulqa
from eval.benchmarks.open_answers import open_qa, simpleqa
from plumbrule.config import require
from plumbrule.data.benchmark_items import BENCHMARK
from plumbrule.errors import ConfigError
from plumbrule.store.fingerprint import plugin_digest

BENCHMARKS: dict[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        held_out_rewards,
        questions,
        reading,
        halueval,
        bold,
        truthfulqa,
        general,
        bbq,
        classification,
        open_qa,
        simpleqa,
        perplexity,
    )
}
"""Name -> benchmark."""
_FILES: dict[str, Path] = {}
"""Name -> the plug-in's file."""
TAKEN = ("policy", "index", "rm", "reward", "reference", "lm_eval")
"""Names of eval's other inputs, and of the tasks of lm-evaluation-harness."""
RECORDS = (
    *("corpus", "demonstrations", "new_facts", "preferences", "prompts", "documents"),
    BENCHMARK,
)
"""Roles of data that no benchmark of a plug-in may take."""


def register(benchmark: Benchmark) -> None:
    """Enter a plug-in's benchmark. Its records carry a digest of the plug-in's file, so that an
    edited one makes other data, and with it another evaluation.

    Raises: ConfigError: the name is taken or can't stand in a config, or no format is given.
    """
    name, file = benchmark.name, Path(sys._getframe(1).f_globals["__file__"])
    require(
        name.isidentifier() and name not in (*TAKEN, *RECORDS),
        "name of a benchmark",
        repr(name),
        f"have letters, digits and _ and be none of {', '.join((*TAKEN, *RECORDS))}",
        "choose another",
    )
    if name in BENCHMARKS and _FILES.get(name) != file:
        holder = _FILES[name].name if name in _FILES else "Plumbrule"
        raise ConfigError(
            f"benchmark (={name}) must be registered once; {holder} and {file.name} both do. "
            "Rename one."
        )
    if benchmark.items is None:
        raise ConfigError(
            f"benchmark (={name}) must say what its records hold; give it items=ItemFormat(...)."
        )
    items = dataclasses.replace(benchmark.items, source=plugin_digest(str(file)))
    BENCHMARKS[name], _FILES[name] = dataclasses.replace(benchmark, items=items), file
