"""The filter language, and that every way of searching passes exactly what brute force passes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbrule.config import refusing_together
from plumbrule.errors import ConfigError
from rag.access import Principal
from rag.chunks import Chunk
from rag.columns import Columns
from rag.corpus import Corpus
from rag.filters import AllOf, Filter, InRange, Not, OneOf, parse_filter
from rag.index.approximate import ApproximateIndex
from rag.index.bm25 import KeywordIndex
from rag.index.dense import VectorIndex
from rag.index.exact import ExactIndex
from rag.index.hash_encoder import HashingEncoder
from rag.index.presets import PRESETS, from_preset
from rag.search.engine import DenseIndex, HybridIndex, IndexRetriever

WORDS = ("baker", "miller", "glazier", "painter", "dentist", "fisher", "Rome", "Lima", "Oslo")
TOPICS = ("history", "science", "art", "1", "true")
DATES = ("2020-01-31", "2020-01-31T00:00:00", "2020-01-31T10:30:00+02:00", "2021-06-01", "soon")
VALUES: dict[str, list[Any]] = {
    "topic": list(TOPICS),
    "year": [1990, 1990.0, 2000, 2000.5, 2**62, 2**62 + 1, "1990", True],
    "open": [True, False, 1, 0],
    "tags": [["a", "b"], ["b"], [], ["2020-01-31"], "a"],
    "date": list(DATES),
}


def chunk(row: int, draw: np.random.Generator) -> Chunk:
    """Return a chunk of random words and fields, some of them missing."""
    has = {name: VALUES[name][draw.integers(len(VALUES[name]))] for name in VALUES}
    has = {name: value for name, value in has.items() if draw.random() < 0.7}
    day = has.pop("date", None)
    return Chunk(
        f"d{row // 3}#{row % 3}",
        f"d{row // 3}",
        0,
        9,
        "",
        " ".join(draw.choice(WORDS, size=6)),
        page=int(draw.integers(1, 4)) if draw.random() < 0.5 else None,
        date=day,
        metadata=has,
        readers=("*",) if draw.random() < 0.8 else ("ann",),
    )


@lru_cache(maxsize=1)
def corpus() -> Corpus:
    """Return 400 such chunks."""
    draw = np.random.default_rng(0)
    return Corpus([chunk(row, draw) for row in range(400)])


def passes(one: Chunk, given: Mapping[str, Any]) -> bool:
    """Return whether a chunk passes, from the language's page, one condition at a time."""
    return all(_part(one, key, value) for key, value in given.items())


def _part(one: Chunk, key: str, value: Any) -> bool:
    if key == "all":
        return all(passes(one, part) for part in value)
    if key == "any":
        return any(passes(one, part) for part in value)
    if key == "not":
        return not passes(one, value)
    is_own = key in ("id", "document", "title", "page", "url", "section", "date")
    held = getattr(one, key) if is_own else one.metadata.get(key.removeprefix("metadata."))
    held = None if held == "" else held
    if not isinstance(value, Mapping):
        value = {"in": value if isinstance(value, list) else [value]}
    return all(_holds(held, word, operand) for word, operand in value.items())


def _holds(held: Any, word: str, operand: Any) -> bool:
    if word == "exists":
        return (held is not None) == operand
    members = held if isinstance(held, list) else [held]
    return any(one is not None and _one(one, word, operand) for one in members)


def _one(held: Any, word: str, operand: Any) -> bool:
    if word in ("in", "is"):
        wanted = operand if word == "in" else [operand]
        kinds = [isinstance(held, kind) for kind in (bool, str)]
        return any(w == held and [isinstance(w, k) for k in (bool, str)] == kinds for w in wanted)
    if isinstance(operand, str):
        held, operand = _moment(held), _moment(operand)
        if held is None:
            return False
    elif isinstance(held, str | bool):
        return False
    compared = {"min": held >= operand, "above": held > operand, "max": held <= operand}
    return {**compared, "below": held < operand}[word]


