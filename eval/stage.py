"""Stage `eval`: everything that is measured of one policy.

1 open the policy and what it may use; 2 list the work: each benchmark that the node was given,
under each condition; 3 measure, one benchmark and condition after the other, with a checkpoint
after each; 4 turn item rows into metrics with intervals; 5 write.

A stage that was killed goes on behind the last benchmark it finished. What a benchmark gives
depends on (seed, item id) alone, never on what was measured before, so the numbers are those of an
uninterrupted run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.benchmarks import bold, halueval, questions, reading
from eval.benchmarks import held_out_rewards as rewards
from eval.benchmarks.generate import Measured, Subject
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, publish
from plumbrule.config import RuntimeConfig
from plumbrule.data.records import BenchmarkItem, Prompt, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact, write_json
from plumbrule.store.costs import inputs_of
from plumbrule.store.fingerprint import hashed_config
from plumbrule.tracking.stage_tracker import Tracker


@dataclass(frozen=True)
class Benchmark:
    """What fills a slot of the stage.

    asked: the chats that the policy is given, of records. file: of the data artifact, holding
    records of type `record`. answers: the policy answers, so
    every condition applies; else it is measured closed-book only. name: how a metric is called in
    the headlines, from the metric, the policy's kind and the condition; None: not a headline.
    """

    asked: Callable[[Any, EvalConfig], Sequence[Prompt]]
    measure: Callable[[Any, str, Subject], Measured]
    summarise: Callable[[Sequence[Row], Intervals], Metrics]
    file: str
    record: type[Prompt] | type[BenchmarkItem]
    answers: bool
    name: Callable[[str, str, str], str | None]


def name_answers(metric: str, kind: str, condition: str) -> str:
    """Return `eval/<metric>_<kind>_<condition>`."""
    return f"eval/{metric}_{kind}_{condition}"


def name_reading(metric: str, kind: str, condition: str) -> str | None:
    """Return `<kind>/<metric>`, such as base/read_accuracy; breakdowns stand in metrics.json."""
    return None if "·" in metric else f"{kind}/{metric}"


def name_halueval(metric: str, kind: str, condition: str) -> str | None:
    """Return `eval/halueval_<task>_<metric>_<kind>` for the judge's scores."""
    return None if "_rule_" in metric else f"eval/halueval_{metric}_{kind}"


def name_bold(metric: str, kind: str, condition: str) -> str | None:
    """Return `eval/bold_<domain>_<gap>_<kind>`; the groups' own shares stand in metrics.json."""
    ends = ("_gap", "_gap_chance", "_gap_large")
    return f"eval/bold_{metric}_{kind}" if metric.endswith(ends) else None


