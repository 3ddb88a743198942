"""Where each role's records come from, and what a graph does without records that a run lacks.

A run on other data than Atlas takes nothing from Atlas that it does not name. Of its graph, what
the data can't fill is left out by itself, and said once: a benchmark without items, an index
without documents, an evaluation of nothing. Rankings come from the data where it holds any; the
gold utility, which knows the answers of Atlas alone, ranks nothing else. What the goals can't do
without is an error, and one message lists all of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from plumbrule.atlas.config import ATLAS_SIZES
from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.readers import READERS, has_reader, read
from plumbrule.errors import ConfigError, DataError
from plumbrule.overrides import as_override
from plumbrule.pipeline.experiment import DatasetConfig, RunConfig
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.graph import NodeConfig, order
from plumbrule.pipeline.stages import BENCHMARKS, SHOTS, STAGES, section_of, slot_of
from plumbrule.store.input_names import is_of_slot

ATLAS = "atlas"
FIRST_ROWS = 50
"""Of a source; where all of these are left out, its role is taken for one that it can't fill."""
LABELLERS = "rm, judge, person or file (docs/labelling.md)"


@dataclass
class Fitted:
    """A graph that the data can fill.

    left_out: sentences. missing: what the goals can't do without.
    """

    nodes: dict[str, NodeConfig]
    goals: list[str]
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def source_of(config: RunConfig, role: str, is_train_split: bool = False) -> DatasetConfig:
    """Return where a role's records come from: a benchmark's folder, `data.<role>` or `dataset`.

    is_train_split: of a benchmark's train split, which the config names.
    """
    folder = BENCHMARKS[role].folder(config.eval) if role in BENCHMARKS else None
    if is_train_split:
        folder = BENCHMARKS[role].train_split(config.eval)
    if folder is not None:
        return dataclasses.replace(
            type(config.dataset)(format=role, path=folder), split_seed=config.dataset.split_seed
        )
    return config.data.get(role, config.dataset)


def with_named_benchmarks(
    config: RunConfig, nodes: Mapping[str, NodeConfig]
) -> dict[str, NodeConfig]:
    """Return the graph with the benchmarks whose files the config names and that it lacks.

    Such a benchmark gets a data node of its name, and each evaluation an input of it, but for one
    that has that input set, to null or to something else.

    Raises: ConfigError: a node of that name does something else.
    """
    found = dict(nodes)
    roles = {one.set.get("role") for one in nodes.values() if one.kind == "data"}
    for name, benchmark in BENCHMARKS.items():
        if benchmark.folder(config.eval) is None or name in roles:
            continue
        if name in nodes:
            raise ConfigError(
                f"eval.{name}.path needs a node {name} that prepares its items, and nodes.{name} is"
                f" of kind {nodes[name].kind}; give that node another name."
            )
        for user, about in nodes.items():
            if about.kind == "eval" and about.given is None and name not in about.inputs:
                inputs = {**found[user].inputs, name: name}
                found[user] = dataclasses.replace(found[user], inputs=inputs)
        found[name] = NodeConfig(kind="data", set={"role": name})
    return _with_train_splits(config, found)


def _with_train_splits(config: RunConfig, nodes: Mapping[str, NodeConfig]) -> dict[str, NodeConfig]:
    """Return the graph with a data node for each train split that the config names, an input of
    each evaluation that measures the benchmark.

    Raises: ConfigError: a node of that name is there.
    """
    found = dict(nodes)
    for name, benchmark in BENCHMARKS.items():
        own = f"{name}{SHOTS}"
        if benchmark.example is None or benchmark.train_split(config.eval) is None:
            continue
        if own in nodes:
            raise ConfigError(
                f"eval.{name}.shots needs a node {own} that prepares its rows, and nodes.{own} is "
                "there; give that node another name."
            )
        for user, about in nodes.items():
            if about.kind == "eval" and about.given is None and about.inputs.get(name):
                inputs = {**about.inputs, own: own}
                found[user] = dataclasses.replace(about, inputs=inputs)
        found[own] = NodeConfig(kind="data", set={"role": name, "train_split": True})
    return found


