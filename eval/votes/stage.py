"""Stage `vote`: several policies, such as seeds or adapters of one model, answer as one.

1. Read the item rows of the evaluations, which must be of the same questions, asked alike.
2. Take them together, question by question:
   multiple_choice  `mean`: the log-likelihood of each answer, averaged over the policies, and the
                    highest counts; `vote`: each policy chooses its likeliest answer, and the
                    commonest choice counts.
   open_qa          `vote`: the commonest greedy answer by SQuAD's normalisation counts.
   Of several that are equally common (`vote_tied`) the first policy's counts, in the order of the
   node's inputs.
3. Rows to metrics, with intervals over questions. `members` is the mean of the policies' own
   scores, and a `gain` the paired difference to it, on the same questions.
4. Write.

No model is asked again. The intervals take these policies as given: by how much other seeds would
differ, `summary` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.benchmarks.quantity import items_file
from eval.intervals import Intervals, Metrics, Row, known, publish
from eval.majority import majority
from eval.votes.config import VoteConfig
from plumbrule.data.json_lines import read_rows
from plumbrule.errors import DataError
from plumbrule.grounding.answer_match import exact_match, normalise_answer, word_f1
from plumbrule.inputs import Inputs
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, METRICS, NOTES
from plumbrule.store.json_files import read_json, write_json, write_jsonl

CHOICE, OPEN = "multiple_choice", "open_qa"
NEEDED = {CHOICE: ("answer", "nats", "bytes", "correct"), OPEN: ("response", "references", "f1")}
"""Benchmark -> the columns that its rows must have."""
SAME = {CHOICE: ("answer", "bytes"), OPEN: ("references",)}
"""Benchmark -> the columns that are of the question, and not of the policy."""
SHARES = {
    CHOICE: ("mean_accuracy", "mean_accuracy_per_byte", "vote_accuracy", "vote_tied"),
    OPEN: ("vote_exact_match", "vote_contains", "vote_tied"),
}
MEANS = {
    CHOICE: ("members_accuracy", "mean_gain", "vote_gain", "vote_agreement"),
    OPEN: ("vote_f1", "members_exact_match", "members_f1", "vote_gain", "vote_agreement"),
}


def run(
    config: VoteConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Return `vote/<benchmark>_<metric>`, under `rag` with `_rag` behind it.

    Writes `items/<benchmark>.jsonl`, `metrics.json` (benchmark -> condition -> metric) and
    `notes.json`.

    Raises: DataError: fewer than two evaluations, none of whose benchmarks can be taken together,
        or that are of other questions or asked otherwise.
    """
    return write_vote(config, inputs, out)


def write_vote(config: VoteConfig, inputs: Mapping[str, Artifact], out: Path) -> dict[str, float]:
    """Do what `run` does, of which nothing needs a machine or a tracker."""
    # 1
    members = [one.artifact for one in Inputs(inputs).variations("policy")]
    if len(members) < 2:
        raise DataError(
            f"inputs (={len(members)} evaluations) must be at least two; give several seeds."
        )
    both = [b for b in NEEDED if all(one.has(items_file(b)) for one in members)]
    if not both:
        raise DataError(
            f"the evaluations must all hold {' or '.join(NEEDED)}; name its file, such as "
            f"eval.{CHOICE}.path=<file>.",
            members[0].path,
        )
    intervals = Intervals(config.confidence)
    nested: dict[str, dict[str, Any]] = {}
    flat: Metrics = {}
    (out / ITEMS).mkdir(exist_ok=True)
    for name in both:
        require_alike(name, members)
        # 2
        pool = chosen if name == CHOICE else answered
        rows = [pool(rows) for rows in questions(name, members)]
        write_jsonl(out / items_file(name), rows)
        # 3
        for condition in dict.fromkeys(row["condition"] for row in rows):
            own = [row for row in rows if row["condition"] == condition]
            metrics = summarise(name, own, intervals)
            end = "" if condition == "closed" else f"_{condition}"
            flat |= {f"vote/{name}_{metric}{end}": found for metric, found in metrics.items()}
            beside = {
                "unit": "questions",
                "confidence": config.confidence,
                "policies": [one.fingerprint for one in members],
                "signature": f"vote of {len(members)}|{signature(name, members[0])}",
            }
            nested.setdefault(name, {})[condition] = {
                metric: {**found.as_json(), **beside} for metric, found in metrics.items()
            }
    # 4
    write_json(out / METRICS, nested)
    write_json(out / NOTES, [f"{len(members)} evaluations are taken as one; a tie is the first's."])
    return publish(flat, out)


