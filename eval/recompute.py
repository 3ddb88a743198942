"""The numbers of a published artifact, made again of its item rows.

A check of an archive (`plumbrule check`) calls these by name and compares what they write with what
was published. Everything that is reported is computed from item rows alone, so no model and no
record is needed. A stage's own functions are called; nothing is computed in another way here. What
rows do not hold (the plug-in of a benchmark that is not loaded, what people said of pairs) is left
out, and so is not compared. A stage that only reads others' artifacts is run again on them; where
one that it needs is not there, what its own rows give is written, or nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from eval.benchmarks.benchmark import Measured
from eval.benchmarks.harness.lm_eval_tasks import LM_EVAL
from eval.benchmarks.registry import BENCHMARKS
from eval.intervals import Intervals, Metrics, Row, publish
from plumbrule.errors import ArtifactError
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import EVALUATED, ITEMS, METRICS, TABLES, WIN_RATES
from plumbrule.store.fingerprint import first_defaults
from plumbrule.store.json_files import read_json, read_jsonl, write_json
from plumbrule.store.manifests import read_manifest

Config = TypeVar("Config")
Inputs = Mapping[str, Artifact]
REWRITES = "_rewrites"
"""End of the name of a set's second file of rows."""


def evaluation(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write `metrics.json` and `intervals.json` of an evaluation; return its headline metrics."""
    from eval.stage import headlines, summarise

    intervals = intervals_of(artifact, "EvalConfig")
    found: dict[tuple[str, str], Metrics] = {}
    for name, rows in item_files(artifact).items():
        benchmark = LM_EVAL if name == LM_EVAL.name else BENCHMARKS.get(name)
        if benchmark is None:
            continue  # of a plug-in
        for condition in dict.fromkeys(row["condition"] for row in rows):
            own = [dict(row) for row in rows if row["condition"] == condition]
            found[name, condition] = summarise(benchmark, Measured(own, [], []), intervals)
    nested: dict[str, dict[str, Any]] = {}
    for (name, condition), metrics in found.items():
        nested.setdefault(name, {})[condition] = _as_json(metrics)
    write_json(out / METRICS, nested)
    kind = str(read_json(artifact.file(EVALUATED))["kind"])
    return publish(headlines(found, kind), out)


def comparison(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write all numbers of a comparison again; none where an evaluation is not there."""
    from eval.comparisons.compare import write_comparison
    from eval.comparisons.config import CompareConfig

    if not {"baseline", "policy"} <= set(inputs):
        return {}
    config = CompareConfig(confidence=setting(artifact, "CompareConfig", "confidence"))
    return write_comparison(config, inputs, out)


def vote(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write all numbers of a vote again; none where an evaluation is not there."""
    from eval.votes.config import VoteConfig
    from eval.votes.stage import write_vote

    if not _complete(artifact, inputs):
        return {}
    config = VoteConfig(confidence=setting(artifact, "VoteConfig", "confidence"))
    return write_vote(config, inputs, out)


def win_rate(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write `win_rates.json` of judged answers; return the metrics, named by the policy's kind.

    Who won is decided again by the scores in the rows, not read from them. No metrics where the
    policy's evaluation is not there: it says the kind.
    """
    from eval.comparisons import win_rates as rates

    manifest = read_manifest(artifact.path)
    intervals = Intervals(setting(artifact, "WinRateConfig", "confidence"))
    verdicts = {
        name: [rates.decided(row) for row in rows] for name, rows in item_files(artifact).items()
    }
    conditions = rates.conditions_of(verdicts)
    found = [
        one
        for name, rows in verdicts.items()
        for one in rates.win_rates(f"{name}_win_rate", rates.PROMPTS, rows, conditions, intervals)
    ]
    write_json(out / WIN_RATES, [rates.as_row(one) for one in found])
    if "policy" not in inputs:
        return {}
    kind = str(read_json(inputs["policy"].file(EVALUATED))["kind"])
    by_endpoint = "judge" not in manifest.inputs
    shares = rates.shares_of_orders(verdicts.get("judge", []), by_endpoint, intervals)
    orders = {f"{kind}/judge_{name}": share for name, share in shares.items()}
    return publish(rates.metrics_of(kind, found) | orders, out)


def knowledge(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Compare the arms again; of answers and costs in its own rows where an input is not there."""
    from eval.knowledge.config import KnowledgeConfig
    from eval.knowledge.stage import ANSWERS, ARM_COSTS, nested, write_knowledge
    from eval.knowledge.table import arms_of, metrics_of, table

    config = recorded(artifact, KnowledgeConfig)
    if _complete(artifact, inputs) and _has_lineage(inputs):
        return write_knowledge(config, inputs, out)
    rows, costs = (read_jsonl(artifact.file(name)) for name in (ANSWERS, ARM_COSTS))
    arms = arms_of(rows, costs, config)
    write_json(out / TABLES, [table(arms, config)])
    write_json(out / METRICS, {"knowledge": nested(arms)})
    return publish(metrics_of(arms), out)


def summary(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Summarise the metrics of the runs again; nothing where one of them is not there."""
    from eval.comparisons.config import SummaryConfig
    from eval.comparisons.summary import write_summary

    if not _complete(artifact, inputs):
        return {}
    return write_summary(recorded(artifact, SummaryConfig), inputs, out)


def methods(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Compare the methods again; nothing where what costs are read from is not all there."""
    from eval.comparisons.config import MethodsConfig
    from eval.comparisons.methods import write_methods

    if not (_complete(artifact, inputs) and _has_lineage(inputs)):
        return {}
    return write_methods(recorded(artifact, MethodsConfig), inputs, out)


def reward_evaluation(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write `metrics.json` and `intervals.json` of a test of a reward model."""
    from eval.reward_models.stage import SetScores, is_headline, metrics_of

    manifest = read_manifest(artifact.path)
    seed = int(manifest.config.get("seed", 0))
    intervals = Intervals(setting(artifact, "RewardEvalConfig", "confidence"), seed=seed)
    files = item_files(artifact)
    found: dict[str, Metrics] = {}
    for name, rows in files.items():
        if not (name.endswith(REWRITES) and name.removesuffix(REWRITES) in files):
            rewrites = files.get(f"{name}{REWRITES}", [])
            found[name] = metrics_of(
                SetScores([*map(dict, rows)], [*map(dict, rewrites)], [], [], [], []), intervals
            )
    write_json(out / METRICS, {name: _as_json(own) for name, own in found.items()})
    flat = {
        f"eval_rm/{name}_{metric}": one
        for name, own in found.items()
        for metric, one in own.items()
        if is_headline(metric)
    }
    return publish(flat, out)


def support_evaluation(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write `metrics.json` and `intervals.json` of a test of the support measure."""
    from eval.support.scores import summarise

    intervals = Intervals(setting(artifact, "SupportEvalConfig", "confidence"))
    nested: dict[str, dict[str, Any]] = {}
    flat: Metrics = {}
    for name, rows in item_files(artifact).items():
        parts: dict[str, list[Row]] = {"all": list(rows)}
        for row in rows:
            parts.setdefault(str(row["part"]), []).append(row)
        found = {part: summarise(own, intervals) for part, own in parts.items()}
        nested[name] = {part: _as_json(own) for part, own in found.items()}
        flat |= {f"eval_support/{name}_{metric}": one for metric, one in found["all"].items()}
    write_json(out / METRICS, nested)
    return publish(flat, out)


def ibem_evaluation(artifact: Artifact, inputs: Inputs, out: Path) -> Mapping[str, float]:
    """Write `metrics.json` and `intervals.json` of a test on IBEM's expressions."""
    from eval.ibem.scores import summarise
    from eval.ibem.stage import TYPES, retrieval_metrics

    intervals = Intervals(setting(artifact, "IbemEvalConfig", "confidence"))
    by_box = setting(artifact, "IbemEvalConfig", "match") == "box"
    files = item_files(artifact)
    tables = [files.get(name, []) for name in ("expressions", "pages", "retrieval")]
    parts: dict[str, Metrics] = {}
    for part in ("all", *TYPES):
        own = [[row for row in rows if part in ("all", row["type"])] for rows in tables]
        parts[part] = summarise(own[0], own[1] if by_box else [], intervals)
        parts[part] |= retrieval_metrics(own[2], intervals)
    write_json(out / METRICS, {part: _as_json(own) for part, own in parts.items()})
    return publish({f"eval_ibem/{name}": one for name, one in parts["all"].items()}, out)


def item_files(artifact: Artifact) -> dict[str, list[Row]]:
    """Return name -> rows of an artifact's files of items, each as it was published."""
    if not artifact.has(ITEMS):
        return {}
    return {path.stem: read_jsonl(path) for path in sorted(artifact.file(ITEMS).glob("*.jsonl"))}


def intervals_of(artifact: Artifact, schema: str) -> Intervals:
    """Return how an artifact's intervals were made."""
    names = ("confidence", "num_resamples", "seed")
    return Intervals(*(setting(artifact, schema, name) for name in names))


def setting(artifact: Artifact, schema: str, name: str) -> Any:
    """Return a setting of an artifact; where its manifest does not say, the first default.

    Args: schema: the class of its config.
    """
    config = read_manifest(artifact.path).config
    return config[name] if name in config else first_defaults()[schema][name]


def recorded(artifact: Artifact, schema: type[Config]) -> Config:
    """Return the config that an artifact was made with, as far as it changes numbers."""
    return _filled(schema, read_manifest(artifact.path).config)


def _filled(schema: type[Any], told: Mapping[str, Any]) -> Any:
    kept = {}
    for field in dataclasses.fields(schema):
        inner = get_type_hints(schema)[field.name]
        if dataclasses.is_dataclass(inner):
            kept[field.name] = _filled(inner, told.get(field.name, {}))  # type: ignore[arg-type]
        elif field.metadata.get("hashed") != "no":
            defaults = {} if field.name in told else first_defaults()[schema.__name__]
            kept[field.name] = {**defaults, **told}[field.name]
    return schema(**kept)


def _complete(artifact: Artifact, inputs: Inputs) -> bool:
    """Return whether all inputs of an artifact are there."""
    return len(inputs) == len(read_manifest(artifact.path).inputs)


def _has_lineage(inputs: Inputs) -> bool:
    """Return whether all that the inputs were made from is there, which costs are read from."""
    from eval.comparisons.costs import lineage

    try:
        return all(lineage(one) for one in inputs.values())
    except ArtifactError:
        return False


def _as_json(metrics: Metrics) -> dict[str, Any]:
    return {name: one.as_json() for name, one in metrics.items()}
