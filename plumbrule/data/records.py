"""The five records that every stage reads and writes, and their JSON Lines form.

A record is a frozen dataclass; a file of records is JSON Lines, one record a row, written by
`write_records` and read by `read_records`. Formats of other projects are turned into these records
once, by `plumbrule/data/readers/` in the data stage; no other stage knows them.

A *prompt* is always a chat: a tuple of `Message`, last one from the user. `meta` carries what a
benchmark or a reward needs to know of a prompt (its answer, its group) and is never shown to a
policy. Ranks start at 1 (best) and have no holes; equal ranks are ties.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

from plumbrule.data.json_lines import read_rows
from plumbrule.errors import DataError, listed
from plumbrule.store.json_files import write_jsonl

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise DataError(f"role (={self.role!r:.80}) must be one of {', '.join(ROLES)}.")
        if not isinstance(self.content, str):
            raise DataError(f"content (={self.content!r:.80}) must be text.")


@dataclass(frozen=True)
class Prompt:
    """A chat that awaits a response; `meta` holds what judges it (answer, group, date)."""

    id: str
    messages: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_messages(self.messages)


@dataclass(frozen=True)
class DemonstratedSearch:
    """A turn that ends with a search call, and the passages that answer it.

    The call's markers are the policy's (`sft.search`). before: what the turn says before the call.
    """

    query: str
    passages: tuple[str, ...] = ()
    before: str = ""

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise DataError("searches must each hold a query; give it one or remove the search.")


@dataclass(frozen=True)
class Demonstration:
    """A chat and the response that a policy should learn to give.

    `passages` are documents shown with the prompt, through the policy's retrieval template.
    `searches` are turns with a search call that come before the response, which is the last turn.
    Passages count from 1 over the prompt's and then those of each search: response cites them so.
    """

    id: str
    messages: tuple[Message, ...]
    response: str
    passages: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    searches: tuple[DemonstratedSearch, ...] = ()

    def __post_init__(self) -> None:
        check_messages(self.messages)
        if not self.response.strip():
            raise DataError("response must hold text; remove the row or give it an answer.")


@dataclass(frozen=True)
class Preference:
    """K >= 2 responses to one prompt and their ranks.

    ranks: one per response, 1 = best, equal = tie, no holes. margin: how much better rank 1 is
    than rank 2, where the source says so. confidence: of the annotator, in (0, 1].

    Where the source knows more of its answers, one value for each response: finished: whether it
    ended by itself and was not cut at a limit; None: all did. utilities: without the annotator's
    noise. terms: what each utility is the sum of, by name. flipped is of the whole ranking: whether
    its order was reversed on purpose; None: no ranking of the source could be.
    """

    id: str
    messages: tuple[Message, ...]
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    passages: tuple[str, ...] = ()
    scores: tuple[float, ...] | None = None
    margin: float | None = None
    annotator: str = ""
    confidence: float = 1.0
    finished: tuple[bool, ...] | None = None
    utilities: tuple[float, ...] | None = None
    terms: Mapping[str, tuple[float, ...]] | None = None
    flipped: bool | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_messages(self.messages)
        check_ranking(self.responses, self.ranks)
        if self.scores is not None and len(self.scores) != len(self.responses):
            raise DataError(
                f"scores (={len(self.scores)} values) must number as many as responses "
                f"(={len(self.responses)})."
            )
        for name, numbers in (("scores", self.scores or ()), ("margin", (self.margin,))):
            for number in numbers:
                if number is not None and not abs(number) <= LARGEST:
                    raise DataError(
                        f"{name} (={number!r:.40}) must be finite; correct it or leave it out."
                    )
        if not 0.0 < self.confidence <= 1.0:
            raise DataError(f"confidence (={self.confidence}) must lie in (0, 1].")
        number = len(self.responses)
        if self.finished is not None:
            check_answer_field("finished", self.finished, bool, number)
        if self.utilities is not None:
            check_answer_field("utilities", self.utilities, int | float, number)
        if self.terms is not None:
            if not isinstance(self.terms, Mapping):
                raise DataError(f"terms (={self.terms!r:.80}) must be an object of lists.")
            for name, values in self.terms.items():
                check_answer_field(f"terms.{name}", values, int | float, number)
        if self.flipped is not None and not isinstance(self.flipped, bool):
            raise DataError(f"flipped (={self.flipped!r:.80}) must be true or false.")

    def which_finished(self) -> tuple[bool, ...]:
        """Return which responses ended by themselves: all, where the source does not say."""
        return (True,) * len(self.responses) if self.finished is None else self.finished

    def pairs(self) -> list[tuple[int, int]]:
        """Return all (better, worse) index pairs; ties give none."""
        order = range(len(self.ranks))
        return [(i, j) for i in order for j in order if self.ranks[i] < self.ranks[j]]


@dataclass(frozen=True)
class Document:
    """A text that retrieval may show to a policy; `meta` holds its source and date."""

    id: str
    text: str
    title: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise DataError(f"document {self.id!r} has no text; remove it or give it one.")


@dataclass(frozen=True)
class BenchmarkItem:
    """One row of a benchmark.

    task: which protocol judges it (`question`, `halueval_qa`, `bold`, ...). fields: the texts that
    the protocol names. group: the unit that intervals resample (an entity, a source row).
    """

    id: str
    task: str
    fields: Mapping[str, Any]
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


Record = Prompt | Demonstration | Preference | Document | BenchmarkItem
R = TypeVar("R", Prompt, Demonstration, Preference, Document, BenchmarkItem)


LARGEST = 3.4e38
"""Number that float32, in which models compute, can hold."""


def check_messages(messages: tuple[Message, ...]) -> None:
    """Raise DataError unless `messages` is a chat whose last turn is the user's."""
    if not messages or messages[-1].role != "user":
        last = messages[-1].role if messages else "none"
        raise DataError(f"the last message (role={last}) must be the user's.")


