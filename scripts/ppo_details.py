"""What each optional detail of PPO changed, gathered from the run folders of `sweep=ppo_details`.

    plumbrule -m sweep=ppo_details
    python scripts/ppo_details.py ppo_details --store <store>              print the table
    python scripts/ppo_details.py ppo_details --store <store> --write      and keep its numbers

The numbers are kept in `rlhf/ppo/detail_effects.json`, of which `scripts/detail_page.py` makes a
table of the page. Differences are to the cells in which no detail is switched on, by seed, with
Student's t over seeds at 95 % and p-values that Holm corrects over the details of a metric; from
fewer than three seeds neither is known. Nothing but run folders and their artifacts is read.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from plumbrule.results.cells import RunCell  # noqa: E402
from plumbrule.results.gathered import Gathered, gather  # noqa: E402
from plumbrule.store.artifacts import Store  # noqa: E402
from plumbrule.store.layout import store_root  # noqa: E402

EFFECTS = Path("rlhf") / "ppo" / "detail_effects.json"
AXIS, BASELINE = "detail", "default"
GOLD, KL = "ppo/gold_gain", "objective/kl"
COLUMNS = ("pairs", "difference", "difference_low", "difference_high", "p_holm")


def main() -> None:
    """Print the table, and keep the numbers if asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="+", help="the sweep, or its runs: ids, a name, a pattern")
    parser.add_argument("--store", help="default: as of plumbrule")
    parser.add_argument("--write", action="store_true", help=f"write {EFFECTS}")
    given = parser.parse_args()
    found = effects(Store(store_root(given.store)), given.what)
    print("\n".join(lines(found)))
    if given.write:
        text = json.dumps(found, indent=1) + "\n"
        (ROOT / EFFECTS).write_text(text, encoding="utf-8")
        print(f"wrote {EFFECTS}; python scripts/detail_page.py puts it into the page")


def effects(store: Store, words: Sequence[str]) -> dict[str, Any]:
    """Return what is known of each detail that ran, by its name in the sweep, the baseline first.

    Raises: ArtifactError, ConfigError: as `gather`; SystemExit: no cell without a detail is done.
    """
    baseline = f"{AXIS}={BASELINE}"
    plain = gather(store, words, [GOLD, KL])
    if not any(cell.state == "done" and cell.name == baseline for cell in plain.cells):
        raise SystemExit(f"{' '.join(words)}: a cell {baseline} must be done; run the sweep first.")
    alone = {cell.name for cell in plain.cells if cell.state == "done"} == {baseline}
    found = plain if alone else gather(store, words, [GOLD, KL], baseline)
    names = dict.fromkeys(cell.swept.get(AXIS, "") for cell in found.cells)
    order = [BASELINE, *(name for name in names if name not in ("", BASELINE))]
    done = [cell for cell in found.cells if cell.state == "done"]
    return {
        "command": "plumbrule -m sweep=ppo_details",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commits": sorted({str(c.record.get("git", {}).get("commit", ""))[:12] for c in done}),
        "hardware": sorted({hardware for cell in done for hardware in _hardware(cell)}),
        "details": {name: of_detail(found, name) for name in order},
    }


def _hardware(cell: RunCell) -> list[str]:
    """Return processor and threads of the PPO of a cell."""
    return [
        f"{node['hardware'].get('processor', '?')}, {node['hardware'].get('threads', '?')} threads"
        for node in cell.record.get("nodes", {}).values()
        if node["kind"] == "ppo"
    ]


def of_detail(found: Gathered, name: str) -> dict[str, Any]:
    """Return the numbers of one detail: cells by state, gold gain, KL, and signs of collapse."""
    by_seed: dict[str, RunCell] = {}
    for cell in found.cells:
        known = by_seed.get(cell.seed)  # there where the sweep was started again
        if cell.swept.get(AXIS) == name and (known is None or known.state != "done"):
            by_seed[cell.seed] = cell
    cells = list(by_seed.values())
    states = Counter(cell.state for cell in cells)
    group = f"{AXIS}={name}"
    gains = [c.metrics[GOLD] for c in cells if c.state == "done" and GOLD in c.metrics]
    broken = {where for where, _ in found.collapsed if where.split(" ")[0] == group}
    return {
        "states": dict(sorted(states.items())),
        "collapsed": len(broken),
        "gold_gain": _metric(found, group, GOLD),
        "gold_gain_sd": statistics.stdev(gains) if len(gains) > 1 else None,
        "kl": _metric(found, group, KL),
    }


def _metric(found: Gathered, group: str, metric: str) -> dict[str, Any]:
    """Return mean, n and difference of a metric; what is not known is None."""
    for row in found.table.to_dict("records"):
        if row["group"] == group and row["metric"] == metric:
            numbers: Mapping[str, Any] = {k: row.get(k, math.nan) for k in ("mean", "n", *COLUMNS)}
            return {name: _known(value) for name, value in numbers.items()}
    return {}


def _known(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e6 else float(value)


def lines(found: Mapping[str, Any]) -> list[str]:
    """Return the table as text, a line per detail."""
    said = [f"{'detail':<16} seeds  gold gain          KL                 collapsed  not done"]
    for name, one in found["details"].items():
        done = one["states"].get("done", 0)
        missing = sum(one["states"].values()) - done
        cells = [_short(one[part]) for part in ("gold_gain", "kl")]
        said.append(
            f"{name:<16} {done:>5}  {cells[0]:<18} {cells[1]:<18} {one['collapsed']:>9}  {missing}"
        )
    return said


def _short(one: Mapping[str, Any]) -> str:
    if not one:
        return "-"
    if one.get("difference") is None:
        return f"{one['mean']:.3g}"
    return f"{one['difference']:+.3g} (n={one['pairs']})"


if __name__ == "__main__":
    main()
