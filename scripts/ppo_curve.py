"""PPO's reward against its KL over the seeds of a run: a table, and a picture for a page.

    plumbrule run.seeds=[0,1,2,3,4] run.goals=[ppo]
    python scripts/ppo_curve.py <store>/runs/quickstart/<id> --picture docs/ppo_curve.svg

Every update's responses are scored before it trains on them, so update u shows the policy after
u - 1 updates. Intervals are Student's t over seeds, at 95 %.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from plumbrule.report.plots import plot
from plumbrule.statistics import Interval, seed_interval
from plumbrule.store.metric_rows import read_metrics

KL, REWARD = "objective/kl", "objective/scores"
STYLE = (
    "<style>text{font:10px sans-serif;fill:#666}.grid{stroke:#ddd}.zero{stroke:#888;"
    "stroke-dasharray:2 3}.line{fill:none;stroke:#2a6f97;stroke-width:1.8}.whisker{stroke:#2a6f97;"
    "stroke-width:1.2}circle{fill:#2a6f97}</style>"
)


def main() -> None:
    """Print the table, and write the picture if one is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run with several seeds")
    parser.add_argument("--picture", type=Path, help="an SVG file")
    given = parser.parse_args()
    every = curves(given.run)
    if not every:
        raise SystemExit(f"{given.run}: must hold a run with nodes of kind ppo; run them first.")
    updates = min(map(len, every))
    if updates < max(map(len, every)):
        print(f"only the {updates} updates that every seed has; some ended early")
    rows = [
        tuple(seed_interval([rows[i][name] for rows in every]) for name in (KL, REWARD))
        for i in range(updates)
    ]
    print(f"{len(every)} seeds\n\n| update | KL, nats | reward |\n| --- | --- | --- |")
    for number, (kl, reward) in enumerate(rows, 1):
        print(f"| {number} | {shown(kl)} | {shown(reward)} |")
    if given.picture:
        given.picture.write_text(picture(rows, len(every)) + "\n", encoding="utf-8")


def curves(run: Path) -> list[list[dict[str, Any]]]:
    """Return the logged updates of each PPO of a run."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    store = run.resolve().parents[2]
    nodes = record["nodes"].values()
    return [read_metrics(store / node["artifact"]) for node in nodes if node["kind"] == "ppo"]


def picture(rows: list[tuple[Interval, ...]], num_seeds: int) -> str:
    """Return the curve as SVG text that stands alone."""
    line = [(kl.value, reward.value) for kl, reward in rows]
    points = [
        (kl.value, reward.value, *((reward.low, reward.high) if reward.is_bounded else ()))
        for kl, reward in rows
    ]
    drawn = plot(
        {
            "title": f"reward against KL, {num_seeds} seeds",
            "x": "KL to the reference, nats",
            "series": [
                {"name": "", "style": "line", "colour": 0, "points": line},
                {"name": "reward", "style": "dots", "colour": 0, "points": points},
            ],
        }
    )
    head, rest = drawn.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}'


def shown(interval: Interval) -> str:
    """Return a mean with its interval."""
    return interval._replace(groups=None).text(2)  # the title says how many seeds


if __name__ == "__main__":
    main()
