"""The page of the rollouts that a PPO kept, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plumbrule.data.records import Prompt
from plumbrule.errors import listed
from plumbrule.report import plots
from plumbrule.report.figures import number
from plumbrule.report.rollouts.choice import Choice, choose
from plumbrule.report.rollouts.files import (
    TERM,
    Responses,
    find_rollouts,
    ids_of,
    in_files,
    read_responses,
    read_tokens,
)
from plumbrule.report.rollouts.gap import Gap, find_gold, read_prompts, standardise
from plumbrule.report.rollouts.names import LIMIT
from plumbrule.report.rollouts.packing import (
    RATIO,
    Vocabulary,
    pack_json,
    pack_tokens,
    rounded,
    token_columns,
)
from plumbrule.statistics import mean_interval
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL
from plumbrule.store.manifests import read_manifest

SCRIPTS = ("data.js", "detail.js", "scatter.js", "list.js")
MEANINGS = {
    "rewards": ("reward", "what GAE adds up: the KL penalty, and on the last step the score"),
    "kl": ("KL", "of the policy to its reference, k1 estimate, nats"),
    "values": ("value", "what the value model expected before the token"),
    "advantages": ("advantage", "as it entered the loss, whitened where it was to be"),
    "returns": ("return", "advantage before whitening, and value: the value model's target"),
    RATIO: (
        "ratio",
        "probability by the policy before the update over that at sampling: 1 but for another "
        "engine, precision or older weights. The ratio of the later passes is not kept",
    ),
    "logprobs": ("log-prob", "of the policy before the update, nats"),
    "ref_logprobs": ("reference", "log-prob of the reference, nats"),
    "rollout_logprobs": ("at sampling", "log-prob as the sampler saw it, nats"),
    "teacher_logprobs": ("teacher", "log-prob of the teacher, nats"),
    "entropy": ("entropy", "of the next-token distribution, nats"),
    "penalties": ("penalty", "what the KL took from the reward"),
}
"""Column of tokens -> how the page calls it, and what it is."""


class RolloutPage(NamedTuple):
    """The page of an artifact's rollouts, and what there is to say of it on a terminal."""

    html: str
    held: int
    total: int
    notes: Sequence[str]


def render_rollouts(
    artifact: Artifact,
    title: str,
    *,
    updates: Sequence[int] | None = None,
    limit: int = LIMIT,
    pick: str = "random",
) -> RolloutPage:
    """Return the page of the rollouts that a PPO artifact keeps.

    Args: title: of the run and node. updates: which; None: all. limit: rollouts on the page.
    pick: see `choice.PICKS`.
    Raises: ArtifactError, DataError: the rollouts are gone, damaged or hold none. ConfigError: see
    `choose`.
    """
    files = find_rollouts(artifact, updates)
    responses = read_responses(files.paths)
    prompts = read_prompts(artifact)
    gold = find_gold(responses, prompts, _config(artifact))
    gap = standardise(responses, gold.values)
    choice = choose(responses.prompt_ids, limit, pick, None if gap is None else gap.gap)
    vocabulary = Vocabulary(artifact.path / MODEL)
    tokens, positions, queries, fields = _tokens(responses, files.paths, choice, vocabulary)
    notes = [choice.note, gold.note, _gap_note(gold.values, gap), vocabulary.note]
    notes += [_removed_note(files.removed), *_absent_notes(responses)]
    facts = {
        "tokenFields": [
            {"key": f, "label": MEANINGS[f][0], "title": MEANINGS[f][1]} for f in fields
        ],
        "vocabulary": vocabulary.texts(),
        "about": {str(u): about for u, about in responses.about.items()},
        **_rows(responses, choice, gold.values, gap, prompts, positions, queries),
    }
    notes = [note for note in notes if note]
    html = _fill(
        title=title,
        notes=notes,
        total=len(responses),
        num_updates=len(files.paths),
        num_prompts=len(set(responses.prompt_ids)),
        figures=_figures(responses, gap),
        facts=pack_json(facts),
        tokens=tokens,
        fields=[(MEANINGS[f][0], MEANINGS[f][1]) for f in fields],
        has_gap=gap is not None,
    )
    return RolloutPage(html, len(choice.rows), len(responses), notes)


def _config(artifact: Artifact) -> Mapping[str, Any]:
    try:
        return read_manifest(artifact.path).config
    except FileNotFoundError:
        return {}


def _tokens(
    responses: Responses, paths: Mapping[int, Path], choice: Choice, vocabulary: Vocabulary
) -> tuple[dict[int, str], list[int], list[str], list[str]]:
    """Return packed tokens by update; of each row its positions and its query as text; columns."""
    packed: dict[int, str] = {}
    positions: list[int] = []
    queries: list[str] = []
    read = {u: read_tokens(paths[u], places) for u, places in in_files(responses, choice.rows)}
    fields = token_columns(name for _, columns in read.values() for name in columns)
    for update, (table, columns) in read.items():
        packed[update], lengths = pack_tokens(columns, fields, vocabulary)
        positions += lengths
        if "query" in table.column_names:
            ids = ids_of(table, "query", paths[update])
            ends = np.cumsum(ids.lengths)
            queries += [
                vocabulary.decode(ids.values[end - n : end].tolist())
                for end, n in zip(ends, ids.lengths, strict=True)
            ]
        else:
            queries += [""] * len(lengths)
    return packed, positions, queries, fields


