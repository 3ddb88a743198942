"""Stage `eval`: everything that is measured of one policy.

1. Read the records of each benchmark that the node was given, and check that the policy can be
   asked all of them.
2. Open the policy and what it may use, and list the work: each benchmark under each condition.
3. Measure, one benchmark and condition after the other, with a checkpoint after each.
4. Turn item rows into metrics with intervals.
5. Write.

A stage that was killed goes on behind the last benchmark it finished, and within one behind the
last chunk of answers or scores, which stream into a journal. What a benchmark gives depends on
(seed, item id) alone, never on what was measured before, so the numbers are those of an
uninterrupted run. What is known of a benchmark is in its own module (`eval/benchmarks/`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from eval import few_shot
from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.harness.lm_eval_tasks import LM_EVAL, data_digest
from eval.benchmarks.journal import Journal
from eval.benchmarks.quantity import items_file, with_conditions
from eval.benchmarks.registry import BENCHMARKS
from eval.benchmarks.subject import Subject, has_own_template
from eval.config import EvalConfig
from eval.few_shot import SHOTS, Shots
from eval.intervals import Intervals, Metrics, publish
from plumbrule import __version__
from plumbrule.data.records import BenchmarkItem, Message, Prompt, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.chat import is_ours
from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    BENCHMARK_FACTS,
    CHECKPOINTS,
    EVALUATED,
    ITEMS,
    METRICS,
    MODEL,
    NOTES,
    SAMPLES,
)
from plumbrule.store.fingerprint import digest, hashed_config
from plumbrule.store.json_files import read_json, write_json, write_jsonl
from plumbrule.store.manifests import inputs_of

ASKED = "asked.jsonl"
"""Of an attempt: what the policy was asked so far, `eval/benchmarks/journal.py`."""
Records = Sequence[Prompt] | Sequence[BenchmarkItem]
Work = tuple[str, str]
"""A benchmark and a condition."""


def run(
    config: EvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Measure the policy; return the headline metrics, which end in the policy's kind.

    Writes `items/<benchmark>.jsonl`, `benchmarks.json`, `metrics.json` (benchmark -> condition ->
    metric -> value, low, high, n, groups, method and, where bounds are not known, reason, and what
    `provenance` has), `samples.jsonl`, `notes.json`, and `evaluated.json`: what was evaluated, how.

    Raises: ConfigError: the node was given nothing to measure. DataError: a record that its
    benchmark can't use or the policy's chat template refuses, or two of one id; before any work.
    """
    # 1. records
    records: dict[str, Records] = {
        name: read(one, inputs[name]) for name, one in BENCHMARKS.items() if name in inputs
    }
    if config.lm_eval.tasks:
        records[LM_EVAL.name] = ()  # they are the library's
    if not records:
        raise ConfigError(
            f"inputs (={', '.join(inputs)}) must hold something to measure; give the node one of "
            f"{', '.join(BENCHMARKS)}, or name eval.lm_eval.tasks."
        )
    asked = [
        prompt for name in records for prompt in benchmark_of(name).asked(records[name], config)
    ]
    shots = draw_shots(config, inputs, records)
    # 2. policy and work
    subject = open_subject(config, inputs, runtime, out, tracker, shots)
    subject.policy.check_chats([*asked, *with_examples(subject, records)])
    possible = {"closed": True, "rag": subject.retriever, "search": subject.searcher}
    conditions = [c for c in config.conditions if possible[c] is not None]
    work = [
        (name, condition)
        for name in records
        for condition in (conditions if benchmark_of(name).both_conditions else ["closed"])
    ]
    # 3. item rows
    done = measure_all(work, records, subject, out)
    # 4. metrics
    intervals = Intervals(config.confidence, config.num_resamples, config.seed)
    metrics = {
        (name, condition): summarise(benchmark_of(name), done[name, condition], intervals)
        for name, condition in work
    }
    # 5. files
    policy = inputs["policy"]
    settings = hashed_config(config)  # without paths, which other machines do not have
    about = {"kind": policy.kind, "fingerprint": policy.fingerprint, "settings": settings}
    if "reward" in inputs:
        about["reward"] = inputs["reward"].fingerprint
    write_json(out / EVALUATED, about)
    subject.journal.close()
    times = item_seconds(done)
    beside = provenance(config, inputs, list(records), shots)
    if LM_EVAL.name in records:
        beside[LM_EVAL.name]["data"] = data_digest(done[LM_EVAL.name, "closed"].items)
    write(out, done, metrics, beside)
    return publish(headlines(metrics, policy.kind), out) | times


def benchmark_of(name: str) -> Benchmark:
    """Return the benchmark of a name, of lm-evaluation-harness's tasks too."""
    return LM_EVAL if name == LM_EVAL.name else BENCHMARKS[name]