def check_ranking(responses: tuple[str, ...], ranks: tuple[int, ...]) -> None:
    """Raise DataError unless K >= 2 responses have ranks without holes and none repeats."""
    if len(responses) < 2:
        raise DataError(f"responses (={len(responses)}) must be at least 2 to be compared.")
    if len(ranks) != len(responses):
        raise DataError(
            f"ranks (={list(ranks)}) must number as many as responses (={len(responses)})."
        )
    if len(set(responses)) < len(responses):
        twice = next(r for r in responses if responses.count(r) > 1)
        raise DataError(
            "responses must differ: equal answers can't be ranked; drop the row.", text=twice
        )
    if sorted(set(ranks)) != list(range(1, len(set(ranks)) + 1)):
        raise DataError(
            f"ranks (={list(ranks)}) must be 1..n with no hole (ties repeat a rank); "
            "give 1 to the best."
        )


def check_answer_field(name: str, values: Any, kinds: type | UnionType, num_responses: int) -> None:
    """Raise DataError unless `values` is a tuple of `kinds`, one for each response."""
    of_bool = kinds is bool  # True is an int to Python, and no utility
    fits = isinstance(values, tuple) and len(values) == num_responses
    if not fits or not all(isinstance(v, kinds) and isinstance(v, bool) is of_bool for v in values):
        what = "true or false" if of_bool else "numbers"
        shown = list(values) if isinstance(values, tuple) else values
        raise DataError(
            f"{name} (={shown!r:.80}) must be a list of {what}, one for each of the "
            f"{num_responses} responses; correct it or leave it out."
        )


def to_dict(record: Record) -> dict[str, Any]:
    """Return the JSON form of a record: fields at their defaults are left out."""
    row: dict[str, Any] = {}
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        default = f.default_factory() if callable(f.default_factory) else f.default
        if value != default:
            if f.name == "messages":
                value = [{"role": m.role, "content": m.content} for m in value]
            if f.name == "searches":
                value = [dataclasses.asdict(search) for search in value]
            row[f.name] = value
    return row


def from_dict(kind: type[R], row: Mapping[str, Any]) -> R:
    """Return the record of type `kind` that `row` (as `to_dict` wrote it) holds.

    A ranking's `finished`, `utilities`, `terms` and `flipped` are also found inside `meta`, where
    earlier versions wrote them.

    Raises: DataError: an unknown or missing field, or a value that breaks the record's rules.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"a row must be a JSON object, not {type(row).__name__}.")
    if kind is Preference:
        row = _with_answer_fields(row)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = set(row) - set(fields)
    if unknown:
        raise DataError(
            f"field(s) {listed(sorted(unknown))} must be known to a {kind.__name__}, which has "
            f"{', '.join(fields)}; take the others out, or rename them."
        )
    values = {name: _typed(name, value) for name, value in row.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [
            n
            for n, f in fields.items()
            if n not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        raise DataError(
            f"field(s) {', '.join(missing)} must be in a {kind.__name__}; add what is missing."
        ) from error


_OF_ANSWERS = ("finished", "utilities", "terms", "flipped")


def _with_answer_fields(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a ranking's row with what is known of its answers moved out of `meta`.

    Earlier versions had no fields for it. A row with one of the fields is a newer one, whose `meta`
    is its prompt's: a key of the same name there is something else and stays.
    """
    meta = row.get("meta")
    if not isinstance(meta, Mapping) or any(name in row for name in _OF_ANSWERS):
        return row
    moved = {name: meta[name] for name in _OF_ANSWERS if name in meta}
    return {**row, **moved, "meta": {n: v for n, v in meta.items() if n not in moved}}


