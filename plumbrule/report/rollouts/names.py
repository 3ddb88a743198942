"""Names and bounds of rollout pages, for whoever writes or links them; imports no pyarrow."""

from __future__ import annotations

import re

LIMIT = 10_000
"""Rollouts that a page holds unless told otherwise: about 10 MB where responses have 50 tokens."""
OF_A_RUN = 5_000
"""Rollouts up to which a run that built its PPO writes their pages itself, all nodes together."""


def page_name(node: str, alone: bool) -> str:
    """Return the name of the file of a node's page: rollouts.html where it is the only one."""
    return "rollouts.html" if alone else f"rollouts-{re.sub('[^A-Za-z0-9_.-]+', '-', node)}.html"