def signature(name: str, member: Artifact) -> str:
    """Return what an evaluation's numbers of a benchmark depend on beside the records."""
    metrics = read_json(member.file(METRICS))[name]
    numbers = [number for own in metrics.values() for number in own.values()]
    return str(numbers[0].get("signature", "")) if numbers else ""


def require_alike(name: str, members: Sequence[Artifact]) -> None:
    """Raise DataError where two evaluations asked the questions of a benchmark otherwise."""
    found = [signature(name, one) for one in members]
    for one, other in zip(members[1:], found[1:], strict=True):
        if other != found[0]:
            raise DataError(
                f"{name}: evaluations must ask alike, and are {found[0]!r} and {other!r}; evaluate "
                "them with the same settings.",
                one.path,
            )


def questions(name: str, members: Sequence[Artifact]) -> list[list[Row]]:
    """Return the rows of each question and condition, one of each evaluation, in their order.

    Raises: DataError: an evaluation lacks a question or a column, or has another question.
    """
    tables: list[dict[tuple[str, str], Row]] = []
    for one in members:
        path = one.file(items_file(name))
        own: dict[tuple[str, str], Row] = {
            (row["id"], row["condition"]): row for _, row in read_rows(path)
        }
        lacking = {c for row in own.values() for c in NEEDED[name] if c not in row}
        if lacking:
            raise DataError(
                f"rows must hold {', '.join(sorted(lacking))}; evaluate the policy again.", path
            )
        if tables and own.keys() != tables[0].keys():
            differ = len(own.keys() ^ tables[0].keys())
            raise DataError(
                f"{differ} questions of {name} stand in one evaluation only; evaluate all policies "
                "on the same ones.",
                path,
            )
        for key, row in own.items() if tables else ():
            if any(row[c] != tables[0][key][c] for c in SAME[name]):
                raise DataError(
                    f"{name} {key[0]!r} must be the same question in each evaluation; give them "
                    "the same file.",
                    path,
                )
        tables.append(own)
    return [[table[key] for table in tables] for key in tables[0]]


def chosen(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the row of one question with given answers. Args: rows: one of each policy.

    Ties of log-likelihood share the point, as in the evaluations; a policy that finds two answers
    equally likely votes for the first.
    """
    right, lengths = rows[0]["answer"], np.array(rows[0]["bytes"], float)
    nats = np.array([row["nats"] for row in rows], float)
    vote = majority([int(own.argmax()) for own in nats])
    choice = int(nats[vote.place].argmax())
    mean = nats.mean(0)
    found: dict[str, Any] = {
        "mean_accuracy": share_of_top(mean, right),
        "mean_accuracy_per_byte": share_of_top(mean / lengths, right),
        "vote_accuracy": float(choice == right),
        "vote_agreement": vote.share,
        "vote_tied": int(vote.tied),
        "members_accuracy": float(np.mean([row["correct"] for row in rows])),
        "choice": choice,
    }
    found["mean_gain"] = found["mean_accuracy"] - found["members_accuracy"]
    found["vote_gain"] = found["vote_accuracy"] - found["members_accuracy"]
    return {**_kept(rows[0]), **found}


def share_of_top(scores: np.ndarray, right: int) -> float:
    """Return 1 where the right answer alone scores highest, 1 / k where it ties with k - 1, else 0.

    Args: scores: (k,).
    """
    top = np.flatnonzero(scores == scores.max())
    return 1 / len(top) if right in top else 0.0


def answered(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the row of one open question. Args: rows: one of each policy."""
    texts = [str(row["response"]) for row in rows]
    vote = majority([normalise_answer(text) for text in texts])
    text, references = texts[vote.place], rows[0]["references"]
    own: dict[str, Any] = {
        "vote_exact_match": exact_match(text, references),
        "vote_f1": word_f1(text, references),
        "vote_contains": int(rows[vote.place]["contains"]),
        "vote_agreement": vote.share,
        "vote_tied": int(vote.tied),
        "members_exact_match": float(np.mean([row["exact_match"] for row in rows])),
        "members_f1": float(np.mean([row["f1"] for row in rows])),
        "response": text,
    }
    return {**_kept(rows[0]), **own, "vote_gain": own["vote_f1"] - own["members_f1"]}


def _kept(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "group", "condition")}


def summarise(name: str, rows: Sequence[Row], intervals: Intervals) -> Metrics:
    """Return the metrics of one benchmark and condition."""
    shares = {column: intervals.share(rows, column) for column in SHARES[name]}
    return known(shares | {column: intervals.mean(rows, column) for column in MEANS[name]})
