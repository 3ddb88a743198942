"""Tasks of lm-evaluation-harness by name (`eval.lm_eval.tasks`), in the record of every evaluation.

    pip install 'plumbrule[lm-eval]'

Its `HFLM` gets the policy that is already loaded; prompts, parsing and metrics are the task's own.
What the policy has answered is kept request by request (`kept_requests.py`), so a killed evaluation
asks what is missing.
Each document's values become an item row. A metric that is the mean of its documents' values has
our interval over them; any other (a corpus BLEU, a perplexity, a group of tasks) has the one that
follows from the standard error that lm-evaluation-harness gives, or none, and `method` says which.

`signature` names its version, and each task with its version; `data` is a digest of all documents'
hashes, so that another release of a data set, or another `limit`, is seen. Data sets come from the
hub or the folder that a task names.

A task's file may name Python functions (`!function`). Those of the library run; those of a folder
that a config names (`eval.lm_eval.include_path`) may name no code (`task_files.py`), and with such
a folder all templates are rendered in a sandbox.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from eval.benchmarks.benchmark import Benchmark, Measured
from eval.benchmarks.harness.task_files import (
    check_task_files,
    require_known_metrics,
    sandboxed_templates,
)
from eval.benchmarks.quantity import Quantity
from eval.config import EvalConfig
from eval.intervals import Intervals, Metrics, Row, having, known
from plumbrule.data.records import Prompt
from plumbrule.errors import ConfigError
from plumbrule.statistics import Interval
from plumbrule.statistics.intervals import unknown
from plumbrule.store.fingerprint import digest

if TYPE_CHECKING:
    from eval.benchmarks.subject import Subject

NAME = "lm_eval"
INSTALL = "pip install 'plumbrule[lm-eval]'"
STDERR = "_stderr"
CLOSE = 1e-9


def check_installed(config: EvalConfig) -> None:
    """Raise ConfigError for tasks without the library, or a folder whose files name code."""
    given = config.lm_eval
    if not given.tasks:
        return
    if find_spec("lm_eval") is None:
        raise ConfigError(
            f"eval.lm_eval.tasks (={', '.join(given.tasks)}) must have lm-evaluation-harness "
            f"installed; run {INSTALL}."
        )
    if given.include_path is not None:
        check_task_files(Path(given.include_path))


def measure(items: Sequence[Any], condition: str, subject: Subject) -> Measured:
    """Return a row per document and filter with each metric's value, and a row per task and metric
    with what lm-evaluation-harness makes of them.

    Raises: ConfigError: it is not installed, or knows no such task.
    """
    check_installed(subject.config)
    found = evaluated(subject)
    rows: list[dict[str, Any]] = []
    for task, documents in found["samples"].items():
        rows += [document_row(task, one, condition) for one in documents]
    for task, own in found["results"].items():
        rows += total_rows(task, own, found, condition)
    samples = [sample_row(task, one, condition) for task, one in first_of(found["samples"])]
    versions = {task: found["versions"].get(task) for task in found["samples"]}
    told = ", ".join(f"{task} version {number}" for task, number in versions.items())
    note = f"lm_eval: {told}, by lm-evaluation-harness {installed()}."
    return Measured(rows, samples[: subject.config.num_samples], [note])


def evaluated(subject: Subject) -> Mapping[str, Any]:
    """Return what `lm_eval.simple_evaluate` does.

    Raises: ConfigError: it knows no such task, or one of a folder reaches for code.
    """
    from lm_eval import simple_evaluate
    from lm_eval.api.registry import metric_registry
    from lm_eval.tasks import TaskManager

    from eval.benchmarks.harness.kept_requests import KeptRequests

    given, seed = subject.config.lm_eval, subject.config.seed
    if given.include_path is not None:
        folder = Path(given.include_path)
        require_known_metrics(folder, check_task_files(folder), metric_registry)
    manager = TaskManager(include_path=given.include_path)
    unknown_tasks = [name for name in given.tasks if name not in manager.all_tasks]
    if unknown_tasks:
        raise ConfigError(
            f"eval.lm_eval.tasks (={', '.join(unknown_tasks)}) must be tasks or groups of "
            "lm-evaluation-harness or of eval.lm_eval.include_path; `lm-eval ls tasks` lists its "
            "own."
        )
    policy = subject.policy
    model = KeptRequests(
        subject.journal,
        installed(),
        pretrained=policy.model,
        tokenizer=policy.tokenizer,
        backend="causal",
        batch_size=subject.runtime.micro_batch_size,
        max_length=policy.spec.context,
    )
    # the library's own files may name functions already, so their templates need no sandbox
    sandbox = nullcontext() if given.include_path is None else sandboxed_templates()
    with sandbox, subject.tracker.progress(len(given.tasks), "lm_eval", "tasks") as line:
        found = simple_evaluate(
            model=model,
            tasks=list(given.tasks),
            task_manager=manager,
            num_fewshot=given.num_fewshot,
            limit=given.limit,
            log_samples=True,
            apply_chat_template=given.chat,
            bootstrap_iters=subject.config.num_resamples,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        line.advance(len(given.tasks))
    assert found is not None  # None is what other processes than the first get
    return found


def document_row(task: str, one: Mapping[str, Any], condition: str) -> dict[str, Any]:
    """Return the row of one document under one filter, with the numbers among its metrics."""
    filtered = str(one["filter"])
    values = {
        column(str(name), filtered): float(one[name])
        for name in one["metrics"]
        if isinstance(one[name], int | float) and math.isfinite(one[name])
    }
    id = f"{task}/{one['doc_id']}"
    return {
        "id": id if filtered == "none" else f"{id}/{filtered}",
        "group": id,
        "condition": condition,
        "task": task,
        "document": one["doc_hash"],
        **values,
    }


def column(metric: str, filtered: str) -> str:
    """Return the column of a metric under a filter; `none` is the filter that changes nothing."""
    return metric if filtered == "none" else f"{metric}_{filtered}".replace("-", "_")


def total_rows(
    task: str, own: Mapping[str, Any], found: Mapping[str, Any], condition: str
) -> list[dict[str, Any]]:
    """Return a row for each metric of a task or a group of tasks: `metric`, `total`, `stderr`."""
    rows = []
    for key, value in own.items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith(STDERR) or not isinstance(value, int | float):
            continue
        stderr = own.get(f"{metric}{STDERR},{filtered}")
        higher = (found.get("higher_is_better") or {}).get(task, {}).get(metric)
        number = found.get("n-samples", {}).get(task, {}).get("effective", 0)
        rows.append(
            {
                "id": f"{task}/{key}",
                "group": f"{task}/{key}",
                "condition": condition,
                "task": task,
                "metric": column(metric, filtered),
                "total": float(value),
                "stderr": float(stderr) if isinstance(stderr, int | float) else None,
                "documents": int(number),
                "better": {True: 1, False: -1}.get(higher, 0),
                "version": str(found["versions"].get(task, "")),
            }
        )
    return rows


def first_of(samples: Mapping[str, Sequence[Any]]) -> Iterable[tuple[str, Any]]:
    """Yield the documents of the tasks in turn, so that each task is shown."""
    longest = max((len(own) for own in samples.values()), default=0)
    for place in range(longest):
        yield from ((task, own[place]) for task, own in samples.items() if place < len(own))


def sample_row(task: str, one: Mapping[str, Any], condition: str) -> dict[str, Any]:
    """Return the row of `samples.jsonl` that shows a document."""
    values = {str(m): one[m] for m in one["metrics"] if isinstance(one[m], int | float)}
    return {
        "id": f"{task}/{one['doc_id']}",
        "benchmark": NAME,
        "condition": condition,
        "prompt": str(one["arguments"][0][0]),
        "passages": [],
        "response": str(one["filtered_resps"])[:2000],
        **values,
    }


def summarise(rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return `<task>_<metric>`, and behind it the filter where there is one."""
    metrics: dict[str, Interval | None] = {}
    for row in having(rows, "total"):
        own = having([r for r in rows if r["task"] == row["task"]], row["metric"])
        values = [float(r[row["metric"]]) for r in own if "total" not in r]
        own = [r for r in own if "total" not in r]
        name = f"{row['task']}_{row['metric']}"
        mean = sum(values) / len(values) if values else math.nan
        if values and math.isclose(mean, row["total"], rel_tol=CLOSE, abs_tol=CLOSE):
            share = all(0 <= value <= 1 for value in values)
            of = intervals.share if share else intervals.mean
            metrics[name] = of(own, row["metric"])
        else:
            metrics[name] = by_stderr(row, intervals.confidence)
    return known(metrics)