def fit_to_data(config: RunConfig, nodes: Mapping[str, NodeConfig], goals: list[str]) -> Fitted:
    """Return the graph with benchmarks that the config names, and without what the data can't fill.

    Raises: GraphError: see `order`. ConfigError: as `with_named_benchmarks`.
    """
    nodes = with_named_benchmarks(config, nodes)
    needed = order(nodes, goals)
    fitted = Fitted(dict(nodes), list(goals))
    built = {name: about for name, about in nodes.items() if about.given is None}
    roles = {n: str(one.set.get("role")) for n, one in built.items() if one.kind == "data"}
    sources = {
        name: source_of(config, role, bool(built[name].set.get("train_split")))
        for name, role in roles.items()
    }
    unplaced = {s.format for n, s in sources.items() if s.format != ATLAS and s.path is None}
    if unplaced & {sources[name].format for name in needed if name in sources}:
        fitted.missing.append(
            "dataset.path (=None) must name a file or folder of format "
            f"{', '.join(sorted(unplaced))}; pass dataset.path=<file or folder>"
        )
        return fitted
    if all(s.format == ATLAS and can_fill(s, roles[name]) for name, s in sources.items()):
        return fitted
    lacking = {name: "" for name in roles if not can_fill(sources[name], roles[name])}
    _take_own_preferences(config, fitted, needed, sources, lacking)
    needed = _reached(config, fitted, goals)
    wants = _drop_users(config, fitted, needed, lacking)
    _say(fitted, roles, sources, needed, lacking, wants)
    return fitted


def _take_own_preferences(
    config: RunConfig,
    fitted: Fitted,
    needed: Sequence[str],
    sources: Mapping[str, DatasetConfig],
    lacking: dict[str, str],
) -> None:
    """Point what learns from gold's rankings at the data's own; gold's of other prompts lack."""
    own = next(
        (
            name
            for name, source in sources.items()
            if fitted.nodes[name].set.get("role") == "preferences"
            and source.format != ATLAS
            and name not in lacking
        ),
        None,
    )
    for name in needed:
        about = fitted.nodes[name]
        if about.kind != "feedback" or about.given is not None:
            continue
        prompts = sources.get(about.inputs.get("prompts") or "")
        labeller = about.set.get("labeller", config.feedback.labeller)
        if labeller != "gold" or prompts is None:
            continue
        if prompts.format != ATLAS:
            lacking[name] = (
                f"nodes.{name}: feedback.labeller (=gold) must be another for prompts that are not "
                f"Atlas's, whose answers gold knows; give rankings "
                f"(dataset@data.preferences=jsonl data.preferences.path=<file>), set "
                f"feedback.labeller to {LABELLERS}, or train against another reward "
                f"(docs/bring_data.md)"
            )
        elif "preferences" not in config.data:
            continue
        for user in needed:
            inputs = fitted.nodes[user].inputs
            slots = [s for s, given in inputs.items() if given == name and s == "preferences"]
            if own is not None and slots:
                changed = {**inputs, **dict.fromkeys(slots, own)}
                fitted.nodes[user] = dataclasses.replace(fitted.nodes[user], inputs=changed)


