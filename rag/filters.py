"""What a search is limited to by metadata: a small language of mappings, parsed once.

    {topic: history}                         the field equals the value
    {lang: [en, de]}                         ... or is one of several
    {year: {min: 1990, below: 2000}}         min and max include the bound; above and below do not
    {date: {min: 2024-01-01}}                a range of dates, ISO 8601
    {url: {exists: false}}                   the field is missing
    {topic: history, year: {min: 1990}}      both
    {any: [{topic: history}, {page: 1}]}     at least one; `all` stands for each of a list
    {not: {topic: history}}                  where the inner filter does not pass

Fields are those of a chunk (`FIELDS`) and the keys of its metadata; `metadata.x` is the key x where
a field of the chunk, or a word of this language, has the same name. A field that holds a list of
texts passes where one of them does. A missing field passes no condition but `exists: false`, so
`not` passes where the field is missing. Numbers, texts and truth values never equal each other: 1
is 1.0, and neither "1" nor true. A date without a time is its midnight, and a time without a zone
is in UTC. Nothing in a filter is evaluated as code.

Which rows pass is computed for all of them, exactly, before any index is searched
(`rag/columns.py`), so no type of index can lose any.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, TypeAlias

import yaml

from plumbrule.config import require, require_choice
from plumbrule.errors import ConfigError

FIELDS = ("id", "document", "title", "page", "url", "section", "date")
"""Of a chunk. What is not given ("" or None) is missing."""
METADATA = "metadata."
ALL, ANY, NOT = "all", "any", "not"
BOUNDS = {
    "min": (True, False),
    "above": (True, True),
    "max": (False, False),
    "below": (False, True),
}
"""Of a range: whether it is the lower bound, and whether the bound itself is left out."""
CONDITIONS = (*BOUNDS, "in", "is", "exists")
DEEPEST = 32
"""Filters within filters; more than anybody writes, fewer than Python's stack takes."""
MOST_CONDITIONS = 1000
MOST_VALUES = 100_000
"""In all lists of values together."""
LARGEST = sys.float_info.max
Scalar: TypeAlias = str | int | float | bool


class OneOf(NamedTuple):
    """The field equals one of the values."""

    field: str
    values: tuple[Scalar, ...]


class InRange(NamedTuple):
    """The field's number, or instant, lies between bounds; None: there is no bound on that side."""

    field: str
    dates: bool
    """Whether bounds are instants (microseconds since 1970, UTC) rather than numbers."""
    low: int | float | None = None
    low_open: bool = False
    high: int | float | None = None
    high_open: bool = False


class Exists(NamedTuple):
    """The field is there, or is missing."""

    field: str
    wanted: bool


class AllOf(NamedTuple):
    """Every part passes; without parts, everything does."""

    parts: tuple[Any, ...]


class AnyOf(NamedTuple):
    """At least one part passes."""

    parts: tuple[Any, ...]


class Not(NamedTuple):
    """The part does not pass."""

    part: Any


Filter: TypeAlias = OneOf | InRange | Exists | AllOf | AnyOf | Not


def parse_filter(given: Mapping[str, Any] | str | None, name: str = "filter") -> Filter | None:
    """Return the filter of a mapping, or of a text that is one in YAML or JSON; None: no filter.

    Args: name: of the setting, for errors.
    Raises: ConfigError: it is no filter; names the part that is wrong.
    """
    if isinstance(given, str):
        try:
            given = yaml.safe_load(given)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"{name} (={given!s:.80}) must be a mapping in YAML, such as "
                f"'{{topic: history}}'; it can't be read: {reason}."
            ) from None
    if given is None or given == {}:
        return None
    _require_bounded(given, name)
    return _parse(given, name, 0)


def filter_of(given: object, name: str = "filter") -> Filter | None:
    """Return a filter as it is, or what `parse_filter` makes of a mapping or text; None: none.

    Raises: ConfigError: as `parse_filter`, and for whatever else.
    """
    if isinstance(given, Filter):
        return given
    fits = given is None or isinstance(given, Mapping | str)
    rule, fix = "be a mapping of fields", "see docs/retrieval.md#filters"
    require(fits, name, _shown(given), rule, fix)
    return parse_filter(given, name) if given is None or isinstance(given, Mapping | str) else None


def fields_of(found: Filter) -> list[str]:
    """Return the fields that a filter names, each once, in order."""
    if isinstance(found, AllOf | AnyOf):
        return list(dict.fromkeys(name for part in found.parts for name in fields_of(part)))
    return fields_of(found.part) if isinstance(found, Not) else [found.field]