def _moment(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def conditions() -> st.SearchStrategy[Any]:
    scalars = st.sampled_from([v for name in ("topic", "year", "open") for v in VALUES[name]])
    numbers = st.sampled_from([1989, 1990, 2000.25, 2**62, 2**62 + 1, 2])
    days = st.sampled_from(DATES[:4])
    ranges = [
        st.fixed_dictionaries({word: bounds})
        for bounds in (numbers, days)
        for word in ("min", "above", "max", "below")
    ]
    others = [
        scalars,
        st.lists(scalars, min_size=1, max_size=3),
        st.fixed_dictionaries({"exists": st.booleans()}),
        st.fixed_dictionaries({"is": scalars}),
        st.just({"min": 1990, "below": 2001}),
        st.just({"above": "2020-01-30", "max": "2020-01-31", "exists": True}),
    ]
    return st.one_of(*ranges, *others)


FIELDS = ("topic", "year", "open", "tags", "date", "page", "metadata.topic", "document", "url")
FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), conditions(), min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=2)}),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=400)
@given(wanted=FILTERS)
def test_columns_pass_what_brute_force_passes(wanted: dict[str, Any]) -> None:
    parsed = parse_filter(wanted)
    assert parsed is not None
    found = corpus().columns.passing(parsed)
    assert found.tolist() == [passes(one, wanted) for one in corpus().chunks]


@lru_cache(maxsize=1)
def backends() -> dict[str, IndexRetriever]:
    """Return a retriever of each kind of index over the corpus."""
    texts = [one.searched for one in corpus().chunks]
    encoder = HashingEncoder.fit(texts, 32)
    vectors = encoder.encode_passages(texts)
    stored = ExactIndex([vectors])
    dense = {"flat": VectorIndex.build(vectors), "exact": stored}
    for name in PRESETS:
        coarse = VectorIndex.build(vectors, lambda v, name=name: from_preset(name, v))
        dense[name] = ApproximateIndex(coarse, stored, PRESETS[name].nominated)
    keywords = KeywordIndex.build(texts)
    made: dict[str, Any] = {
        name: DenseIndex(index, encoder, refitted=None) for name, index in dense.items()
    }
    made |= {"bm25": keywords}
    made |= {f"{f}": HybridIndex(made["flat"], keywords, f) for f in ("convex", "ranks")}
    return {name: IndexRetriever(corpus(), index) for name, index in made.items()}


@settings(deadline=None, max_examples=40)
@given(wanted=FILTERS, query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["flat", "exact", *PRESETS, "bm25", "convex", "ranks"])
def test_every_backend_finds_exactly_what_passes(
    name: str, wanted: dict[str, Any], query: list[str]
) -> None:
    """With k at the size of the corpus, and with k = 5 the first five of that."""
    who = Principal("ann")
    (found,) = backends()[name].find([" ".join(query)], 400, who, wanted)
    right = {
        one.id
        for one in corpus().chunks
        if passes(one, wanted) and (name != "bm25" or set(query) & set(one.text.split()))
    }
    assert {passage.id for passage in found.passages} == right
    assert found.num_passing == sum(passes(one, wanted) for one in corpus().chunks)
    assert (found.shortfall(400) is None) == (found.num_passing >= 400)
    if name != "convex":  # whose scale is that of the pool, which grows with k
        (few,) = backends()[name].find([" ".join(query)], 5, who, wanted)
        assert [p.id for p in few.passages] == [p.id for p in found.passages[:5]]


def test_fewer_than_k_is_said() -> None:
    (found,) = backends()["flat"].find(
        ["baker"], 9, Principal("ann"), {"id": ["d0#0", "d1#1", "d9#9"]}
    )
    assert found.num_passing == len(found.passages) == 2
    assert found.shortfall(9) == "2 passages that may be read pass the filter, fewer than k (=9)."
    assert found.shortfall(2) is None


