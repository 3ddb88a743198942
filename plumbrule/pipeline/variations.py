"""One node of the config that stands for several: what `each` and `run.seeds` mean.

`ppo: {..., each: {kl.coef: [0.1, 0.2]}}` stands for two nodes, `ppo@kl.coef=0.1` and
`ppo@kl.coef=0.2`, and so does every node that reads it, directly or not. Several settings are
combined, each value with each; what two inputs inherit from one node is one axis, so its values go
together. Where several nodes vary a setting of one name, names say whose: `of@ppo.kl.coef=0.1`.

`run.seeds: [0, 1, 2]` stands for the graph of each seed, just as `seed=0`, `seed=1` and `seed=2`
would compose it. A node that no seed reaches, like the data, stays one.

A stage that gathers (`Slot.gathers`) ends an axis: it is one node that gets all of them, under the
slot's name with the variation behind it. `plumbrule/inputs.py` reads those names.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from plumbrule.errors import GraphError
from plumbrule.pipeline.graph import Node, NodeConfig
from plumbrule.pipeline.stages import slot_of
from plumbrule.store.input_names import SIGN, Variation, suffix_of

Graph = Mapping[str, NodeConfig]


class Case(NamedTuple):
    """A node of the config under one variation and one seed."""

    seed: int
    variation: dict[str, str]
    config: Any
    inputs: dict[str, str]


def vary(
    names: Sequence[str],
    graphs: Mapping[int, Graph],
    config_of: Callable[[int, str, Mapping[str, Any]], Any],
) -> dict[str, list[Node]]:
    """Return the nodes that each node of the config stands for, inputs before users.

    Args: names: in that order. graphs: seed -> nodes; their names are the same for all seeds.
    config_of: typed config of a node under a seed, its own varied settings merged in.
    Raises: GraphError: `each` names a setting without values, one twice, or seed.
    """
    found: dict[str, dict[Variation, Node]] = {}
    axes = _axes(names, next(iter(graphs.values())))
    for name in names:
        about = next(iter(graphs.values()))[name]
        if any((slot := slot_of(about.kind, s)) and slot.gathers for s in about.inputs):
            seeds = list(graphs)[:1]
        else:
            seeds = list(graphs)
        cases = [c for s in seeds for c in _cases(name, graphs[s][name], s, found, config_of, axes)]
        found[name] = {}
        for case in cases:
            alike = [other for other in cases if other.variation == case.variation]
            variation = case.variation
            if any((o.config, o.inputs) != (case.config, case.inputs) for o in alike):
                variation = {"seed": str(case.seed), **variation}
            key = tuple(variation.items())
            found[name][key] = Node(name + suffix_of(key), about.kind, case.inputs, case.config)
    return {name: list(nodes.values()) for name, nodes in found.items()}


def _cases(
    name: str,
    about: NodeConfig,
    seed: int,
    found: Mapping[str, Mapping[Variation, Node]],
    config_of: Callable[[int, str, Mapping[str, Any]], Any],
    axes: Mapping[tuple[str, str], str],
) -> list[Case]:
    """Return what a node stands for under one seed."""
    cases: list[Case] = []
    configs: list[Any] = []
    for own in _own_variations(name, about):
        config = config_of(seed, name, own)
        if config in configs:
            raise GraphError(f"nodes.{name}.each (={own}) must give each value once; drop one.")
        configs.append(config)
        read = _read(about, config)
        kinds = {slot: slot_of(about.kind, slot) for slot in read}
        gathered = {slot for slot, kind in kinds.items() if kind is not None and kind.gathers}
        variations = [{axes[name, setting]: _text(value) for setting, value in own.items()}]
        for slot, source in read.items():
            if slot not in gathered:
                given = [
                    dict(v) for v in found[source] if dict(v).get("seed", str(seed)) == str(seed)
                ]
                variations = _joined(given, variations)
        for variation in variations:
            inputs: dict[str, str] = {}
            for slot, source in read.items():
                for key, node in found[source].items():
                    if slot in gathered:
                        inputs[slot + suffix_of(key)] = node.name
                    elif slot not in gathered and dict(key).items() <= (
                        {"seed": str(seed), **variation}.items()
                    ):
                        inputs[slot] = node.name
            kept = {axis: value for axis, value in variation.items() if axis != "seed"}
            cases.append(Case(seed, kept, config, inputs))
    return cases


def _axes(names: Sequence[str], nodes: Graph) -> dict[tuple[str, str], str]:
    """Return (node, varied setting) -> how names call it: the setting, with the node if it must.

    Members of an ensemble vary together.
    """
    owners = {name: nodes[name].member_of or name for name in names}
    varied = {(owners[name], setting) for name in names for setting in nodes[name].each}
    times = Counter(setting for _, setting in varied)
    return {
        (name, s): s if times[s] == 1 else f"{owners[name]}.{s}"
        for name in names
        for s in nodes[name].each
    }


def _own_variations(name: str, about: NodeConfig) -> list[dict[str, Any]]:
    """Return the combinations of a node's own varied settings; one empty one where it has none."""
    for axis, values in about.each.items():
        texts = [_text(value) for value in values] if isinstance(values, list) else []
        if not texts or len(set(texts)) < len(texts):
            raise GraphError(
                f"nodes.{name}.each.{axis} (={values!r}) must be a list that names each value once."
            )
        if axis == "seed":
            raise GraphError(f"nodes.{name}.each (=seed) must leave seeds to run.seeds; set that.")
        if about.kind == "rm" and axis in ("ensemble", "ensemble_from"):
            raise GraphError(
                f"nodes.{name}.each (={axis}) must not vary what members there are; "
                "write a node for each."
            )
        if any(SIGN in text for text in texts):
            raise GraphError(f"nodes.{name}.each.{axis} (={values!r}) must not hold {SIGN!r}.")
    combined = itertools.product(*about.each.values())
    return [dict(zip(about.each, values, strict=True)) for values in combined]


def _read(about: NodeConfig, config: Any) -> dict[str, str]:
    """Return the inputs that the stage reads with this config."""
    read = {}
    for slot, source in about.inputs.items():
        kind = slot_of(about.kind, slot)
        if source is not None and (kind is None or kind.read_if(config)):
            read[slot] = source
    return read


def _joined(
    left: Sequence[dict[str, str]], right: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Return the union of each two that agree on the axes they share."""
    found = [{**a, **b} for a in left for b in right if _agree(a, b)]
    return list({tuple(sorted(one.items())): one for one in found}.values())


def _agree(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    return all(a[axis] == b[axis] for axis in a.keys() & b.keys())


def _text(value: Any) -> str:
    """Return a value as it stands in a node's name."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return "+".join(_text(v) for v in value) if isinstance(value, list) else str(value)
