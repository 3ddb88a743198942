"""The plan of a sweep as it is printed: its cells, and the nodes that have to be built for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plumbrule.cli.plan_page import tracking_line
from plumbrule.cli.runs import Run, builds
from plumbrule.pipeline.executors.merged_graph import Job, merge
from plumbrule.pipeline.expected_time import duration, seconds_of_artifacts
from plumbrule.pipeline.planning.expected_size import bytes_of_artifacts

MOST_LISTED = 50
"""Cells, and nodes to be built, up to which each has its line; of more, groups have one."""
SAID = ("cached", "copy", "resume", "build")
"""States of nodes, in the order in which a cell's line counts them."""


def print_sweep_plan(
    cells: Sequence[tuple[str, Run]],
) -> tuple[int, dict[str, float | None]]:
    """Print the cells with what is cached of each, and each node to be built once, with the time
    and the disk that it may take.

    Return the number of different nodes, and the seconds of those to be built by fingerprint.

    Args: cells: the overrides that not all cells have, and the planned run.
    """
    runs = [run for _, run in cells]
    jobs = list(merge(runs).values())
    seconds, sizes = _expected(jobs, runs)
    todo = [job for job in jobs if job.planned.state in ("build", "resume")]
    out = [
        f"plan of the sweep: {len(cells)} cells of {sum(len(run.plan) for run in runs)} nodes, "
        f"{len(jobs)} of them different"
    ]
    out += _cell_lines(cells, seconds)
    out += _node_lines(todo, seconds)
    if todo:
        out.append(
            f"to build: {len(todo)} of {len(jobs)} nodes"
            f"{_time([seconds[j.planned.fingerprint] for j in todo], ', about ')}"
            f"{_size([sizes[j.planned.fingerprint] for j in todo])}"
        )
    for run in runs:
        overrides = run.overrides
        out += [f"  {line}" for line in run.notes()] if builds(run.plan) else []
        out.append(f"  {tracking_line(run.config, overrides)}")
    out += _twins(cells)
    print("\n".join(dict.fromkeys(out)), flush=True)
    return len(jobs), seconds


def _cell_lines(cells: Sequence[tuple[str, Run]], seconds: Mapping[str, float | None]) -> list[str]:
    """Return a line for each cell; of many, one for all that have as much to build.

    Args: seconds: fingerprint of a node to be built -> what it may take.
    """
    told = []
    for words, run in cells:
        states = [planned.state for planned in run.plan]
        counts = ", ".join(f"{states.count(state)} {state}" for state in SAID if state in states)
        own = [seconds[p.fingerprint] for p in run.plan if p.fingerprint in seconds]
        told.append((words, counts + _time(own)))
    if len(cells) <= MOST_LISTED:
        width = max((len(words) for words, _ in told), default=0)
        return [f"cell {words:<{width}}  {about}" for words, about in told]
    groups: dict[str, list[str]] = {}
    for words, about in told:
        groups.setdefault(about, []).append(words)
    return [f"{_named(group)}  {about}" for about, group in groups.items()]


def _node_lines(todo: Sequence[Job], seconds: Mapping[str, float | None]) -> list[str]:
    """Return a line for each node to be built; of many, one for all of a name and a reason."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in todo:
        about = (job.name, job.planned.state, job.planned.reason)
        key = about if len(todo) > MOST_LISTED else (*about, job.planned.fingerprint)
        groups.setdefault(key, []).append(job)
    width = max((len(job.name) for job in todo), default=0)
    out = []
    for jobs in groups.values():
        planned, users = jobs[0].planned, {user for job in jobs for user in job.users}
        what = f"{planned.node.kind}/{planned.fingerprint}"
        if len(jobs) > 1:
            what = f"{len(jobs)} of kind {planned.node.kind}"
        line = f"  {jobs[0].name:<{width}}  {planned.state:<7} {what}"
        known = [seconds.get(job.planned.fingerprint) for job in jobs]
        line += f"  ~{duration(sum(filter(None, known)))}" if None not in known else ""
        line += f"  ({planned.reason})" if planned.reason else ""
        out.append(line + (f"  for {len(users)} cells" if len(users) > 1 else ""))
    return out


def _named(words: Sequence[str]) -> str:
    """Return how a group of cells is called: each by itself, or how many and the outermost."""
    if len(words) == 1:
        return f"cell {words[0]}"
    return f"{len(words)} cells, {words[0]} to {words[-1]}:"


def _expected(
    jobs: Sequence[Job], runs: Sequence[Run]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return seconds and bytes of the nodes to be built, by fingerprint."""
    seconds: dict[str, float | None] = {}
    sizes: dict[str, float | None] = {}
    for root in dict.fromkeys(str(run.store.root) for run in runs):
        store = next(run.store for run in runs if str(run.store.root) == root)
        planned = [job.planned for job in jobs if job.key[0] == root]
        seconds |= seconds_of_artifacts(planned, store)
        sizes |= bytes_of_artifacts(planned, store)
    return seconds, sizes


def _twins(cells: Sequence[tuple[str, Run]]) -> list[str]:
    """Return a line for cells that are made of the same artifacts as one before them."""
    seen: dict[tuple[str, ...], str] = {}
    out = []
    for words, run in cells:
        same = tuple(sorted(planned.fingerprint for planned in run.plan))
        first = seen.setdefault(same, words)
        if first is not words:
            out.append(f"  note: cell {words} has the artifacts of cell {first}: nothing differs")
    return out


def _time(seconds: Sequence[float | None], before: str = ", ~") -> str:
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    told = f"{before}{duration(sum(known))}" if known else ""
    if unknown and seconds:
        told += f"{' and' if known else ','} {unknown} of unknown length"
    return told


def _size(sizes: Sequence[float | None]) -> str:
    known = [value for value in sizes if value is not None]
    if not known or len(known) < len(sizes):
        return ""
    return f", about {max(1.0, sum(known) / 1e6):,.0f} MB of disk"
