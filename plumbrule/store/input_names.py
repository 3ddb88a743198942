"""Names of a stage's inputs, of a slot `rm`:

rm                         the slot's artifact
rm_1, rm_warm              further ones, of a slot that takes many
run_rloo@seed=0@kl.coef=2  a variation of a node, of a slot `run` that gathers
"""

from __future__ import annotations

SIGN = "@"
Variation = tuple[tuple[str, str], ...]
"""(setting, value as text) pairs."""


def is_of_slot(name: str, slot: str) -> bool:
    """Return whether an input's name is one of a slot's, whatever its variation."""
    head = name.partition(SIGN)[0]
    return head == slot or head.startswith(f"{slot}_")


def suffix_of(variation: Variation) -> str:
    """Return what a variation adds to a node's or an input's name."""
    return "".join(f"{SIGN}{setting}={value}" for setting, value in variation)