def _drop_users(
    config: RunConfig, fitted: Fitted, needed: Sequence[str], lacking: dict[str, str]
) -> dict[str, list[str]]:
    """Empty the inputs that lack a source; return what else lacks, with the inputs it is for want
    of.

    A node that is asked for needs what its reward names, and an evaluation needs something to
    measure. Without an index a policy is shown no passages.
    """
    wants: dict[str, list[str]] = {}
    for name in needed:
        about = fitted.nodes[name] = _without_unread(config, fitted.nodes[name])
        gone = [s for s in _read(config, about) if about.inputs[s] in lacking]
        if not gone or name in lacking:
            continue
        kept = {s: source for s, source in about.inputs.items() if s not in gone}
        for slot in gone:
            taken = slot_of(about.kind, slot)
            others = [s for s, source in kept.items() if source and slot_of(about.kind, s) is taken]
            rewarded = is_of_slot(slot, "rm") and _wants_reward_model(config, about)
            if taken is not None and (taken.required or rewarded) and not others:
                wants.setdefault(name, []).append(str(about.inputs[slot]))
        one_of = STAGES[about.kind].needs_one_of
        if one_of and not any(kept.get(s) is not None for s in one_of):
            wants.setdefault(name, []).extend(str(about.inputs[s]) for s in gone)
        if name in wants:
            lacking[name] = ""
            continue
        changed: dict[str, Any] = {"inputs": {**kept, **dict.fromkeys(gone)}}
        if "index" in gone and not STAGES[about.kind].passages_optional:
            own = about.set.get("retrieval", {})
            changed["set"] = {**about.set, "retrieval": {**own, "share": 0.0}}
        fitted.nodes[name] = dataclasses.replace(about, **changed)
    return wants


def _without_unread(config: RunConfig, about: NodeConfig) -> NodeConfig:
    """Return a node without optional inputs that it does not read: their data may not be there."""
    read = _read(config, about)
    inputs = {
        slot: None
        if slot not in read and (taken := slot_of(about.kind, slot)) and not taken.required
        else source
        for slot, source in about.inputs.items()
    }
    return dataclasses.replace(about, inputs=inputs)


def _read(config: RunConfig, about: NodeConfig) -> list[str]:
    """Return the inputs that a node reads, as its section of the config has it; all of a node with
    settings of its own.
    """
    if about.given is not None:
        return []
    if about.set or about.each:
        return [slot for slot, source in about.inputs.items() if source is not None]
    section = getattr(config, section_of(about.kind), None)
    found = []
    for slot, source in about.inputs.items():
        taken = slot_of(about.kind, slot)
        if source is not None and (taken is None or section is None or taken.read_if(section)):
            found.append(slot)
    return found


def _reached(config: RunConfig, fitted: Fitted, goals: Sequence[str]) -> list[str]:
    """Return the nodes that goals need by what each of them reads, inputs before users."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for slot in _read(config, fitted.nodes[name]):
                visit(str(fitted.nodes[name].inputs[slot]))
            done[name] = None

    for goal in goals:
        visit(goal)
    return list(done)


def _wants_reward_model(config: RunConfig, about: NodeConfig) -> bool:
    """Return whether a node's reward, as its section of the config has it, names rm."""
    reward = STAGES[about.kind].reward(getattr(config, section_of(about.kind)))
    if about.kind == "feedback" or reward is None or "reward" in about.set or "terms" in about.set:
        return False
    return "rm" in reward.weights


def _say(
    fitted: Fitted,
    roles: Mapping[str, str],
    sources: Mapping[str, DatasetConfig],
    needed: Sequence[str],
    lacking: Mapping[str, str],
    wants: Mapping[str, list[str]],
) -> None:
    """Fill in the goals that are left, what is left out, and what the goals can't do without."""
    goals = [goal for goal in fitted.goals if goal not in lacking]
    absent = [name for name in needed if name in lacking]
    if goals:
        fitted.goals = goals
        empty = [roles[name] for name in absent if name in roles]
        users = [name for name in absent if name not in roles]
        if empty:
            without = f", and with them {', '.join(users)}" if users else ""
            fitted.left_out.append(
                f"left out, since the data hold none: {', '.join(empty)}{without}"
            )
        return
    users_of: dict[str, list[str]] = {}

    def visit(name: str, user: str) -> None:
        users_of.setdefault(name, []).append(user)
        for source in wants.get(name, []):
            visit(source, name)

    measured = [goal for goal in fitted.goals if fitted.nodes[goal].kind != "eval"]
    for goal in measured or fitted.goals:
        visit(goal, "")
    for name, users in users_of.items():
        if lacking[name]:
            fitted.missing.append(lacking[name])
        elif name in roles:
            fitted.missing.append(
                f"role {roles[name]}, which {' and '.join(dict.fromkeys(users))} can't do without, "
                f"must have records, and {_shown(sources[name])} holds none; give it a source: "
                f"dataset@data.{roles[name]}=jsonl data.{roles[name]}.path=<file>"
            )


