"""What can make a comparison of arms unfair or empty, found while planning. No torch here.

An artifact that is given, of which planning knows no settings, is compared as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.knowledge.config import LEAST_GROUPS, NEEDED, SIDES, KnowledgeConfig
from plumbrule.atlas.datasets import records
from plumbrule.config import require
from plumbrule.data.readers import read
from plumbrule.data.records import BenchmarkItem, read_records
from plumbrule.data.splits import bootstrap_cluster
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.file_names import RECORDS
from plumbrule.store.input_names import SIGN, is_of_slot

ARM = "arm_"
TOKENS_OF = {
    "training_tokens": "sft.train_tokens",
    "generated_tokens": "ppo.total_episodes times ppo.sampling.max_new_tokens",
}
"""Budget -> the setting that draws on it."""


def check_arms(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for arms that are missing, unequal, or asked too little."""
    config: KnowledgeConfig = node.config
    prices = config.prices
    require(
        bool(prices.source.strip()),
        "knowledge.prices.source",
        repr(prices.source),
        "say where the prices are from, since they stand beside every cost",
        "name the list and its date",
    )
    arms = evaluations_by_arm(node)
    for name in config.arms:
        require(
            name in arms,
            f"inputs of node {node.name}",
            ", ".join(f"{ARM}{arm}" for arm in arms) or "none",
            f"hold {ARM}{name}, which knowledge.arms names",
            f"set nodes.{node.name}.inputs.{ARM}{name}=<an eval node>, or take the arm out",
        )
    for name in arms:
        require(
            name in config.arms,
            "knowledge.arms",
            ", ".join(config.arms),
            f"name {name}, which is an input",
            "add it, or take the input out",
        )
    for number, baseline in enumerate(arms[config.baseline]):
        for name in config.arms:
            if number < len(arms[name]):
                check_arm(name, arms[name][number], baseline, config)
        check_questions(baseline)


def evaluations_by_arm(node: PlacedNode) -> dict[str, list[PlacedNode]]:
    """Return arm -> its evaluation nodes, one for each variation of the run."""
    found: dict[str, list[PlacedNode]] = {}
    for slot, source in node.inputs.items():
        if is_of_slot(slot, "arm"):
            name = slot.split(SIGN)[0].removeprefix("arm").removeprefix("_")
            found.setdefault(name, []).append(source)
    return found


def check_arm(name: str, arm: PlacedNode, baseline: PlacedNode, config: KnowledgeConfig) -> None:
    """Raise ConfigError unless an arm is asked what the baseline is, within the same budgets."""
    require(
        arm.given is not None or "questions" in arm.inputs,
        f"inputs of node {arm.name}",
        ", ".join(arm.inputs),
        f"hold questions, being arm {name}",
        f"set nodes.{arm.name}.inputs.questions=questions",
    )
    if arm.given is not None:
        return
    if baseline.given is None:
        asked = [one.inputs["questions"].name for one in (arm, baseline)]
        require(
            asked[0] == asked[1],
            f"nodes.{arm.name}.inputs.questions",
            asked[0],
            f"be {asked[1]}, which the baseline is asked",
            "give all arms the same questions",
        )
    conditions = [c for c in arm.config.conditions if c == "closed" or "index" in arm.inputs]
    require(
        len(conditions) == 1 and conditions[0] in ("closed", "rag"),
        f"eval.conditions of node {arm.name}",
        ", ".join(conditions),
        "be closed or rag alone, being one arm",
        f"set nodes.{arm.name}.set.conditions=[rag], or [closed]",
    )
    if conditions == ["rag"]:
        budget, own = config.budget.context_tokens, arm.config.retrieval.budget_tokens
        require(
            own == budget,
            f"eval.retrieval.budget_tokens of node {arm.name}",
            f"{own} tokens",
            f"be knowledge.budget.context_tokens (={budget}): arms have equal budgets",
            "set one of the two",
        )
    if baseline.given is None:
        check_training(name, arm.inputs["policy"], baseline.inputs["policy"], config)


def check_training(
    name: str, policy: PlacedNode, start: PlacedNode, config: KnowledgeConfig
) -> None:
    """Raise ConfigError unless what made an arm's policy of the baseline's keeps to the budgets.

    Of several nodes in a row that draw on one budget, the tokens count together.
    """
    spent: dict[str, list[tuple[str, int | None]]] = {}
    while policy.name != start.name and policy.given is None:
        if policy.kind == "sft":
            own, setting, source = policy.config.train_tokens, "training_tokens", "base"
        elif policy.kind == "ppo":
            own = policy.config.total_episodes * policy.config.sampling.max_new_tokens
            setting, source = "generated_tokens", "policy"
        else:
            raise ConfigError(
                f"arm {name} (=node {policy.name} of kind {policy.kind}) must be made by sft or "
                "ppo, whose budgets are compared; give the arm another policy."
            )
        spent.setdefault(setting, []).append((policy.name, own))
        if source not in policy.inputs:
            raise ConfigError(
                f"arm {name} (=node {policy.name}) must be made from the baseline's policy "
                f"({start.name}), or it differs by more than the arm; give it that as {source}."
            )
        policy = policy.inputs[source]
    for setting, nodes in spent.items():
        require_budget(setting, nodes, config)


def require_budget(
    setting: str, nodes: Sequence[tuple[str, int | None]], config: KnowledgeConfig
) -> None:
    """Raise ConfigError unless nodes (name, tokens) together have the budget of a setting."""
    budget = getattr(config.budget, setting)
    known = [tokens for _, tokens in nodes if tokens is not None]
    own = sum(known) if len(known) == len(nodes) else None
    names = " and ".join(name for name, _ in reversed(nodes))
    where = f"node {names}" if len(nodes) == 1 else f"nodes {names} together"
    require(
        own is not None and own == budget,
        f"{TOKENS_OF[setting]} of {where}",
        f"{own} tokens",
        f"be knowledge.budget.{setting} (={budget}): arms have equal budgets",
        "set both to the same number",
    )


def check_questions(baseline: PlacedNode) -> None:
    """Raise ConfigError unless there are questions on both sides of the cut-off."""
    if baseline.given is not None:
        return
    source = baseline.inputs["questions"]
    require_both_sides(planned_questions(source), f"questions of node {source.name}")


def require_both_sides(items: Sequence[BenchmarkItem], name: str) -> None:
    """Raise ConfigError unless each side of the cut-off has questions on two entities."""
    groups: Mapping[str, set[str]] = {which: set() for which in SIDES}
    for item in items:
        which = str(item.meta.get("answerable"))
        if which in groups:
            groups[which].add(item.group or bootstrap_cluster(item.id, item.meta))
    for which in NEEDED:
        number = len(groups[which])
        require(
            number >= LEAST_GROUPS,
            name,
            f"{len(items)}, on {number} entities {SIDES[which]} the cut-off",
            f"be on at least {LEAST_GROUPS} entities {SIDES[which]} the cut-off "
            f"(meta.answerable={which})",
            "raise atlas.num_questions, or give questions that have such facts",
        )


def planned_questions(source: PlacedNode) -> list[BenchmarkItem]:
    """Return the questions that a data node will hold, or holds."""
    if source.given is not None:
        return read_records(BenchmarkItem, source.given / RECORDS)
    dataset = source.config.dataset
    if dataset.format == "atlas":
        return list(records("questions", source.config.atlas).train)
    rows = read(dataset.format, source.config.role, dataset.path, source.config.items)
    found = [row.record for row in rows if isinstance(row.record, BenchmarkItem)]
    return found if dataset.max_rows is None else found[: dataset.max_rows]
