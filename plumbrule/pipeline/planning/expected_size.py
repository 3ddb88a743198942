"""How much disk a node's artifact may take, told from artifacts of the same node."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from plumbrule.pipeline.plan import Planned
from plumbrule.store.artifacts import Store
from plumbrule.store.fingerprint import differences

LIKE = 5
"""Artifacts from which a size is guessed."""


def bytes_of_artifacts(plan: Sequence[Planned], store: Store) -> dict[str, float | None]:
    """Return the bytes that each node to be built may publish, by fingerprint; None: not known.

    The median over the most alike artifacts of the same node. While it is built a node takes more:
    its checkpoints, each about as large.
    """
    todo = [planned for planned in plan if planned.state in ("build", "resume")]
    manifests = store.manifests() if todo else []
    found: dict[str, float | None] = {}
    for planned in todo:
        name = planned.node.name.split("@")[0]
        alike = [
            (
                len(differences(dict(m.config), dict(planned.config))),
                sum(int(about["size"]) for about in m.files.values()),
            )
            for m in manifests
            if m.kind == planned.node.kind and m.node.split("@")[0] == name
        ]
        nearest = min((changes for changes, _ in alike), default=0)
        sizes = [size for changes, size in alike if changes == nearest][-LIKE:]
        found[planned.fingerprint] = float(median(sizes)) if sizes else None
    return found