def can_fill(source: DatasetConfig, role: str) -> bool:
    """Return whether a source holds records for a role, as its first rows show.

    A source that can't be read for any role is not judged here: reading it says what is wrong.
    """
    if source.format == ATLAS:
        return role not in BENCHMARKS or role in ATLAS_SIZES
    if source.path is None or not Path(source.path).exists():
        return True
    if not has_reader(source.format, role, items_of(role)):
        return False
    if _reads(source.format, source.path, role):
        return True
    others = {r for f, r in READERS if f == source.format}
    if BENCHMARK in others:
        others |= set(BENCHMARKS)
    others -= {role, BENCHMARK}
    return not any(_reads(source.format, source.path, other) for other in others)


def items_of(role: str) -> ItemFormat | None:
    """Return what the rows of a benchmark's role hold; None for any other role."""
    return BENCHMARKS[role].items if role in BENCHMARKS else None


@lru_cache(maxsize=256)
def _reads(format: str, path: str, role: str) -> bool:
    """Return whether one of the first rows gives a record."""
    try:
        rows = itertools.islice(read(format, role, path, items_of(role)), FIRST_ROWS)
        return any(row.record is not None for row in rows)
    except DataError:
        return False


def refuse_missing(missing: Sequence[str]) -> None:
    """Raise one ConfigError that lists everything; none where nothing is missing."""
    if len(missing) == 1:
        raise ConfigError(f"{missing[0].rstrip('.')}.")
    if missing:
        listed = " ".join(f"({i}) {m.rstrip('.')}." for i, m in enumerate(missing, 1))
        raise ConfigError(f"{len(missing)} things must be set: {listed}")


def describe_sources(nodes: Sequence[Any], rows: Mapping[str, str]) -> list[str]:
    """Return a line per source with the roles that it fills, and one on who ranked.

    Args: nodes: of the plan. rows: data node -> what is known of its rows.
    """
    by_source: dict[str, list[str]] = {}
    for node in nodes:
        if node.kind == "data" and not isinstance(node.config, Given):
            told = rows.get(node.name)
            role = f"{node.config.role} ({told})" if told else node.config.role
            by_source.setdefault(_shown(node.config.dataset), []).append(role)
    lines = [f"{source}: {', '.join(roles)}" for source, roles in by_source.items()]
    by_name = {node.name: node for node in nodes}
    rankings: dict[str, list[str]] = {}
    for node in nodes:
        for slot, source in node.inputs.items():
            if slot.startswith("preferences") and source in by_name:
                rankings.setdefault(_ranked_by(by_name[source]), []).append(node.name)
    return lines + [f"{who}: rankings for {', '.join(users)}" for who, users in rankings.items()]


def _ranked_by(node: Any) -> str:
    if isinstance(node.config, Given):
        return f"artifact {node.name}"
    if node.kind == "feedback":
        labeller = node.config.labeller
        return {"gold": "gold utility of Atlas", "rm": "feedback.reward"}.get(labeller, labeller)
    if node.kind == "data" and node.config.dataset.format != ATLAS:
        return "the data's own"
    return "Atlas"


def _shown(source: DatasetConfig) -> str:
    if source.format == ATLAS:
        return "Atlas (generated)"
    return f"{source.format} {source.path}"


def model_words(words: Sequence[str], files: Sequence[str]) -> list[str]:
    """Return the arguments with `model=<folder or hub name>` written out.

    Args: files: names of the files of conf/model, which go before folders.
    """
    written: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        named = value.strip("'\"")
        if key == "model" and named not in files and ("/" in named or Path(named).is_dir()):
            import shlex

            named = named if not named.startswith("~") else str(Path(named).expanduser())
            written += ["model=given", *shlex.split(as_override("model.name_or_path", named))]
        else:
            written.append(word)
    return written
