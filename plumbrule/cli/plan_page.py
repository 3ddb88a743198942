"""The plan as it is printed: sources, nodes with state and reason, time, precision, tracking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plumbrule.errors import ConfigError
from plumbrule.machine import environment, precision
from plumbrule.pipeline.compose import Composed
from plumbrule.pipeline.data_sources import describe_sources
from plumbrule.pipeline.expected_time import duration
from plumbrule.pipeline.experiment import RunConfig, as_json
from plumbrule.pipeline.given_inputs import Given
from plumbrule.pipeline.plan import Planned
from plumbrule.pipeline.stages import STAGES
from plumbrule.tracking.wandb_start import wandb_mode


def print_plan(
    composed: Composed,
    plan: list[Planned],
    rows: Mapping[str, str],
    seconds: Mapping[str, float | None],
    notes: Sequence[str] = (),
) -> None:
    """Print where records come from, then what is cached, what will be built, why and how long.

    On standard output: it is what a dry run is asked for.

    Args: notes: lines at its end.
    """
    out = [f"plan of {composed.config.run.name}: {len(plan)} nodes"]
    out += [f"  {line}" for line in describe_sources(composed.nodes, rows)]
    out += [f"  {line}" for line in (*composed.left_out, *composed.resolved)]
    width = max(len(p.node.name) for p in plan)
    for planned in plan:
        line = f"  {planned.node.name:<{width}}  {planned.state:<7}"
        line += f" {planned.node.kind}/{planned.fingerprint}"
        expected = seconds.get(planned.node.name)
        if expected is not None:
            line += f"  ~{duration(expected)}"
        if planned.reason:
            line += f"  ({planned.reason})"
        for library, (then, now) in planned.versions.items():
            line += f"  [made with {library} {then}, here {now}]"
        out.append(line)
    if seconds:
        known = [value for value in seconds.values() if value is not None]
        unknown = len(seconds) - len(known)
        line = f"to build: {len(seconds)} of {len(plan)} nodes"
        line += f", about {duration(sum(known))}" if known else ""
        if unknown:
            line += f"{' and' if known else ','} {unknown} of unknown length"
        out.append(line)
    for told in (
        _precision_line(composed.config, plan),
        environment.threads_line(composed.config.runtime),
        *notes,
    ):
        if told is not None:
            out.append(f"  {told}")
    print("\n".join(out), flush=True)


def _precision_line(config: RunConfig, plan: list[Planned]) -> str | None:
    """Return in which precision the planned nodes compute, None where none has one."""
    computed = [p.node for p in plan if not isinstance(p.node.config, Given)]
    found = {node.name: STAGES[node.kind].precision(node.config) for node in computed}
    by_node = {name: used[1] for name, used in found.items() if used is not None}
    return precision.plan_line(
        by_node, config.runtime.device, precision.asks_for_auto(as_json(config))
    )


def tracking_line(config: RunConfig, overrides: Sequence[str]) -> str:
    """Return where the command's metrics will go, and what chose it where the command did not."""
    name = config.tracking.name
    if name == "wandb":
        try:
            return f"tracking: one W&B run, {wandb_mode()}"
        except ConfigError:
            return "tracking: one W&B run"  # what is wrong is said behind the plan
    if name not in ("jsonl", "none"):
        return f"tracking: {name}"
    keys = [o.lstrip("+").partition("=")[0] for o in overrides]
    debug = next((o for o in overrides if o.startswith("debug=")), None)
    why = (
        f": {debug} sets tracking=jsonl" if debug and not any("tracking" in k for k in keys) else ""
    )
    return f"tracking: files only, no W&B run{why}"