def instant_of(value: str | date) -> int | None:
    """Return microseconds since 1970 in UTC of a date, or ISO 8601 text; None: it is no date."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _require_bounded(given: Any, name: str) -> None:
    """Raise ConfigError for a filter that would take too long, or too deep a stack, to be parsed.

    Aliases of YAML make a small text stand for a large filter, so what is met twice counts twice.
    """
    conditions = values = 0
    todo = [(given, 0)]
    while todo:
        one, depth = todo.pop()
        if isinstance(one, Mapping):
            conditions += len(one)
            inside = list(one.values())
        elif isinstance(one, list | tuple):
            values += len(one)
            inside = list(one)
        else:
            continue
        for holds, rule in (
            (depth <= 2 * DEEPEST + 2, f"nest at most {DEEPEST} filters"),
            (conditions <= MOST_CONDITIONS, f"have at most {MOST_CONDITIONS} conditions"),
            (values <= MOST_VALUES, f"have at most {MOST_VALUES} values"),
        ):
            require(holds, name, "...", rule, "write it simpler")
            if not holds:
                raise ValueError(name)  # refused above, together with other settings
        todo += [(part, depth + 1) for part in inside if not isinstance(part, str)]


def _parse(given: Any, name: str, depth: int) -> Filter:
    rule, fix = "be a mapping of fields", "see docs/retrieval.md#filters"
    require(isinstance(given, Mapping) and len(given) > 0, name, _shown(given), rule, fix)
    if not isinstance(given, Mapping):
        raise TypeError(name)  # refused above, together with other settings
    require(depth <= DEEPEST, name, "...", f"nest at most {DEEPEST} filters", "write it flatter")
    parts = [_parse_one(key, value, f"{name}.{key}", depth) for key, value in given.items()]
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _parse_one(key: Any, value: Any, name: str, depth: int) -> Filter:
    require(isinstance(key, str) and key != "", name, key, "be a text", "quote it")
    if key in (ALL, ANY):
        listed = isinstance(value, list | tuple) and len(value) > 0
        require(listed, name, _shown(value), "be a list of filters", "give at least one")
        parts = tuple(_parse(one, f"{name}[{i}]", depth + 1) for i, one in enumerate(value))
        return AllOf(parts) if key == ALL else AnyOf(parts)
    if key == NOT:
        return Not(_parse(value, name, depth + 1))
    if not isinstance(value, Mapping):
        return OneOf(key, _values(value, name))
    require(len(value) > 0, name, "{}", "state a condition", f"use {', '.join(CONDITIONS)}")
    for word in value:
        require_choice(f"a condition of {name}", word, CONDITIONS, "choose one")
    return _conditions(key, dict(value), name)


def _conditions(field: str, given: dict[str, Any], name: str) -> Filter:
    """Return the filter of a field's conditions, all of which must hold."""
    found: list[Filter] = []
    if bounds := {word: given[word] for word in given if word in BOUNDS}:
        found.append(_range(field, bounds, name))
    for word in ("in", "is"):
        if word in given:
            several = isinstance(given[word], list | tuple)
            rule, fix = (
                ("be one value", "use `in` for several values")
                if word == "is"
                else ("be a list of values", "use `is` for one value")
            )
            require(several == (word == "in"), f"{name}.{word}", _shown(given[word]), rule, fix)
            found.append(OneOf(field, _values(given[word], f"{name}.{word}")))
    if "exists" in given:
        wanted = given["exists"]
        is_bool = isinstance(wanted, bool)
        require(is_bool, f"{name}.exists", _shown(wanted), "be true or false", "choose one")
        found.append(Exists(field, wanted))
    return found[0] if len(found) == 1 else AllOf(tuple(found))


def _range(field: str, bounds: dict[str, Any], name: str) -> InRange:
    values: dict[str, int | float] = {}
    are_dates = set()
    for word, bound in bounds.items():
        number = isinstance(bound, int | float) and not isinstance(bound, bool)
        value = bound if number else instant_of(bound) if isinstance(bound, str | date) else None
        sound = value is not None and abs(value) <= LARGEST
        rule = "be a finite number or an ISO 8601 date"
        require(sound, f"{name}.{word}", _shown(bound), rule, "such as 1990 or 2024-01-31")
        values[word] = value if value is not None else 0
        are_dates.add(not number)
    rule, fix = "have bounds of one kind", "give two numbers or two dates"
    require(len(are_dates) == 1, name, _shown(bounds), rule, fix)
    found = InRange(field, are_dates == {True})
    for word, value in values.items():
        lower, is_open = BOUNDS[word]
        taken = found.low if lower else found.high
        require(taken is None, name, _shown(bounds), "have one bound a side", f"leave {word} out")
        if lower:
            found = found._replace(low=value, low_open=is_open)
        else:
            found = found._replace(high=value, high_open=is_open)
    if found.low is not None and found.high is not None:
        rule = "have its lower bound below its upper one"
        require(found.low <= found.high, name, _shown(bounds), rule, "exchange them")
    return found


def _values(given: Any, name: str) -> tuple[Scalar, ...]:
    several = list(given) if isinstance(given, list | tuple) else [given]
    require(len(several) > 0, name, "[]", "name at least one value", "or leave the field out")
    found = []
    for one in several:
        value = one.isoformat() if isinstance(one, date) else one
        sound = isinstance(value, str | bool | int | float) and value == value
        rule = "be a text, number, truth value, or a list of such"
        require(sound, name, _shown(one), rule, "correct it")
        found.append(value)
    return tuple(found)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"{value!r:.80}"
    try:
        return f"{value!s:.80}" if not isinstance(value, Mapping | list | tuple) else _brief(value)
    except ValueError:  # a whole number of more digits than Python writes
        return "a number of thousands of digits"


def _brief(value: Any) -> str:
    """Return the beginning of a mapping or list, however large it is."""
    short = reprlib.Repr()
    short.maxlevel = 3
    return short.repr(value)[:80]
