"""Run one of two evaluations whole and print its table, in Markdown, for the docs.

    python scripts/evaluation_tables.py bold_mitigation --store <folder>
    python scripts/evaluation_tables.py hh_rlhf --data <official files> --store <folder>

bold_mitigation  `plumbrule experiment=bold_mitigation`: the gap between BOLD's groups that Atlas's
                 corpus plants, of the base model, after SFT, and after PPO with the reward term.
hh_rlhf          trains `experiment=hh_rlhf` and evaluates its last policy alone on the official
                 files: all rows of HaluEval that are there (qa and general), beside the rules that
                 read no meaning, and all of BOLD, beside the released texts. The data folder holds
                 `hh-rlhf`, `halueval` and `bold` (with `prompts` and `wikipedia`).

Words behind `--` are further overrides, such as `-- eval.bold.per_group=2`. The last line is one
JSON object: what was run, and the seconds that each node took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.statistics import Interval

OF_HALUEVAL = (
    "accuracy", "balanced_accuracy", "f1", "mcc", "auroc", "pair_accuracy", "said_yes", "too_long",
    "rule_length", "rule_verbatim", "rule_longer", "rule_always_no",
)  # fmt: skip
OF_BOLD = ("gap", "gap_chance", "gap_large", "negative_gap", "empty")
POLICIES = {"eval_base": "base", "eval_sft": "SFT", "eval": "PPO"}


def main() -> None:
    """Run, print the table, and the summary as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("which", choices=("bold_mitigation", "hh_rlhf"))
    parser.add_argument("--data", type=Path, help="folder of the official files, for hh_rlhf")
    parser.add_argument("--store", type=Path, help="kept; default: a temporary folder")
    given, further = parser.parse_known_args()
    if given.which == "hh_rlhf" and given.data is None:
        parser.error("hh_rlhf needs --data=<folder of hh-rlhf, halueval and bold>")
    with tempfile.TemporaryDirectory() as temporary:
        store = (given.store or Path(temporary)).resolve()
        words = [*words_of(given.which, given.data), *(word for word in further if word != "--")]
        begun = time.monotonic()
        whole = run(words, store)
        seconds = time.monotonic() - begun
        nodes = measured(whole, store)
        table = mitigation_table(nodes) if given.which == "bold_mitigation" else hh_table(nodes)
        print("\n".join(table))
    times = {name: node.get("wall_seconds") for name, node in whole["nodes"].items()}
    print(json.dumps({"overrides": words, "seconds": round(seconds, 1), "nodes": times}))


def words_of(which: str, data: Path | None) -> list[str]:
    """Return the overrides of a run."""
    if which == "bold_mitigation" or data is None:
        return ["experiment=bold_mitigation"]
    data = data.resolve()
    return [
        "experiment=hh_rlhf",
        "run.only=eval",
        f"dataset.path='{data / 'hh-rlhf'}'",
        f"eval.halueval.path='{data / 'halueval'}'",
        "eval.halueval.per_task=null",
        f"eval.bold.path='{data / 'bold' / 'prompts'}'",
        "eval.bold.per_group=null",
        f"eval.bold.wikipedia='{data / 'bold' / 'wikipedia'}'",
    ]


def run(words: Sequence[str], store: Path) -> dict[str, Any]:
    """Run `plumbrule` and return its record. Raises: CalledProcessError: the run fails."""
    command = [sys.executable, "-m", "plumbrule", *words, f"run.store='{store}'", "tracking=none"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    newest = max((store / "runs").glob("*/*/run.json"), key=lambda path: path.stat().st_mtime)
    record: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    return record


def measured(whole: Mapping[str, Any], store: Path) -> dict[str, dict[str, Any]]:
    """Return the `metrics.json` of each evaluation of a run, by its node."""
    found = {}
    for name, node in whole["nodes"].items():
        path = store / str(node["artifact"]) / "metrics.json"
        if node["kind"] == "eval":
            found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def text(number: Mapping[str, Any] | None) -> str:
    """Return a number with its bounds; a dash where there is none."""
    if number is None:
        return "-"
    one = Interval.from_json(number)
    said = f"{one.value:.3f}"
    return said + (f" [{one.low:.3f}, {one.high:.3f}]" if one.is_bounded else "")


def row(cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def mitigation_table(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the shares of positive and negative texts of each group and policy, and the gaps."""
    policies = {name: shown for name, shown in POLICIES.items() if name in nodes}
    bold = {name: nodes[name]["bold"]["closed"] for name in policies}
    names = [
        metric
        for metric in dict.fromkeys(m for own in bold.values() for m in own)
        if metric.endswith(("_gap", "_gap_chance", "_positive", "_negative"))
    ]
    lines = [row(["share of texts", *policies.values()]), row(["---"] * (len(policies) + 1))]
    lines += [row([f"`{n}`", *(text(bold[p].get(n)) for p in policies)]) for n in names]
    prompts = {p: nodes[p].get("prompts", {}).get("closed", {}) for p in policies}
    for name in ("gold", "reward"):
        if any(name in own for own in prompts.values()):
            lines.append(row([f"`{name}`", *(text(prompts[p].get(name)) for p in policies)]))
    return lines


def hh_table(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return HaluEval's scores by task, and BOLD's gaps by domain."""
    metrics = nodes["eval"]
    judged = metrics["halueval"]["closed"]
    tasks = [t for t in ("qa", "dialogue", "summarization", "general") if f"{t}_accuracy" in judged]
    counts = [f"{task} (n {judged[f'{task}_accuracy']['n']})" for task in tasks]
    lines = [row(["HaluEval", *counts]), row(["---"] * (len(tasks) + 1))]
    for name in OF_HALUEVAL:
        cells = [text(judged.get(f"{task}_{name}")) for task in tasks]
        if any(cell != "-" for cell in cells):
            lines.append(row([f"`{name}`", *cells]))
    bold = metrics["bold"]["closed"]
    domains = [name.removesuffix("_gap_chance") for name in bold if name.endswith("_gap_chance")]
    domains = [name for name in domains if f"{name}_gap" in bold and not name.endswith("negative")]
    lines += ["", row(["BOLD", *OF_BOLD]), row(["---"] * (len(OF_BOLD) + 1))]
    for domain in domains:
        lines.append(row([domain, *(text(bold.get(f"{domain}_{name}")) for name in OF_BOLD)]))
    return lines


if __name__ == "__main__":
    main()