def read(benchmark: Benchmark, artifact: Artifact) -> Records:
    """Return the records of a benchmark.

    Raises: DataError: there are none, or two have one id.
    """
    path = artifact.file(benchmark.file)
    records: list = read_records(benchmark.record, path)
    if not records:
        raise DataError(
            f"{benchmark.name} must hold a record; leave the input out, or add rows.", path
        )
    seen: set[str] = set()
    for row, record in enumerate(records, 1):
        if record.id in seen:
            raise DataError(f"id (={record.id!r}) must be unique; number the rows.", path, row)
        seen.add(record.id)
    return records


def draw_shots(
    config: EvalConfig, inputs: Mapping[str, Artifact], records: Mapping[str, Records]
) -> dict[str, Shots]:
    """Return the examples of each benchmark whose train split the node was given.

    Raises: DataError: as `few_shot.draw`.
    """
    found = {}
    for name, evaluated in records.items():
        benchmark = benchmark_of(name)
        if benchmark.example is None or f"{name}{SHOTS}" not in inputs:
            continue
        train = read(benchmark, inputs[f"{name}{SHOTS}"])
        found[name] = few_shot.draw(
            name,
            cast(Sequence[BenchmarkItem], train),
            cast(Sequence[BenchmarkItem], evaluated),
            config.num_shots,
            config.seed,
            benchmark.example,
        )
    return found


def with_examples(subject: Subject, records: Mapping[str, Records]) -> list[Prompt]:
    """Return the first question of each benchmark with its examples, as a chat: the policy's
    template must take their turns.
    """
    found = []
    for name in subject.shots:
        item = cast(BenchmarkItem, records[name][0])
        turns = few_shot.as_turns(subject.shots[name].of(item), subject.with_passages)
        found.append(Prompt(item.id, (*turns, Message("user", "?"))))
    return found


def open_subject(
    config: EvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
    shots: Mapping[str, Shots],
) -> Subject:
    """Return the policy with its retriever, reward, reward model and reference, as far as given."""
    given = Inputs(inputs)
    retriever = reward_model = reward = searcher = None
    if "rag" in config.conditions:
        retriever = given.retriever("index", config.retrieval.method, runtime)
    if "search" in config.conditions and "index" in inputs:
        asked = given.retriever("index", config.search.method, runtime)
        assert asked is not None  # the input is there
        searcher = Searcher(asked, config.search)
    if "prompts" in inputs:
        reward = given.scorer("reward", runtime)
        if not is_in_reward(inputs):
            reward_model = given.scorer("rm", runtime)
    device = resolve_device(runtime)
    policy = load_policy(inputs["policy"].file(MODEL), device=device)
    reference = None
    if "reference" in inputs and "prompts" in inputs:
        reference = load_policy(inputs["reference"].file(MODEL), device=device)
    # A base model of ours has the chat template of those that are tuned from it.
    untuned = inputs["policy"].kind == "base" and is_ours(policy.tokenizer)
    chats = has_own_template(policy.tokenizer) and not untuned
    return Subject(
        policy,
        retriever,
        reward_model,
        config,
        runtime,
        tracker,
        reference,
        reward,
        chats,
        Journal(out / ASKED, inputs["policy"].fingerprint),
        shots,
        searcher,
    )


def is_in_reward(inputs: Mapping[str, Artifact]) -> bool:
    """Return whether the reward has this reward model, alone, so that it need not load twice."""
    if "reward" not in inputs or "rm" not in inputs:
        return False
    return dict(inputs_of(inputs["reward"].path)) == {"rm": inputs["rm"].fingerprint}


def measure_all(
    work: Sequence[Work],
    records: Mapping[str, Records],
    subject: Subject,
    out: Path,
) -> dict[Work, Measured]:
    """Return what each piece of work gave; those that a checkpoint holds are not done again."""
    folder = out / CHECKPOINTS
    found = checkpoints.newest(folder)
    done = {} if found is None else read_checkpoint(found[1], work)
    for name, condition in work:
        if (name, condition) in done:
            continue
        begun, served = time.monotonic(), subject.journal.served
        measured = benchmark_of(name).measure(records[name], condition, subject)
        whole = subject.journal.served == served  # or an earlier process had begun with it
        done[name, condition] = measured._replace(
            notes=[*shot_notes(name, subject), *measured.notes],
            seconds=time.monotonic() - begun if whole else None,
        )
        checkpoints.save(folder, len(done), lambda to: write_checkpoint(to, done), keep=1)
    return done


