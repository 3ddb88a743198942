"""The graph that a config describes: typed nodes, checked and put in order."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plumbrule.errors import GraphError
from plumbrule.pipeline.stages import STAGES, slot_of


@dataclass
class NodeConfig:
    """One node of the graph."""

    kind: str = ""
    inputs: dict[str, str | None] = field(default_factory=dict)
    """Slot -> node name, artifact (kind/fingerprint) or folder; None: the slot is left empty."""
    set: dict[str, Any] = field(default_factory=dict)
    """Delta on the config of the node's kind."""
    each: dict[str, list[Any]] = field(default_factory=dict)
    """Setting, dotted -> values: the node stands for one with each
    (`plumbrule/pipeline/variations.py`)."""
    member_of: str | None = None
    """The node that it is another member of; an ensemble fills it in."""
    given: Any = None
    """What it stands for where it is not built here (`plumbrule/pipeline/given_inputs.py`)."""


FILLED_IN = ("member_of", "given")
"""Fields of a node that no config gives."""


@dataclass(frozen=True)
class Node:
    """One node with its typed config, as it is built."""

    name: str
    kind: str
    inputs: Mapping[str, str]
    config: Any


def read_nodes(given: Mapping[str, Any]) -> dict[str, NodeConfig]:
    """Return typed nodes.

    Raises: GraphError: a node is no mapping, has a field that nodes do not have, an unknown kind,
    or an input that its kind does not take; also where no goal needs the node.
    """
    fields = [f.name for f in dataclasses.fields(NodeConfig) if f.name not in FILLED_IN]
    nodes = {}
    for name, about in given.items():
        if not isinstance(about, Mapping):
            raise GraphError(f"nodes.{name} (={about!r}) must be a mapping with a kind.")
        for key, value in about.items():
            if key not in fields:
                raise GraphError(f"nodes.{name}.{key} must be a field; {nearest(key, fields)}")
            if key != "kind" and not isinstance(value, Mapping):
                raise GraphError(f"nodes.{name}.{key} (={value!r}) must be a mapping.")
        nodes[name] = NodeConfig(**about)
        for axis in nodes[name].each:
            if not isinstance(axis, str):
                raise GraphError(f"nodes.{name}.each (={axis!r}) must name settings.")
        kind = nodes[name].kind
        if kind not in STAGES:
            raise GraphError(
                f"nodes.{name}.kind (={kind!r}) must be a stage kind; {nearest(kind, STAGES)}"
            )
        for slot in nodes[name].inputs:
            if slot_of(kind, slot) is None:
                raise GraphError(
                    f"nodes.{name}.inputs (={slot}) must be an input of {kind}; "
                    f"{nearest(slot, STAGES[kind].slots)}"
                )
    return nodes


def order(nodes: Mapping[str, NodeConfig], goals: list[str], key: str = "run.goals") -> list[str]:
    """Return the nodes that `goals`, given by the setting `key`, need, each after its inputs.

    Raises: GraphError: an unknown node, an input of the wrong kind or a missing one, a cycle.
    """
    done: list[str] = []
    open_: list[str] = []

    def visit(name: str, user: str) -> None:
        if name not in nodes:
            raise GraphError(f"{user} must name a node; {nearest(name, nodes)}")
        if name in open_:
            circle = " -> ".join([*open_[open_.index(name) :], name])
            raise GraphError(f"nodes must not form a cycle; this one does: {circle}.")
        if name in done:
            return
        open_.append(name)
        _check_node(name, nodes)
        for slot, source in nodes[name].inputs.items():
            if source is not None:
                visit(source, f"nodes.{name}.inputs.{slot} (={source})")
        open_.pop()
        done.append(name)

    for goal in goals:
        visit(goal, f"{key} (={goal})")
    return done


def _check_node(name: str, nodes: Mapping[str, NodeConfig]) -> None:
    """Raise GraphError unless a node's inputs are of the right kinds and none is missing."""
    node = nodes[name]
    if node.given is not None:
        return
    for given, source in node.inputs.items():
        taken = slot_of(node.kind, given)
        if taken is None or source is None or source not in nodes:
            continue  # `read_nodes` and `order` refuse what is wrong with these
        if nodes[source].kind not in taken.kinds:
            raise GraphError(
                f"nodes.{name}.inputs.{given} (={source}) must be of kind "
                f"{' or '.join(taken.kinds)}, not {nodes[source].kind}; name another node."
            )
    given_slots = [slot_of(node.kind, s) for s, source in node.inputs.items() if source is not None]
    for needed, slot in STAGES[node.kind].slots.items():
        missing = node.inputs.get(needed) is None
        if slot.gathers:  # under any name that begins with the slot's
            missing = not any(given is slot for given in given_slots)
        if slot.required and missing:
            raise GraphError(
                f"nodes.{name}.inputs.{needed} (=null) must name a node of kind "
                f"{' or '.join(slot.kinds)}; {node.kind} can't run without it."
            )


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint: the nearest of `names`, or all of them."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(sorted(names))}."