_TEXTS = ("id", "response", "text", "title", "task", "group", "annotator")
_NUMBERS = ("margin", "confidence")
_OBJECTS = ("meta", "fields")
_LISTS: dict[str, tuple[type, ...]] = {
    "responses": (str,),
    "passages": (str,),
    "ranks": (int,),
    "scores": (int, float),
}


def _typed(name: str, value: Any) -> Any:
    """Return the value of a field as its record holds it.

    Raises: DataError: JSON of another type.
    """
    if name == "messages":
        return to_messages(value)
    if name == "searches":
        return to_searches(value)
    if name in ("finished", "utilities"):
        return tuple(value) if isinstance(value, list) else value
    if name == "terms" and isinstance(value, Mapping):
        return {t: tuple(v) if isinstance(v, list) else v for t, v in value.items()}
    if name in _LISTS:
        fits = isinstance(value, list | tuple) and all(type(v) in _LISTS[name] for v in value)
        if not fits:
            what = "texts" if str in _LISTS[name] else "numbers"
            if name == "ranks":
                what = "whole numbers (1 and not 1.0), the best 1"
            raise DataError(f"{name} (={value!r:.80}) must be a list of {what}.")
        return tuple(value)
    for names, kind, what in (
        (_TEXTS, str, "text"),
        (_NUMBERS, int | float, "a number"),
        (_OBJECTS, Mapping, "a JSON object"),
    ):
        if name in names and (not isinstance(value, kind) or isinstance(value, bool)):
            raise DataError(f"{name} (={value!r:.80}) must be {what}.")
    return value


def to_messages(turns: Any) -> tuple[Message, ...]:
    """Return the messages of a list of {"role", "content"} objects.

    Raises: DataError: not a list, or a turn without role or content.
    """
    if not isinstance(turns, list | tuple):
        raise DataError(f"messages (={turns!r:.80}) must be a list of turns.")
    return tuple(_message(turn) for turn in turns)


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        raise DataError(f"a message (={turn!r:.80}) must be an object with role and content.")
    return Message(turn["role"], turn["content"])


def to_searches(turns: Any) -> tuple[DemonstratedSearch, ...]:
    """Return the searches of a list of {"query", "passages", "before"} objects.

    Raises: DataError: not such a list.
    """
    fields = {"query": "", "passages": [], "before": ""}
    if not isinstance(turns, list | tuple):
        raise DataError(
            f"searches (={turns!r:.80}) must be a list of turns; write "
            '[{"query": "...", "passages": ["..."]}].'
        )
    found = []
    for turn in turns:
        if not isinstance(turn, Mapping) or "query" not in turn or set(turn) - set(fields):
            raise DataError(
                f"a search (={turn!r:.80}) must be an object with query, passages and before; "
                "correct it: query is needed, and nothing else may stand there."
            )
        query, passages, before = (turn.get(name, default) for name, default in fields.items())
        if not isinstance(query, str) or not isinstance(before, str):
            raise DataError(
                f"a search's query and before (={turn!r:.80}) must be text; correct it."
            )
        found.append(DemonstratedSearch(query, _typed("passages", passages), before))
    return tuple(found)


def read_records(kind: type[R], path: Path | str) -> list[R]:
    """Return the records of type `kind` in a JSON Lines file that `write_records` wrote.

    Raises: DataError: missing file, malformed row, broken rule; with file and row.
    """
    records = []
    for number, row in read_rows(path):
        try:
            records.append(from_dict(kind, row))
        except DataError as error:
            raise DataError(str(error), path, number, json.dumps(row)) from None
    return records


def write_records(records: Iterable[Record], path: Path | str) -> int:
    """Write records as JSON Lines and return how many there were."""
    return write_jsonl(Path(path), (to_dict(record) for record in records))
