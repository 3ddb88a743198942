"""What a policy gained and how far it went for it: reward against the KL to where it started.

Two figures: a point for each policy that a comparison measured, with its interval, and the way of
each training, update by update. A policy at a larger KL with no more gain has found nothing but
flaws of the reward, so a gain is read beside its KL (Bai et al. 2022, Gao et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plumbrule.report import plots
from plumbrule.report.answers import KL, MAIN, policy_of
from plumbrule.report.curves import is_finite, logged_rows, thinned
from plumbrule.store.artifacts import Artifact
from plumbrule.store.input_names import SIGN

X = "KL to where the policy started (nats per response)"
REWARDS = {"objective/scores": "reward", "reward/gold_raw": "gold"}
"""Logged metrics that are drawn against the logged KL, and their names in the legend."""
UNITS = {
    "gold_gain": "gain in gold utility",
    "reward_gain": "gain in reward",
    "reward_change": "gain in reward",
    "proxy_change": "change of the reward model's score",
}
FEWEST_ON_A_FRONTIER = 3
"""Policies from which the frontier is drawn as a line."""


def draw_frontier(
    nodes: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Sequence[Mapping[str, Any]]],
    folders: Mapping[str, Artifact],
) -> list[dict[str, Any]]:
    """Return the figures of a run's policies; none where no policy has a KL.

    Args: nodes: of the run's record. comparisons: compare node -> its rows. folders: node -> its
    artifact.
    """
    found = [_policies(nodes, comparisons), _trainings(folders)]
    return [
        {**figure, "svg": svg, "legend": plots.legend(figure)}
        for figure in found
        if figure["series"] and (svg := plots.plot(figure))
    ]


def _policies(
    nodes: Mapping[str, Mapping[str, Any]],
    comparisons: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """Return the figure of a point per compared policy: (KL, gain, low, high)."""
    what = next(
        (m for m in MAIN for rows in comparisons.values() for r in rows if r["what"] == m), ""
    )
    points: dict[str, list[tuple[float, ...]]] = {}
    for compare, rows in comparisons.items():
        row = next((r for r in rows if r["what"] == what and r["condition"] == "all"), None)
        policy = policy_of(nodes, compare, "policy")
        metrics = nodes.get(policy, {}).get("metrics", {})
        kl = next((metrics[name] for name in KL if name in metrics), None)
        if row is not None and kl is not None and is_finite(kl):
            point = (kl, row["difference"], row["low"], row["high"])
            points.setdefault(policy.split(SIGN)[0], []).append(point)
    series: list[dict[str, Any]] = [
        {"name": policy, "style": "dots", "colour": place, "points": own}
        for place, (policy, own) in enumerate(points.items())
    ]
    every = [point for own in points.values() for point in own]
    if every:
        edge = frontier([(0.0, 0.0), *(p[:2] for p in every)])
        if len(every) >= FEWEST_ON_A_FRONTIER and len(edge) > 1:
            line = {"name": "frontier", "style": "dashes", "colour": 7, "points": edge}
            series.append(line)
        start = {"name": "start", "style": "dots", "colour": 7, "points": [(0.0, 0.0)]}
        series.append(start)
    return {
        "title": UNITS.get(what, what),
        "caption": "A point for each policy, with the 95 % interval of its paired difference to "
        "the start; on the dashed line no other policy gains more at a smaller KL.",
        "x": X,
        "y": "per response",
        "series": series,
    }


def frontier(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return the points (KL, gain) that gain more than all with a smaller KL, by KL."""
    found: list[tuple[float, ...]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def _trainings(folders: Mapping[str, Artifact]) -> dict[str, Any]:
    """Return the figure of each training's way: a line through its updates, reward over KL."""
    lines: list[tuple[str, str, list[tuple[float, float]]]] = []
    for node, artifact in folders.items():
        rows = logged_rows(artifact)
        for metric, label in REWARDS.items():
            points = [
                (row["objective/kl"], row[metric])
                for row in rows
                if metric in row and "objective/kl" in row
            ]
            known = [p for p in points if all(map(is_finite, p))]
            if len(known) > 1:
                lines.append((label, node, thinned(known)))
    by_node = dict.fromkeys(node.split(SIGN)[0] for _, node, _ in lines)
    names = [label if len(by_node) == 1 else f"{n.split(SIGN)[0]} {label}" for label, n, _ in lines]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    told: set[str] = set()
    series = []
    for name, (_, _, points) in zip(names, lines, strict=True):
        shown = "" if name in told else name
        told.add(name)
        series.append({"name": shown, "style": "way", "colour": places[name], "points": points})
    return {
        "title": "the way of training",
        "caption": "Mean reward of a rollout over its KL, a line through the updates, the last one "
        "marked; gold is there where the run logs it.",
        "x": X,
        "y": "per response",
        "series": series,
    }