def test_what_is_parsed() -> None:
    assert parse_filter(None) is parse_filter({}) is parse_filter("") is None
    assert parse_filter("topic: history") == OneOf("topic", ("history",))
    wanted = parse_filter('{"year": {"min": 1990, "below": 2000}, "not": {"lang": ["en", "de"]}}')
    years = InRange("year", False, 1990, False, 2000, True)
    assert wanted == AllOf((years, Not(OneOf("lang", ("en", "de")))))
    # 2020-01-02 is 18,263 days after 1970: 50 years with 12 leap days (1972..2016) and 1 day.
    days = (50 * 365 + 12 + 1) * 86_400 * 1_000_000
    for bound in ("2020-01-02", date(2020, 1, 2), "2020-01-02T01:00:00+01:00"):
        assert parse_filter({"date": {"max": bound}}) == InRange("date", True, None, False, days)
    assert parse_filter("date: 2020-01-02") == OneOf("date", ("2020-01-02",))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("[1, 2]", r"filter \(=\[1, 2\]\) must be a mapping of fields"),
        ("{a: ", r"filter \(=\{a: \) must be a mapping in YAML"),
        ({"year": {"mim": 3}}, r"a condition of filter\.year \(=mim\) .*nearest is min"),
        ({"year": {}}, r"filter\.year \(=\{\}\) must state a condition"),
        ({"year": {"min": "soon"}}, r"filter\.year\.min \(='soon'\) must be a finite number or an"),
        ({"year": {"min": float("nan")}}, r"filter\.year\.min \(=nan\) must be a finite number"),
        ({"year": {"min": True}}, r"filter\.year\.min \(=True\) must be a finite number"),
        ({"year": {"min": 1, "max": "2020-01-01"}}, r"filter\.year .*bounds of one kind"),
        ({"year": {"min": 2, "max": 1}}, r"lower bound below its upper one"),
        ({"year": {"min": 2, "above": 1}}, r"one bound a side; leave above out"),
        ({"year": []}, r"filter\.year \(=\[\]\) must name at least one value"),
        ({"year": None}, r"filter\.year \(=None\) must be a text, number"),
        ({"year": [[1]]}, r"filter\.year \(=\[1\]\) must be a text, number"),
        ({"year": {"is": [1]}}, r"filter\.year\.is \(=\[1\]\) must be one value; use `in`"),
        ({"year": {"in": 1}}, r"filter\.year\.in \(=1\) must be a list of values; use `is`"),
        ({"year": {"exists": "yes"}}, r"filter\.year\.exists \(='yes'\) must be true or false"),
        ({"any": {"a": 1}}, r"filter\.any .* must be a list of filters"),
        ({"any": [{"a": 1}, 3]}, r"filter\.any\[1\] \(=3\) must be a mapping"),
        ({"not": {}}, r"filter\.not \(=\{\}\) must be a mapping of fields"),
        ({3: 1}, r"filter\.3 \(=3\) must be a text; quote it"),
        ("!!python/object/apply:os.system ['true']", r"must be a mapping in YAML"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(wanted: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_filter(wanted)


def test_filters_within_filters_end_somewhere() -> None:
    nested: dict[str, Any] = {"topic": "art"}
    for _ in range(40):
        nested = {"not": nested}
    with pytest.raises(ConfigError, match="nest at most 32 filters"):
        parse_filter(nested)


def test_an_unknown_field_is_an_error_that_names_those_there_are() -> None:
    found = Columns(corpus().chunks)
    every = np.ones(400, dtype=bool)
    wanted = parse_filter({"any": [{"topic": "art"}, {"yaer": 1990}]})
    assert wanted is not None
    with pytest.raises(ConfigError, match=r"a field of filter \(=yaer\) must be .*nearest is year"):
        found.require_known(wanted, every)
    known = ["id", "document", "title", "page", "url", "section", "date"]
    assert found.fields(every) == [*known, "open", "tags", "topic", "year"]
    clash = Columns([corpus().chunks[0]._replace(metadata={"page": 3, "x": 1})])
    assert clash.fields(np.ones(1, dtype=bool)) == [*known, "metadata.page", "x"]
    by_key: Filter | None = parse_filter({"metadata.page": 3})
    assert by_key is not None
    assert clash.passing(by_key).all()


def test_numbers_and_filters_beyond_all_measure_are_refused() -> None:
    for number in (10**400, 10**6000):
        with pytest.raises(ConfigError, match=r"filter\.y\.min .* must be a finite number"):
            parse_filter({"y": {"min": number}})
    with pytest.raises(ConfigError, match="must be a mapping in YAML"):
        parse_filter("{not: " * 2000 + "x" + "}" * 2000)
    deep: Any = {"x": 1}
    for _ in range(2000):
        deep = {"not": deep}
    with pytest.raises(ConfigError, match="nest at most 32 filters"):
        parse_filter(deep)
    bomb = "{x: 1}"
    for i in range(28):
        bomb = f"{{any: [&a{i} {bomb}, *a{i}]}}"
    with pytest.raises(ConfigError, match="at most 1000 conditions"):
        parse_filter(bomb)
    with pytest.raises(ConfigError, match="at most 100000 values"):
        parse_filter({"x": list(range(100_001))})
    with refusing(), refusing_together():
        parse_filter(bomb, "rag.filter")
    assert parse_filter({"x": list(range(5000))}) is not None


def refusing() -> Any:
    """Expect that a filter is refused."""
    return pytest.raises(ConfigError, match=r"^rag\.filter")
