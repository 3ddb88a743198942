"""What may be learned from rankings, checked before a model loads. No torch here."""

from __future__ import annotations

from plumbrule.config import require
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode
from plumbrule.store.manifests import read_manifest


def require_one_set_of_passages(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError where rankings are of answers that a policy gave with searches of its own.

    A ranking holds the passages of its prompt, which all its answers share. Each of these was shown
    others, so a model would learn which answer is better from passages that the answer never saw.
    """
    for name, source in node.inputs.items():
        if not name.startswith(("preferences", "ood")):
            continue
        if source.given is None:
            search = getattr(source.config, "search", None)
            turns = 1 if search is None else search.max_turns
        else:
            turns = (read_manifest(source.given).config.get("search") or {}).get("max_turns", 1)
        require(
            turns == 1,
            "feedback.search.max_turns",
            f"{turns} turns",
            f"be 1 where node {node.name} learns from the rankings: each answer was shown passages "
            "of its own, and a ranking holds those of its prompt",
            "set it to 1, or choose among the answers with best_of_n or reject",
        )
