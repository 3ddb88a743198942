"""Stage `knowledge`: what each way to give a policy new facts buys, and what it costs.

Retrieval, fine-tuning, both, and RLHF with and without passages in training, asked the same
questions (Ovadia et al. 2023, arXiv:2312.05934; Balaguer et al. 2024, arXiv:2401.08406). Facts
before and after the cut-off are kept apart: a policy that learns the new ones may lose the old
ones. No model is loaded: this reads evaluations, and what the stages before recorded.

1. Answers of each arm, held against the baseline's question by question.
2. Costs of each arm (`costs.py`).
3. `items/answers.jsonl` and `items/arms.jsonl`, and the table of them (`table.py`), which is a
   function of these two files and the config.

Differences to the baseline have simultaneous intervals: each at confidence 1 - (1 - c) / m for m
differences, so all of them hold together with confidence c (Bonferroni). With several seeds a
question has an answer of each, and the interval is over entities, whose answers count together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.quantity import items_file
from eval.comparisons.compare import pair, same_terms
from eval.intervals import Row, publish
from eval.knowledge.config import LEAST_GROUPS, NEEDED, SIDES, KnowledgeConfig
from eval.knowledge.costs import Costs, costs_of, mean_costs
from eval.knowledge.table import Arm, arms_of, metrics_of, notes, table
from plumbrule.data.json_lines import read_rows
from plumbrule.errors import DataError
from plumbrule.inputs import GatheredInput, Inputs
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, METRICS, NOTES, TABLES
from plumbrule.store.json_files import write_json, write_jsonl

ANSWERS, ARM_COSTS = f"{ITEMS}/answers.jsonl", f"{ITEMS}/arms.jsonl"
KEPT = ("correct", "abstained", "confident_wrong", "prompt_tokens", "answer_tokens")


def run(
    config: KnowledgeConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Compare, write and return `knowledge/<quantity>_<arm>`, with bounds where they are known.

    Raises: DataError: an arm is missing, was asked other questions than the baseline, or of several
        conditions; questions of one side of the cut-off are on one entity, or none. ConfigError:
        arms were judged by different gold utilities. ArtifactError: what an arm was made from is
        gone.
    """
    return write_knowledge(config, inputs, out)


def write_knowledge(
    config: KnowledgeConfig, inputs: Mapping[str, Artifact], out: Path
) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    # 1
    given = Inputs(inputs).variations("arm")
    by_seed: dict[str, dict[str, Artifact]] = {}
    for one in given:
        by_seed.setdefault(one.seed, {})[one.name] = one.artifact
    answers: list[dict[str, Any]] = []
    costs: dict[str, list[Costs]] = {name: [] for name in config.arms}
    said: list[str] = []
    for seed, arms in by_seed.items():
        missing = [name for name in config.arms if name not in arms]
        if missing:
            raise DataError(f"inputs must hold arm_{missing[0]}; give the node that evaluation.")
        baseline = arms[config.baseline]
        before = read_answers(baseline)
        require_sides(before, baseline)
        for name in config.arms:
            own = read_answers(arms[name])
            pair(before, [{**row, "condition": before[0]["condition"]} for row in own])
            said += same_terms(baseline, arms[name])[1]
            answers += [answer_row(name, seed, row) for row in own]
            # 2
            facts = {kind: of_seed(inputs, kind, seed) for kind in ("learn_fact", "add_fact")}
            timed = {kind: found for kind, found in facts.items() if found is not None}
            costs[name].append(costs_of(arms[name], baseline, own[0]["condition"], timed))
    # 3
    rows = [{"arm": name, **mean_costs(found)} for name, found in costs.items()]
    (out / ITEMS).mkdir(exist_ok=True)
    write_jsonl(out / ANSWERS, answers)
    write_jsonl(out / ARM_COSTS, rows)
    compared = arms_of(answers, rows, config)
    write_json(out / TABLES, [table(compared, config)])
    write_json(out / METRICS, {"knowledge": nested(compared)})
    write_json(out / NOTES, [*notes(compared, len(by_seed), config), *settings_that_differ(said)])
    return publish(metrics_of(compared), out)


def read_answers(artifact: Artifact) -> list[Row]:
    """Return the item rows of an arm's questions.

    Raises: DataError: it was asked none, or under several conditions.
    """
    path = artifact.file(items_file("questions"))
    rows: list[Row] = [row for _, row in read_rows(path)]
    conditions = sorted({row["condition"] for row in rows})
    if len(conditions) != 1:
        raise DataError(
            f"an arm must be evaluated under one condition (=not {', '.join(conditions) or 'none'})"
            "; set eval.conditions of its evaluation.",
            path,
        )
    lacking = [name for name in KEPT if any(name not in row for row in rows)]
    if lacking:
        raise DataError(
            f"every answer must have {lacking[0]}; evaluate the policy again with this version.",
            path,
        )
    return rows


def require_sides(rows: Sequence[Row], artifact: Artifact) -> None:
    """Raise DataError unless each side of the cut-off has questions on two entities."""
    for which in NEEDED:
        number = len({row["group"] or row["id"] for row in rows if row["answerable"] == which})
        if number < LEAST_GROUPS:
            raise DataError(
                f"questions must be on at least {LEAST_GROUPS} entities {SIDES[which]} the cut-off "
                f"(={number}); raise atlas.num_questions, or give others.",
                artifact.path,
            )


def answer_row(arm: str, seed: str, row: Row) -> dict[str, Any]:
    """Return a row of `answers.jsonl`. Rows of one id are answers to one question."""
    return {
        "arm": arm,
        "id": f"{seed}/{row['id']}" if seed else row["id"],
        "group": row["group"] or row["id"],
        "side": SIDES[row["answerable"]],
        "condition": row["condition"],
        **{name: row[name] for name in KEPT},
    }


def of_seed(inputs: Mapping[str, Artifact], slot: str, seed: str) -> Artifact | None:
    """Return the input of a slot that was made with a seed, or with all; None: there is none."""
    found: list[GatheredInput] = Inputs(inputs).variations(slot)
    return next((one.artifact for one in found if one.seed in (seed, "")), None)


def settings_that_differ(said: Sequence[str]) -> list[str]:
    """Return notes on settings that differ between evaluations, but for what makes an arm one."""
    return [note for note in dict.fromkeys(said) if "eval.conditions" not in note]


def nested(arms: Sequence[Arm]) -> dict[str, dict[str, Any]]:
    """Return arm -> quantity -> number, as `metrics.json` has an evaluation's."""
    return {
        arm.name: {name: interval.as_json() for name, interval in arm.numbers().items()}
        for arm in arms
    }
