"""What comes from outside: JSON values of every kind, rows that are nearly right, damaged bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TEXTS = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Zs", "Lu"]), max_size=4),
    st.sampled_from(
        ["", " ", "a", "b", "user", "assistant", "system", "<|user|>", "\0", "²", "TRUE", "nan"]
    ),
)
NUMBERS = st.one_of(
    st.integers(-2, 4),
    st.integers(),
    st.floats(),
    st.sampled_from([10**18, 10**310, -(10**40), 1e308, 5e-324, True, False]),
)
NASTY = st.sampled_from(
    [float("nan"), float("inf"), "half \ud83d", 10**400, True, None, [], {}, [[[[1]]]], "a\0\n"]
)
"""What once got through."""
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "tool"]),
            "content": TEXTS | TEXTS | VALUES,
        },
        optional={"weight": NUMBERS, "tool_calls": VALUES, "name": TEXTS},
    )
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": TEXTS})
    | VALUES,
    max_size=4,
)
COLUMNS = (
    *("id", "meta", "text", "title", "kind", "segments", "prompt", "messages", "response"),
    *("completion", "responses", "ranks", "ranking", "scores", "margin", "confidence"),
    *("annotator", "passages", "chosen", "rejected", "score_chosen", "score_rejected"),
    *("prompt_id", "query", "best", "sample0", "sample1", "instruction", "input", "output"),
    *("completions", "conversations", "task", "fields", "group", "source"),
)
ANY_CELL = VALUES | TURNS | st.lists(TEXTS, max_size=3) | st.lists(NUMBERS, max_size=3)
MEANT: dict[str, st.SearchStrategy[Any]] = {
    "messages": TURNS,
    "conversations": TURNS,
    "responses": st.lists(TEXTS, max_size=4),
    "passages": st.lists(TEXTS, max_size=2),
    "ranks": st.lists(st.integers(0, 3), max_size=4),
    "ranking": st.lists(st.integers(0, 3), max_size=4),
    "scores": st.lists(NUMBERS, max_size=4),
    "margin": NUMBERS,
    "confidence": NUMBERS,
    "best": st.integers(-1, 3),
    "meta": st.dictionaries(
        st.sampled_from(["finished", "utilities", "terms", "flipped", "group", "domain", "entity"]),
        ANY_CELL,
        max_size=3,
    ),
    "task": st.sampled_from(["question", "reading", "halueval_qa", "bold"]),
    "fields": st.dictionaries(TEXTS, ANY_CELL, max_size=3),
    "segments": st.lists(st.tuples(TEXTS, NUMBERS).map(list), max_size=3),
    "completions": st.lists(
        st.fixed_dictionaries(
            {"response": TEXTS},
            optional={"overall_score": NUMBERS, "fine-grained_score": VALUES, "critique": VALUES},
        ),
        max_size=3,
    ),
}


def cell(name: str) -> st.SearchStrategy[Any]:
    """Return values for a column: mostly of its type, sometimes of any."""
    meant = MEANT.get(name, TEXTS | TURNS)
    return st.one_of(meant, meant, meant, ANY_CELL)


def rows(needs: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows that have the columns `needs`, and perhaps others."""
    more = {"id", "meta", "annotator", "margin", "passages"} - set(needs)
    return st.fixed_dictionaries(
        {name: cell(name) for name in needs},
        optional={name: cell(name) for name in sorted(more)},
    )


ANY_ROW = st.dictionaries(st.sampled_from(COLUMNS), ANY_CELL, max_size=5)


_ASK, _TELL = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
_NO = {"role": "assistant", "content": "No"}
GOOD: dict[str, dict[str, Any]] = {
    "text": {"text": "A text.", "title": "T"},
    "segments": {"segments": [["read ", 0.0], ["learned", 1]], "kind": "k"},
    "prompt": {"prompt": [_ASK], "meta": {"entity": "e"}},
    "chat": {"messages": [_ASK, _TELL, _ASK, _TELL], "passages": ["p"]},
    "demonstration": {"messages": [_ASK], "response": "Yes", "id": "1"},
    "completion": {"prompt": "Hi", "completion": " Yes"},
    "ranking": {
        "messages": [_ASK],
        "responses": ["a", "b"],
        "ranks": [1, 2],
        "scores": [0.5, -1],
        "margin": 1.5,
        "annotator": "x",
        "confidence": 0.5,
        "meta": {"finished": [True, False], "utilities": [1.0, 2.0], "terms": {"t": [1, 2]}},
    },
    "pair": {"prompt": "Hi", "chosen": "a", "rejected": "b", "margin": 1, "id": 3},
    "H4 pair": {
        "prompt": "Hi",
        "prompt_id": "1",
        "messages": [_ASK, _TELL],
        "chosen": [_ASK, _TELL],
        "rejected": [_ASK, _NO],
        "score_chosen": 2.0,
        "score_rejected": 1.0,
    },
    "H4 chat": {"prompt": "Hi", "prompt_id": "1", "messages": [_ASK, _TELL]},
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]
    },
    "alpaca": {"instruction": "Say", "input": "this", "output": "This"},
    "prompt ranking": {"prompt": "Hi", "responses": ["a", "b"], "ranking": [2, 1]},
    "best of": {"query": "Hi", "sample0": "a", "sample1": "b", "best": 1},
    "rated instruction": {
        "instruction": "Hi",
        "completions": [{"response": c, "overall_score": k} for k, c in enumerate("ab")],
    },
    "rated prompt": {
        "prompt": "Hi",
        "completions": [{"response": c, "fine-grained_score": k} for k, c in enumerate("ab")],
    },
    "benchmark": {
        "task": "question",
        "fields": {"question": "Who?"},
        "group": "g",
        "meta": {"answer": "a", "domain": "d"},
    },
}
"""Shape -> a row of it."""


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """Return a JSON value with one place in it, at any depth, replaced, removed or given twice."""
    if not isinstance(whole, dict | list) or not whole or draw(st.integers(0, 4)) == 0:
        return draw(NASTY | VALUES)
    copy: Any = whole.copy()
    place = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    match draw(st.integers(0, 7)):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, list):
            copy.append(copy[place])
        case _:
            copy[place] = draw(changed(copy[place]))
    return copy


def as_lines(table: list[Any]) -> bytes:
    """Return JSON Lines with all that Python writes: NaN, lone surrogates, long numbers."""
    return "".join(json.dumps(row) + "\n" for row in table).encode()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return `whole` with bytes flipped, cut out, put in or cut off."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "put", "end"])):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "put":
                pieces = [
                    b"[" * 5000,
                    b"9" * 5000,
                    b"NaN",
                    b'"\\ud800"',
                    b"\0",
                    b"\xff",
                    b"\n",
                    b"{}",
                ]
                content[at:at] = draw(st.binary(max_size=6) | st.sampled_from(pieces))
            case _:
                del content[at:]
    return bytes(content)


def require_short(error: Exception) -> None:
    """Fail unless an error is one line that a terminal can show."""
    assert str(error).isprintable()
    assert len(str(error)) < 3000
