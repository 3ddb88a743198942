"""How an outcome of a claim is said: the lines of `plumbrule paper check`, and docs/papers.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.errors import listed
from plumbrule.papers.claim_functions import FUNCTIONS
from plumbrule.papers.outcomes import FAILS, NOT_RUN, WORST_FIRST
from plumbrule.papers.paper import STATUSES, Paper, PaperClaim, PaperScale
from plumbrule.papers.results_files import changed_since
from plumbrule.papers.sweep_words import command_words
from plumbrule.results.formats import aligned, number

HERE = Path(__file__).parent
BEGINNING, END = HERE / "page_beginning.md", HERE / "page_end.md"
"""What stands on the page before and behind the papers, as it is."""


def functions_table() -> str:
    """Return the functions of claims as a table."""
    rows = "".join(f"| `{name}` | {one.meaning} |\n" for name, one in FUNCTIONS.items())
    return f"| function | what |\n| --- | --- |\n{rows}"


def figure(part: Mapping[str, Any]) -> str:
    """Return the figure of one comparison with its interval and n."""
    what = "" if part["shown"] == "left" else "difference "
    told = f"{what}{number(part['value'])}"
    if part["low"] is not None and part["high"] is not None:
        told += f" [{number(part['low'])}, {number(part['high'])}]"
    return f"{told} (n={part['n']})"


def figures(result: Mapping[str, Any]) -> str:
    """Return the figures of a claim, and the reason beside them; "" where there are neither."""
    told = [figure(part) for part in result["parts"]]
    if result["reason"]:
        told.append(result["reason"])
    return "; ".join(told)


def check_lines(paper: Paper, scale: PaperScale, result: Mapping[str, Any]) -> list[str]:
    """Return the lines that tell a checked scale."""
    runs = result["runs"]
    out = [f"{paper.title} ({paper.citation}), scale {scale.name}"]
    if scale.unavailable:
        return [*out, f"not run: {scale.unavailable}"]
    out.append(f"{runs['done']} of {runs['of']} runs are done; the rest: {result['command']}")
    rows = [["verdict", "claim", "figure"]]
    rows += [[one["verdict"], one["text"], figures(one)] for one in result["claims"]]
    return [*out, *aligned(rows)]


def page(papers: Sequence[Paper], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return docs/papers.md. Args: results: paper -> scale -> result, as `read_results` gives."""
    parts = [BEGINNING.read_text("utf-8"), _overview(papers, results)]
    parts += [_section(paper, results.get(paper.name, {})) for paper in papers]
    return "\n".join([*parts, END.read_text("utf-8") + functions_table()])


def _overview(papers: Sequence[Paper], results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| paper | title | laptop | full |", "| --- | --- | --- | --- |"]
    for paper in papers:
        cells = [_counts(s, results.get(paper.name, {}).get(s.name)) for s in paper.scales.values()]
        link = f"[{paper.name}](#{paper.name})"
        rows.append(f"| {' | '.join([link, _cell(paper.title), *cells])} |")
    return "\n".join(rows) + "\n"


def _counts(scale: PaperScale, result: Mapping[str, Any] | None) -> str:
    """Return how many claims of a scale have which verdict."""
    if scale.unavailable:
        return "none"
    verdicts = [current(claim, scale, result)["verdict"] for claim in scale.claims]
    counts = [(verdict, verdicts.count(verdict)) for verdict in reversed(WORST_FIRST)]
    return ", ".join(f"{count} {verdict}" for verdict, count in counts if count)


def current(
    claim: PaperClaim, scale: PaperScale, result: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a file holds of a claim; not run where it holds nothing of it as it is now."""
    empty = {"verdict": NOT_RUN, "parts": [], "seeds": []}
    same = [
        one for one in (result or {}).get("claims", []) if one["expression"] == claim.expression
    ]
    if not same:
        return {**empty, "reason": "" if result is None else "the claim is newer than the results"}
    if same[0]["tolerance"] != claim.tolerance:
        return {**empty, "reason": "its tolerance has changed since it was checked"}
    if changed := changed_since(scale, result or {}):
        return {**empty, "reason": f"{listed(changed)} changed since it was checked"}
    return dict(same[0])


def _section(paper: Paper, results: Mapping[str, Any]) -> str:
    out = [f"## {paper.name}", "", f"{paper.title}. {paper.citation}.", "", paper.summary, ""]
    for scale in paper.scales.values():
        out += [*_scale(paper, scale, results.get(scale.name)), ""]
    return "\n".join(out)


def _scale(paper: Paper, scale: PaperScale, result: Mapping[str, Any] | None) -> list[str]:
    if scale.unavailable:
        return [f"**{scale.name}**: none. {scale.unavailable}"]
    out = [f"**{scale.name}**: `{command_words(paper, scale)}`, {_made(scale, result)}", ""]
    out += ["| claim | verdict | figure | source |", "| --- | --- | --- | --- |"]
    notes = []
    for claim in scale.claims:
        found = current(claim, scale, result)
        source = f"{claim.source.where} ({claim.source.status})"
        tolerance = f", tolerance {claim.tolerance:g}" if claim.tolerance else ""
        cells = [f"{claim.text} `{claim.expression}`{tolerance}", found["verdict"]]
        out.append(f"| {' | '.join(_cell(c) for c in [*cells, figures(found), source])} |")
        if claim.explanation and found["verdict"] != NOT_RUN:
            about = f'"{claim.text.rstrip(".")}"'
            word = f"Why {about} fails" if found["verdict"] == FAILS else f"Note on {about}"
            notes.append(f"{word}: {claim.explanation}")
    for note in notes:
        out += ["", note]
    if any(scale.arms.values()):
        told = [f"{arm} (`{' '.join(words)}`)" for arm, words in scale.arms.items()]
        out += ["", f"Arms, whose values are chosen here: {', '.join(told)}."]
    if scale.definitions:
        named = [f"`{name}` is `{text}`" for name, text in scale.definitions.items()]
        out += ["", f"Names in the claims: {'; '.join(named)}."]
    if scale.settings:
        out += ["", "| setting | value | from |", "| --- | --- | --- |"]
        out += [
            f"| {_cell(f'`{s.key}`')} | {_cell(f'`{s.value}`')} | {_cell(_from(s.source))} |"
            for s in scale.settings
        ]
    return out


def _from(source: Any) -> str:
    return f"{source.where} ({source.status})" if source.status in STATUSES else source.where


def _made(scale: PaperScale, result: Mapping[str, Any] | None) -> str:
    """Return with what a result was made; or that there is none."""
    needs = "".join(f"; it needs {need.what}" for need in scale.needs)
    if result is None or not result["runs"]["done"]:
        return f"not run{needs}."
    runs, code = result["runs"], ", ".join(result["code"])
    hardware = "; ".join(result["hardware"]) or "hardware not recorded"
    return f"{runs['done']} of {runs['of']} runs, {hardware}, {result['date']}, commit {code}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
