"""What an arm cost: read from the manifests of what it was made from, and from its answers.

    training_seconds      wall-clock seconds of all stages between the baseline's policy and its
                          own, without those that prepare data or build an index and its encoder
    training_tokens       of the same stages, `plumbrule/lm/cost_metrics.py`
    generated_tokens
    seconds_per_answer    of its evaluation: search, sampling and judging, batched
    prompt_tokens         per answer, passages included
    answer_tokens         per answer
    policy_bytes          weights, or an adapter, that are kept for the task beside the baseline's
    index_bytes           of the index that it searches
    fact_seconds          until one new fact is answered: median over facts
    fact_answered         share of the facts that came to be answered
    cost_per_1000         answers, at the prices of the config

What is not known, such as the seconds of an evaluation that was killed and resumed, is absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.comparisons.costs import input_of, lineage, total
from eval.knowledge.config import PricesConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL
from plumbrule.store.layout import artifacts_of, find_artifact
from plumbrule.store.manifests import Manifest, read_manifest

NO_TRAINING = ("data", "encoder", "index")
"""Kinds whose seconds are not those of a training."""
Costs = dict[str, float]
MILLION, GIGABYTE = 1e6, 1e9


def costs_of(
    arm: Artifact, baseline: Artifact, condition: str, facts: Mapping[str, Artifact]
) -> Costs:
    """Return what an arm cost, but for what its answers say.

    Args: condition: under which it was evaluated. facts: kind -> what timed one new fact.
    Raises: ArtifactError: something that it was made from is no longer in the store.
    """
    shared = lineage(baseline, "policy")
    made = {key: m for key, m in lineage(arm, "policy").items() if key not in shared}
    found = {
        "training_seconds": sum(m.wall_seconds for m in made.values() if m.kind not in NO_TRAINING),
        **{
            name: total(arm, "policy", without=shared)[name]
            for name in ("training_tokens", "generated_tokens")
        },
        "policy_bytes": 0.0,
        "index_bytes": 0.0,
    }
    policy, index = input_of(arm, "policy"), input_of(arm, "index")
    if policy in made:
        found["policy_bytes"] = float(weight_bytes(made[policy]))
    if condition == "rag" and index is not None:
        found["index_bytes"] = float(file_bytes(manifest_of(arm, index)))
    seconds = arm.metrics.get(f"time/item_seconds_questions_{condition}")
    if seconds is not None:
        found["seconds_per_answer"] = seconds
    kind = "add_fact" if condition == "rag" else "learn_fact" if policy in made else ""
    if kind in facts:
        names = {"fact_answered": "answered", "fact_seconds": "until_answered_seconds"}
        told = {name: f"{kind}/{metric}" for name, metric in names.items()}
        metrics = facts[kind].metrics
        found |= {name: metrics[metric] for name, metric in told.items() if metric in metrics}
    return found


def manifest_of(artifact: Artifact, fingerprint: str) -> Manifest:
    """Return the manifest of an artifact of the same store, which `lineage` has found there."""
    folder = find_artifact(artifacts_of(artifact.path), fingerprint)
    assert folder is not None
    return read_manifest(folder)


def weight_bytes(manifest: Manifest) -> int:
    """Return the bytes of a policy's weights; of one with an adapter the adapter's alone, whose
    base lies in a folder of its own.
    """
    return sum(
        int(about["size"])
        for name, about in manifest.files.items()
        if name.startswith(f"{MODEL}/") and name.count("/") == 1 and name.endswith(".safetensors")
    )


def file_bytes(manifest: Manifest) -> int:
    """Return the bytes of all files of an artifact."""
    return sum(int(about["size"]) for about in manifest.files.values())


def price(costs: Mapping[str, float], prices: PricesConfig) -> float:
    """Return the cost of 1,000 answers, their share of training and storage included."""
    answer = (
        costs["prompt_tokens"] * prices.input_tokens + costs["answer_tokens"] * prices.output_tokens
    ) / MILLION
    training = (
        costs["training_tokens"] * prices.training_tokens
        + costs["generated_tokens"] * prices.output_tokens
    ) / MILLION
    kept = (costs["policy_bytes"] + costs["index_bytes"]) / GIGABYTE
    storage = kept * prices.gigabyte_month * prices.months
    return 1000 * (answer + (training + storage) / prices.num_answers)


def mean_costs(seeds: Sequence[Mapping[str, float]]) -> Costs:
    """Return each cost's mean over seeds, of those that are known of all of them."""
    names = [name for name in seeds[0] if all(name in costs for costs in seeds)]
    return {name: sum(costs[name] for costs in seeds) / len(seeds) for name in names}