def by_stderr(row: Row, confidence: float) -> Interval:
    """Return a total with the bounds of its standard error, a normal distribution's."""
    value, n = float(row["total"]), int(row["documents"])
    if row["stderr"] is None or not math.isfinite(row["stderr"]):
        reason = "lm-evaluation-harness gives no standard error"
        return unknown(value, n, None, reason)._replace(method="lm-eval")
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * float(row["stderr"])
    return Interval(value, value - reach, value + reach, n, method="lm-eval's standard error")


def quantities(rows: Sequence[Row]) -> list[Quantity]:
    """Return each metric of a task's documents."""
    seen = {}
    for row in having(rows, "total"):
        name = f"lm_eval_{row['task']}_{row['metric']}_change"
        only = {"task": row["task"]}
        seen[name] = Quantity(name, row["metric"], only, int(row["better"]))
    return list(seen.values())


def installed() -> str:
    """Return the library's version, "" where it is not installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return ""


def signature(config: EvalConfig) -> str:
    """Return the library's version and what its tasks are given."""
    given = config.lm_eval
    shots = "the tasks' own" if given.num_fewshot is None else given.num_fewshot
    parts = (
        f"lm-eval:{installed()}",
        f"shots:{shots}",
        f"limit:{given.limit}",
        f"chat:{given.chat}",
    )
    return "|".join(parts)


def data_digest(rows: Sequence[Row]) -> str:
    """Return a digest of all documents' hashes and the tasks' versions, 16 hex digits."""
    documents = sorted(str(row["document"]) for row in having(rows, "document"))
    versions = sorted({f"{row['task']} {row['version']}" for row in having(rows, "version")})
    return digest([documents, versions])[:16]


def asked(items: Sequence[Any], config: EvalConfig) -> list[Prompt]:
    """Return no chat: what is asked is the tasks' own. Raises: ConfigError: `check_installed`."""
    check_installed(config)
    return []


def headline(metric: str, kind: str, condition: str) -> list[str]:
    """Return `eval/lm_eval_<task>_<metric>_<kind>`."""
    return [f"eval/lm_eval_{metric}_{kind}"]


LM_EVAL = Benchmark(
    name=NAME,
    asked=asked,
    measure=measure,
    summarise=summarise,
    quantities=quantities,
    metrics=("*",),
    headline=headline,
    unit="documents",
    signature=signature,
    no_shots="its tasks have examples of their own, eval.lm_eval.num_fewshot of them",
)
"""No entry of the registry: its records are the library's, so it has no input and no role."""