BENCHMARKS: dict[str, Benchmark] = {
    "prompts": Benchmark(
        rewards.asked,
        rewards.measure,
        rewards.summarise,
        "validation.jsonl",
        Prompt,
        True,
        name_answers,
    ),
    "questions": Benchmark(
        questions.asked,
        questions.measure,
        questions.summarise,
        "records.jsonl",
        BenchmarkItem,
        True,
        name_answers,
    ),
    "reading": Benchmark(
        reading.asked,
        reading.measure,
        reading.summarise,
        "records.jsonl",
        BenchmarkItem,
        False,
        name_reading,
    ),
    "halueval": Benchmark(
        halueval.asked,
        halueval.measure,
        halueval.summarise,
        "records.jsonl",
        BenchmarkItem,
        False,
        name_halueval,
    ),
    "bold": Benchmark(
        bold.asked, bold.measure, bold.summarise, "records.jsonl", BenchmarkItem, False, name_bold
    ),
}
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

    Writes `items/<benchmark>.jsonl`, `metrics.json` (benchmark -> condition -> metric -> value,
    low, high, n, groups and, where bounds are not known, reason), `samples.jsonl`, `notes.json`,
    and `evaluated.json`: what was evaluated, and how.

    Raises: ConfigError: the node was given nothing to measure. DataError: a record that its
    benchmark can't use or the policy's chat template refuses, or two of one id; before any work.
    """
    records = {name: read(name, inputs[name]) for name in BENCHMARKS if name in inputs}
    if not records:
        raise ConfigError(
            f"inputs (={', '.join(inputs)}) must hold something to measure; give the node one of "
            f"{', '.join(BENCHMARKS)}."
        )
    asked = [chat for name in records for chat in BENCHMARKS[name].asked(records[name], config)]
    # 1
    subject = open_subject(config, inputs, runtime, tracker)
    subject.policy.check_chats(asked)
    # 2
    conditions = [c for c in config.conditions if c == "closed" or subject.retriever is not None]
    work = [
        (name, condition)
        for name in records
        for condition in (conditions if BENCHMARKS[name].answers else ["closed"])
    ]
    # 3
    done = measure_all(work, records, subject, out)
    # 4
    intervals = Intervals(config.confidence, config.num_resamples, config.seed)
    metrics: dict[Work, Metrics] = {
        (name, condition): BENCHMARKS[name].summarise(done[name, condition].items, intervals)
        for name, condition in work
    }
    # 5
    policy = inputs["policy"]
    settings = hashed_config(config)  # without paths, which other machines do not have
    about = {"kind": policy.kind, "fingerprint": policy.fingerprint, "settings": settings}
    if "reward" in inputs:
        about["reward"] = inputs["reward"].fingerprint
    write_json(out / "evaluated.json", about)
    write(out, done, metrics)
    return publish(headlines(metrics, policy.kind), out)


def read(name: str, artifact: Artifact) -> Sequence[Prompt] | Sequence[BenchmarkItem]:
    """Return the records of a benchmark.

    Raises: DataError: there are none, or two have one id.
    """
    benchmark = BENCHMARKS[name]
    path = artifact.file(benchmark.file)
    records: list = read_records(benchmark.record, path)
    if not records:
        raise DataError(f"{name} must hold a record; leave the input out, or add rows.", path)
    seen: set[str] = set()
    for row, record in enumerate(records, 1):
        if record.id in seen:
            raise DataError(f"id (={record.id!r}) must be unique; number the rows.", path, row)
        seen.add(record.id)
    return records


def open_subject(
    config: EvalConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    tracker: Tracker,
) -> Subject:
    """Return the policy with its retriever, reward, reward model and reference, as far as given."""
    retriever = reward_model = None
    if "index" in inputs and "rag" in config.conditions:
        retriever = inputs["index"].open(method=config.retrieval.method)
    if "rm" in inputs and "prompts" in inputs and not is_in_reward(inputs):
        reward_model = inputs["rm"].open(runtime=runtime)
    reward = None
    if "reward" in inputs and "prompts" in inputs:
        reward = inputs["reward"].open(runtime=runtime)
    device = resolve_device(runtime)
    policy = load_policy(inputs["policy"].file("model"), device=device)
    reference = None
    if "reference" in inputs and "prompts" in inputs:
        reference = load_policy(inputs["reference"].file("model"), device=device)
    return Subject(policy, retriever, reward_model, config, runtime, tracker, reference, reward)


def is_in_reward(inputs: Mapping[str, Artifact]) -> bool:
    """Return whether the reward has this reward model, alone, so that it need not load twice."""
    if "reward" not in inputs:
        return False
    return dict(inputs_of(inputs["reward"])) == {"rm": inputs["rm"].fingerprint}


def measure_all(
    work: Sequence[Work],
    records: Mapping[str, Sequence[Prompt] | Sequence[BenchmarkItem]],
    subject: Subject,
    out: Path,
) -> dict[Work, Measured]:
    """Return what each piece of work gave; those that a checkpoint holds are not done again."""
    folder = out / "checkpoints"
    found = checkpoints.newest(folder)
    done = {} if found is None else read_checkpoint(found[1], work)
    for name, condition in work:
        if (name, condition) in done:
            continue
        done[name, condition] = BENCHMARKS[name].measure(records[name], condition, subject)
        checkpoints.save(folder, len(done), lambda to: write_checkpoint(to, done), keep=1)
    return done


def write_checkpoint(folder: Path, done: Mapping[Work, Measured]) -> None:
    """Write all that is measured so far, one file per benchmark and condition."""
    for (name, condition), measured in done.items():
        write_json(folder / f"{name}-{condition}.json", measured._asdict())


def read_checkpoint(folder: Path, work: Sequence[Work]) -> dict[Work, Measured]:
    """Return what a checkpoint holds of the work."""
    paths = {(name, condition): folder / f"{name}-{condition}.json" for name, condition in work}
    return {
        piece: Measured(**json.loads(path.read_text(encoding="utf-8")))
        for piece, path in paths.items()
        if path.is_file()
    }


def write(out: Path, done: Mapping[Work, Measured], metrics: Mapping[Work, Metrics]) -> None:
    """Write items, samples, notes and metrics."""
    (out / "items").mkdir(exist_ok=True)
    nested: dict[str, dict] = {}
    for name in dict.fromkeys(name for name, _ in done):
        rows = [row for piece, one in done.items() if piece[0] == name for row in one.items]
        write_lines(out / "items" / f"{name}.jsonl", rows)
        nested[name] = {
            condition: {metric: interval.as_json() for metric, interval in found.items()}
            for (benchmark, condition), found in metrics.items()
            if benchmark == name
        }
    write_json(out / "metrics.json", nested)
    write_lines(out / "samples.jsonl", (row for one in done.values() for row in one.samples))
    write_json(out / "notes.json", [note for measured in done.values() for note in measured.notes])


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON Lines."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def headlines(metrics: Mapping[Work, Metrics], kind: str) -> Metrics:
    """Return the metrics that a run shows.

    `eval/known_accuracy_<kind>`, without a condition, is the closed-book one: what the policy still
    knows of the base corpus.
    """
    shown: Metrics = {}
    for (benchmark, condition), found in metrics.items():
        for metric, interval in found.items():
            name = BENCHMARKS[benchmark].name(metric, kind, condition)
            if name is not None:
                shown[name] = interval
    known = metrics.get(("questions", "closed"), {}).get("known_accuracy")
    return shown if known is None else shown | {f"eval/known_accuracy_{kind}": known}
