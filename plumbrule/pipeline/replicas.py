"""An ensemble of reward models as nodes: what `rm.ensemble=5` means.

The nodes are ordinary ones, so each is planned, cached and shared by itself: an experiment with
three of five finds them in the store.
"""

from __future__ import annotations

import dataclasses

from plumbrule.errors import GraphError
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.graph import NodeConfig
from plumbrule.pipeline.stages import STAGES


def expand_ensembles(config: RunConfig, nodes: dict[str, NodeConfig]) -> dict[str, NodeConfig]:
    """Return the nodes with the further members of every ensemble, and their users' inputs.

    A member is the node with another seed. Where `ensemble_from` is base, the policy that it
    starts from, and the base model of that, are made anew with other seeds too.
    Raises: GraphError: a member's name is taken; ensemble_from=base with a model that is not made
    from scratch, or a policy that is none of the kinds sft and base.
    """
    every = dict(nodes)
    for name, node in nodes.items():
        if node.kind != "rm" or node.given is not None:
            continue
        number = int(node.set.get("ensemble", config.rm.ensemble))
        for i in range(1, number):
            member = f"{name}_{i}"
            inputs = dict(node.inputs)
            if node.set.get("ensemble_from", config.rm.ensemble_from) == "base":
                inputs["policy"] = _policy_of_its_own(config, every, inputs.get("policy"), i)
            seed = int(node.set.get("seed", config.rm.seed)) + i
            _add(every, member, dataclasses.replace(node, inputs=inputs, member_of=name), seed)
        for user, about in every.items():
            every[user] = _with_members(about, name, number)
    return every


def _policy_of_its_own(
    config: RunConfig, nodes: dict[str, NodeConfig], policy: str | None, i: int
) -> str:
    """Add member i's policy and its base model to the nodes; return the policy's name."""
    chain = []
    name = policy
    while name in nodes and nodes[name].kind == "sft":
        chain.append(name)
        name = nodes[name].inputs.get("base")
    if name not in nodes or nodes[name].kind != "base" or config.model.name_or_path is not None:
        raise GraphError(
            f"rm.ensemble_from (=base) must be head where the policy ({policy}) does not come from "
            "a base model that is made here; use head, or a model from scratch such as model=micro."
        )
    made = f"{name}_{i}"
    if made not in nodes:
        seed = int(nodes[name].set.get("seed", config.base.seed)) + i
        _add(nodes, made, dataclasses.replace(nodes[name], member_of=name), seed)
    for sft in reversed(chain):
        inputs = {**nodes[sft].inputs, "base": made}
        about = dataclasses.replace(nodes[sft], inputs=inputs, member_of=sft)
        made = f"{sft}_{i}"
        if made not in nodes:
            _add(nodes, made, about, int(about.set.get("seed", config.sft.seed)) + i)
    return made


def _add(nodes: dict[str, NodeConfig], name: str, like: NodeConfig, seed: int) -> None:
    if name in nodes:
        raise GraphError(
            f"nodes.{name} must be left to rm.ensemble, which makes a node of that name; rename it."
        )
    nodes[name] = dataclasses.replace(like, set={**like.set, "seed": seed})


def _with_members(node: NodeConfig, name: str, number: int) -> NodeConfig:
    """Return a user of reward model `name` with inputs for the other members."""
    more: dict[str, str | None] = {}
    for slot, source in node.inputs.items():
        known = STAGES[node.kind].slots.get(slot)
        if source == name and known is not None and known.many:
            more |= {f"{slot}_{i}": f"{name}_{i}" for i in range(1, number)}
    taken = sorted(slot for slot in more if slot in node.inputs)
    if taken:
        raise GraphError(f"inputs (={taken}) must be left to rm.ensemble; take them out.")
    return dataclasses.replace(node, inputs={**node.inputs, **more}) if more else node