def item_seconds(done: Mapping[Work, Measured]) -> dict[str, float]:
    """Return `time/item_seconds_<benchmark>_<condition>`: the seconds that measuring took, over its
    rows, of what one process measured whole.
    """
    return {
        f"time/item_seconds_{name}_{condition}": measured.seconds / len(measured.items)
        for (name, condition), measured in done.items()
        if measured.seconds is not None and measured.items
    }


def shot_notes(name: str, subject: Subject) -> list[str]:
    """Return what there is to say of a benchmark's examples, where the evaluation shows any."""
    if not subject.config.num_shots:
        return []
    if name in subject.shots:
        return few_shot.notes(name, subject.shots[name])
    why = benchmark_of(name).no_shots if benchmark_of(name).example is None else "no train split"
    return [f"{name}: asked without examples: {why}."]


def write_checkpoint(folder: Path, done: Mapping[Work, Measured]) -> None:
    """Write all that is measured so far, one file per benchmark and condition."""
    for (name, condition), measured in done.items():
        write_json(folder / f"{name}-{condition}.json", measured._asdict())


def read_checkpoint(folder: Path, work: Sequence[Work]) -> dict[Work, Measured]:
    """Return what a checkpoint holds of the work."""
    paths = {(name, condition): folder / f"{name}-{condition}.json" for name, condition in work}
    return {piece: Measured(**read_json(path)) for piece, path in paths.items() if path.is_file()}


def summarise(benchmark: Benchmark, measured: Measured, intervals: Intervals) -> Metrics:
    """Return the metrics of one benchmark and condition.

    Raises: ConfigError: the benchmark does not declare one of them.
    """
    metrics = benchmark.summarise(measured.items, intervals)
    unknown = [name for name in metrics if not benchmark.declares(name)]
    if unknown:
        raise ConfigError(
            f"metrics of benchmark {benchmark.name} (={', '.join(unknown)}) must be declared; name "
            "them in its `metrics`."
        )
    return metrics


def provenance(
    config: EvalConfig,
    inputs: Mapping[str, Artifact],
    names: Sequence[str],
    shots: Mapping[str, Shots],
) -> dict[str, dict[str, Any]]:
    """Return what stands beside each number of a benchmark: what its interval counts, and where it
    comes from. data, policy and config are fingerprints; shots are the examples that were shown.
    """
    same = {
        "confidence": config.confidence,
        "policy": inputs["policy"].fingerprint,
        "config": digest(hashed_config(config)),
        "seed": config.seed,
    }
    return {
        name: {
            "unit": benchmark_of(name).unit,
            "signature": "|".join(
                part
                for part in (
                    f"{name}:plumbrule {__version__}",
                    benchmark_of(name).signature(config),
                    f"shots:{config.num_shots}" if name in shots else "",
                )
                if part
            ),
            "data": inputs[name].fingerprint if name in inputs else "",
            **same,
            **(
                few_shot.facts(shots[name], inputs[f"{name}{SHOTS}"].fingerprint, config.num_shots)
                if name in shots
                else {}
            ),
        }
        for name in names
    }


def write(
    out: Path,
    done: Mapping[Work, Measured],
    metrics: Mapping[Work, Metrics],
    beside: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write items, what is known of each benchmark, samples, notes and metrics.

    Args: beside: of each benchmark, what stands beside each of its numbers.
    """
    (out / ITEMS).mkdir(exist_ok=True)
    nested: dict[str, dict] = {}
    about: dict[str, dict] = {}
    for name in dict.fromkeys(name for name, _ in done):
        rows = [row for piece, one in done.items() if piece[0] == name for row in one.items]
        write_jsonl(out / items_file(name), rows)
        found = {condition: own for (one, condition), own in metrics.items() if one == name}
        nested[name] = {
            condition: {
                metric: {**interval.as_json(), **beside[name]} for metric, interval in own.items()
            }
            for condition, own in found.items()
        }
        benchmark = benchmark_of(name)
        compared = with_conditions(benchmark.quantities(rows), rows)
        about[name] = {
            "metrics": benchmark.meanings(m for own in found.values() for m in own),
            "quantities": [dataclasses.asdict(one) for one in compared],
        }
    write_json(out / BENCHMARK_FACTS, about)
    write_json(out / METRICS, nested)
    write_jsonl(out / SAMPLES, (row for one in done.values() for row in one.samples))
    write_json(out / NOTES, [note for measured in done.values() for note in measured.notes])


def headlines(metrics: Mapping[Work, Metrics], kind: str) -> Metrics:
    """Return the metrics that a run shows, each under the names that its benchmark gives it."""
    return {
        name: interval
        for (benchmark, condition), found in metrics.items()
        for metric, interval in found.items()
        for name in benchmark_of(benchmark).headline(metric, kind, condition)
    }