def _rows(
    responses: Responses,
    choice: Choice,
    gold: np.ndarray | None,
    gap: Gap | None,
    prompts: Mapping[str, Prompt],
    positions: Sequence[int],
    queries: Sequence[str],
) -> dict[str, Any]:
    """Return the columns of the list, each text that several rows have once."""
    rows = choice.rows
    texts: dict[str, int] = {}

    def place(text: str) -> int:
        return texts.setdefault(text, len(texts))

    numbers: dict[str, Any] = {
        "update": responses.updates[rows].tolist(),
        "place": responses.places[rows].tolist(),
        "score": rounded(responses.numbers["scores"][rows]),
    }
    if gold is not None:
        numbers["gold"] = rounded(gold[rows])
    if gap is not None:
        numbers["gap"] = rounded(gap.gap[rows])
        numbers["proxyZ"], numbers["goldZ"] = rounded(gap.proxy[rows]), rounded(gap.gold[rows])
    if "kl" in responses.numbers:
        numbers["kl"] = rounded(responses.numbers["kl"][rows])
    numbers["length"] = rounded(responses.numbers["length"][rows])
    terms = [name for name in responses.numbers if name.startswith(TERM)]
    return {
        "numbers": numbers,
        "terms": {t.removeprefix(TERM): rounded(responses.numbers[t][rows]) for t in terms},
        "rawScore": rounded(responses.numbers["raw_scores"][rows])
        if "raw_scores" in responses.numbers
        else None,
        "finished": [responses.finished[row] for row in rows],
        "prompt": [place(responses.prompt_ids[row]) for row in rows],
        "asked": [
            place(_asked(prompts.get(responses.prompt_ids[row]), query))
            for row, query in zip(rows, queries, strict=True)
        ],
        "query": [place(query) for query in queries],
        "text": [place(responses.texts[row]) for row in rows],
        "passages": [[place(p) for p in responses.passages[row]] for row in rows],
        "turns": [[place(turn) for turn in responses.turns[row]] for row in rows],
        "searches": [[place(query) for query in responses.search_queries[row]] for row in rows],
        "positions": list(positions),
        "texts": list(texts),
    }


def _asked(prompt: Prompt | None, query: str) -> str:
    """Return a prompt as a person reads it: its last turn, or all that the policy read."""
    return query if prompt is None else prompt.messages[-1].content


def _gap_note(gold: np.ndarray | None, gap: Gap | None) -> str:
    if gold is None:
        return ""
    if gap is None:
        return "There is no gap: reward or gold has one value only."
    return (
        "Gap: reward less gold, each less its mean and over its standard deviation at the first "
        "update. The reward is the weighted sum of its terms, before clipping, penalties and KL."
    )


def _removed_note(removed: Sequence[int]) -> str:
    if not removed:
        return ""
    what = "update" if len(removed) == 1 else "updates"
    return f"The rollouts of {what} {_span(removed)} were removed; they are not here."


def _absent_notes(responses: Responses) -> list[str]:
    """Return what files of an earlier version lack, a sentence for each set of columns."""
    by_columns: dict[tuple[str, ...], list[int]] = {}
    for update, columns in responses.absent.items():
        by_columns.setdefault(tuple(columns), []).append(update)
    return [
        f"Files of an earlier version, those of updates {_span(updates)}, lack "
        f"{', '.join(columns)}: what these would say is not shown."
        for columns, updates in by_columns.items()
    ]


def _span(updates: Sequence[int]) -> str:
    whole = list(updates) == list(range(updates[0], updates[-1] + 1))
    if whole and len(updates) > 2:
        return f"{updates[0]} to {updates[-1]}"
    return listed(map(str, updates), 12)


def _figures(responses: Responses, gap: Gap | None) -> list[dict[str, Any]]:
    """Return curves over updates of all rollouts, with intervals over prompts."""
    updates = list(dict.fromkeys(responses.updates.tolist()))
    if len(updates) < 2:
        return []

    def band(name: str, colour: int, values: np.ndarray) -> dict[str, Any]:
        return {
            "name": name,
            "style": "band",
            "colour": colour,
            "points": [_mean(responses, values, update) for update in updates],
        }

    numbers = responses.numbers
    if gap is None:
        lines = [band("", 0, numbers["scores"])]
        found = [("score", "reward per response", lines)]
    else:
        lines = [band("reward", 0, gap.proxy), band("gold", 1, gap.gold)]
        found = [("reward and gold", "standard deviations of the first update", lines)]
    if "kl" in numbers:
        found.append(("KL to the reference", "nats per response", [band("", 0, numbers["kl"])]))
    found.append(("length", "tokens per response", [band("", 0, numbers["length"])]))
    figures = [
        {"title": title, "x": "update", "y": unit, "series": series}
        for title, unit, series in found
    ]
    return [
        {**figure, "svg": plots.plot(figure), "legend": plots.legend(figure)} for figure in figures
    ]


def _mean(responses: Responses, values: np.ndarray, update: int) -> tuple[float | None, ...]:
    """Return (update, mean, low, high) of one update's responses, over prompts."""
    own = np.flatnonzero((responses.updates == update) & np.isfinite(values))
    if len(own) == 0:
        return update, None, None, None
    found = mean_interval(values[own], [responses.prompt_ids[row] for row in own.tolist()])
    ends = (found.low, found.high)
    return (update, found.value, *(end if np.isfinite(end) else None for end in ends))


def _fill(**page: Any) -> str:
    """Return the template filled; its style and scripts stand in it."""
    import jinja2

    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [
                jinja2.PrefixLoader({"report": jinja2.FileSystemLoader(here.parent)}),
                jinja2.FileSystemLoader(here),
            ]
        ),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(number=number, scripts=SCRIPTS, **page)
