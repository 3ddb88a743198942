"""A table of groups for a terminal, in Markdown, in LaTeX with booktabs, as CSV and Parquet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbrule.report.repeats import FEWEST, FOLDS, ITEMS
from plumbrule.results.cells import ENDED, RunCell

if TYPE_CHECKING:
    import pandas

DIGITS = 4
TABLE = "table"
"""Name of the files of a table, without their ending."""
LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def number(value: float) -> str:
    """Return a number with `DIGITS` significant digits; "" where it is not known."""
    return "" if not math.isfinite(value) else f"{value:.{DIGITS}g}"


def estimate(row: Mapping[str, Any]) -> str:
    """Return a mean, its interval and n, as `0.5 [0.1, 0.9] (n=3)`; one run says what it is."""
    bounds = _bounds(row["low"], row["high"])
    if row["over"] == ITEMS:
        rest = f"{bounds} over its items" if bounds else ""
        return f"{number(row['mean'])} (n=1{',' if rest else ''}{rest})"
    why = f", too few {row['over']}" if row["n"] < FEWEST else ", no spread"
    folds = " folds" if row["over"] == FOLDS else ""
    return f"{number(row['mean'])}{bounds or why} (n={row['n']}{folds})"


def difference(row: Mapping[str, Any]) -> str:
    """Return a difference to the baseline with its interval, corrected p and pairs; "" of none."""
    pairs = row.get("pairs", 0)
    if not pairs or not math.isfinite(row["difference"]):
        return ""
    bounds = _bounds(row["difference_low"], row["difference_high"])
    p = f", p={row['p_holm']:.2g}" if math.isfinite(row["p_holm"]) else ""
    return f"{row['difference']:+.{DIGITS}g}{bounds} (pairs={pairs}{p})"


def _bounds(low: float, high: float) -> str:
    if not math.isfinite(low) or not math.isfinite(high):
        return ""
    return f" [{number(low)}, {number(high)}]"


def wide(table: pandas.DataFrame, metrics: Sequence[str]) -> list[list[str]]:
    """Return a header and a row per group with a cell per metric, differences behind them."""
    compared = "pairs" in table
    header = ["group", *metrics]
    if compared:
        header += [f"{metric} - baseline" for metric in metrics]
    lines = [header]
    for group in () if table.empty else dict.fromkeys(table["group"]):
        own = {row["metric"]: row for _, row in table[table["group"] == group].iterrows()}
        line = [group, *(estimate(own[m]) if m in own else "" for m in metrics)]
        if compared:
            line += [difference(own[m]) if m in own else "" for m in metrics]
        lines.append(line)
    return lines


def text_lines(table: pandas.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return the lines of a terminal: a line per group and metric, aligned."""
    compared = "pairs" in table
    header = ["group", "metric", "mean [interval] (n)", "iqm [bootstrap]"]
    rows = [header + (["difference to baseline", "P(better)"] if compared else [])]
    for _, row in table[table["metric"].isin(list(metrics))].iterrows():
        iqm = f"{number(row['iqm'])}{_bounds(row['iqm_low'], row['iqm_high'])}"
        line = [row["group"], row["metric"], estimate(row), iqm]
        rows.append(line + ([difference(row), number(row["improvement"])] if compared else []))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def markdown(table: pandas.DataFrame, metrics: Sequence[str]) -> str:
    """Return the wide table in Markdown."""
    header, *rows = [
        [text.replace("|", "\\|").replace("\n", " ") for text in row]
        for row in wide(table, metrics)
    ]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: pandas.DataFrame, metrics: Sequence[str]) -> str:
    r"""Return the wide table in LaTeX; it needs `\usepackage{booktabs}`."""
    header, *rows = [[_latex_text(text) for text in row] for row in wide(table, metrics)]
    body = "".join(f"{' & '.join(row)} \\\\\n" for row in rows)
    return (
        f"\\begin{{tabular}}{{{'l' * len(header)}}}\n\\toprule\n{' & '.join(header)} \\\\\n"
        f"\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )


def _latex_text(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def write_tables(
    folder: Path, cells: pandas.DataFrame, table: pandas.DataFrame, metrics: Sequence[str]
) -> list[Path]:
    """Write `table` as CSV, Markdown, LaTeX and Parquet and `cells` as CSV and Parquet.

    Return their paths. CSV and Parquet have a row per group and metric, the others one per group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Path], Any]] = {
        f"{TABLE}.csv": lambda path: table.to_csv(path, index=False),
        f"{TABLE}.md": lambda path: path.write_text(markdown(table, metrics), encoding="utf-8"),
        f"{TABLE}.tex": lambda path: path.write_text(latex(table, metrics), encoding="utf-8"),
        f"{TABLE}.parquet": lambda path: table.to_parquet(path, index=False),
        "cells.csv": lambda path: cells.to_csv(path, index=False),
        "cells.parquet": lambda path: cells.to_parquet(path, index=False),
    }
    for name, write in writers.items():
        write(folder / name)
    return [folder / name for name in writers]


def unfinished_lines(cells: Sequence[RunCell]) -> list[str]:
    """Return what is to be said of the cells that are not done: their log, and what reruns them.

    Those that a search stopped early need no more than a line (`pruned_lines`).
    """
    lines = []
    for cell in cells:
        if cell.state not in ENDED:
            repeat = f" {cell.repeat}" if cell.repeat else ""
            lines.append(f"{cell.state}: {cell.name}{repeat}")
            lines += [f"  | {line}" for line in cell.log]
            lines.append(f"  run it again: {cell.command}")
    return lines


def pruned_lines(cells: Sequence[RunCell]) -> list[str]:
    """Return a line for each cell that a search stopped early."""
    own = [cell for cell in cells if cell.state == "pruned"]
    return [f"pruned: {cell.name} {cell.repeat}: {cell.error}" for cell in own]
