"""Rows of JSON Lines, told apart by their columns: ours, chats, TRL's formats, other rankings.

The columns alone decide; nothing is guessed from values, so a file means the same on every machine.
TRL's *standard* rows hold text and its *conversational* ones lists of turns; a standard prompt
becomes the user's turn and a completion the assistant's, since every prompt here is a chat. White
space around foreign answers is dropped: the policy's own template puts it back. A row that has
columns of two shapes, or one that no shape knows, is refused with the list of what is accepted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from plumbrule.errors import DataError
from plumbrule.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    Record,
    from_dict,
    to_messages,
)
from plumbrule.roles import Chat, as_role

T = TypeVar("T")


class Shape(NamedTuple):
    """A set of columns with a meaning: those a row needs, those it may have, roles it can feed.

    numbered: the name of columns that are numbered from 0, as many as there are.
    """

    name: str
    needs: frozenset[str]
    may: frozenset[str]
    roles: frozenset[str]
    numbered: str = ""

    def fits(self, columns: set[str]) -> bool:
        """Return whether `columns` hold all that the shape needs and nothing that it may not."""
        if self.numbered:
            if f"{self.numbered}0" not in columns:
                return False
            columns = {c for c in columns if not re.fullmatch(self.numbered + "[0-9]+", c)}
        return self.needs <= columns <= self.needs | self.may

    def __str__(self) -> str:
        numbered = [f"{self.numbered}0", f"{self.numbered}1", "..."] if self.numbered else []
        needs = " + ".join([*sorted(self.needs), *numbered])
        return f"{needs} (optional: {', '.join(sorted(self.may))})"


def _shape(name: str, needs: str, may: str, roles: str, numbered: str = "") -> Shape:
    optional = frozenset({"id", "meta", *may.split()})
    return Shape(name, frozenset(needs.split()), optional, frozenset(roles.split()), numbered)


_RANKED = "corpus demonstrations prompts preferences"
_ULTRAFEEDBACK = "passages annotator confidence source models correct_answers incorrect_answers"


SHAPES = (
    _shape("text", "text", "title kind", "corpus documents"),
    _shape("segments", "segments", "kind", "corpus"),
    _shape("prompt", "prompt", "", "prompts"),
    _shape("chat", "messages", "passages", "corpus demonstrations prompts"),
    _shape("demonstration", "messages response", "passages", "corpus demonstrations prompts"),
    _shape("completion", "prompt completion", "passages", "corpus demonstrations prompts"),
    _shape(
        "ranking",
        "messages responses ranks",
        "passages scores margin annotator confidence",
        _RANKED,
    ),
    _shape(
        "pair",
        "chosen rejected",
        "prompt passages margin score_chosen score_rejected annotator confidence",
        _RANKED,
    ),
    _shape(
        "prompt ranking",
        "prompt responses ranking",
        "passages scores margin annotator confidence",
        _RANKED,
    ),
    _shape("best of", "query best", "passages annotator confidence", _RANKED, numbered="sample"),
    _shape("rated", "instruction completions", _ULTRAFEEDBACK, _RANKED),
    _shape("rated prompt", "prompt completions", _ULTRAFEEDBACK, _RANKED),
    _shape("benchmark", "task fields", "group", "questions reading halueval bold"),
)


BENCHMARK_TASKS = {
    "questions": "question",
    "reading": "reading",
    "halueval": "halueval_",
    "bold": "bold",
}
"""Role -> how the task of its items begins."""


def shape_of(row: Mapping[str, Any], role: str) -> Shape:
    """Return the one shape that the columns of `row` have.

    Raises: DataError: no shape has these columns, or the one that has cannot feed `role`.
    """
    columns = set(row)
    for shape in SHAPES:
        if shape.fits(columns) and role in shape.roles:
            return shape
    accepted = "; ".join(str(shape) for shape in SHAPES if role in shape.roles)
    raise DataError(
        f"columns ({', '.join(sorted(columns))}) must be one of the sets that role {role} "
        f"accepts: {accepted}."
    )


def parse_row(row: Mapping[str, Any], shape: Shape, id: str, role: str) -> Record | dict[str, Any]:
    """Return the record that `row`, which has the columns of `shape`, gives to `role`.

    A row without an id of its own gets `id`.
    Raises: DataError: a value of the wrong type, or one that breaks the record's rules.
    """
    values = {"id": id, **row}
    values["id"] = str(values["id"])
    kind = {"kind": values["kind"]} if "kind" in values else {}
    match shape.name:
        case "text" if role == "documents":
            return from_dict(Document, values)
        case "text":
            return {"text": _text(values, "text"), **kind}
        case "segments":
            return {"segments": _segments(values["segments"]), **kind}
        case "benchmark":
            return _benchmark(values, role)
        case _:
            return as_role(_CHATS[shape.name](values), role)


def _text(row: Mapping[str, Any], name: str) -> str:
    _stripped(row[name], name)
    return row[name]


def _segments(segments: Any) -> list[Any]:
    fits = isinstance(segments, list) and all(
        isinstance(segment, list)
        and [type(part) for part in segment] in ([str, int], [str, float])
        and segment[1] >= 0
        for segment in segments
    )
    if not fits or not any(text.strip() for text, _ in segments):
        raise DataError(
            f"segments (={segments!r:.80}) must be a list of [text, loss weight of at least 0]."
        )
    return segments


def _benchmark(row: Mapping[str, Any], role: str) -> BenchmarkItem:
    item = from_dict(BenchmarkItem, row)
    prefix = BENCHMARK_TASKS[role]
    if not item.task.startswith(prefix):
        raise DataError(f"task (={item.task}) must begin with {prefix} for role {role}.")
    return item


def _turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    """Return the turns under `name`: a list of them, or a text that is taken for the user's."""
    if isinstance(row[name], str):
        return (Message("user", _text(row, name).strip()),)
    return to_messages(row[name])


def _answer(turns: tuple[Message, ...]) -> str:
    if [m.role for m in turns] != ["assistant"]:
        roles = ", ".join(m.role for m in turns) or "none"
        raise DataError(f"an answer (turns: {roles}) must be one assistant turn after the prompt.")
    if not turns[0].content.strip():
        raise DataError("an answer must hold text; remove the row.")
    return turns[0].content.strip()


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(row["id"], _turns(row, "prompt"), _meta(row))


def _chat(row: Mapping[str, Any]) -> Prompt | Demonstration:
    """Return a demonstration of the last turn where that is the assistant's, else a prompt."""
    turns = to_messages(row["messages"])
    if turns and turns[-1].role == "assistant":
        answer = _answer(turns[-1:])
        return Demonstration(row["id"], turns[:-1], answer, _passages(row), _meta(row))
    return Prompt(row["id"], turns, _meta(row))


def _completion(row: Mapping[str, Any]) -> Demonstration:
    prompt, completion = _turns(row, "prompt"), _completion_turns(row, "completion")
    return Demonstration(row["id"], prompt, _answer(completion), _passages(row), _meta(row))


def _pair(row: Mapping[str, Any]) -> Preference:
    """Return the preference of a pair; without a prompt it is what both sides begin with."""
    _same_kind(row, [name for name in ("prompt", "chosen", "rejected") if name in row])
    if "prompt" in row:
        prompt = _turns(row, "prompt")
        sides = [_completion_turns(row, "chosen"), _completion_turns(row, "rejected")]
    else:
        prompt, *sides = _split_pair(row["chosen"], row["rejected"])
    scores = None
    if "score_chosen" in row and "score_rejected" in row:
        scores = (row["score_chosen"], row["score_rejected"])
    return _preference(row, prompt, [_answer(side) for side in sides], [1, 2], scores)


def _preference(
    row: Mapping[str, Any],
    prompt: tuple[Message, ...],
    responses: Sequence[str],
    ranks: Any,
    scores: Any = None,
) -> Preference:
    """Return the preference of what was read; columns that are named as ours come from `row`."""
    values = {
        "messages": [{"role": m.role, "content": m.content} for m in prompt],
        "responses": list(responses),
        "ranks": ranks,
        "scores": scores,
    }
    same = ("id", "passages", "margin", "annotator", "confidence", "meta")
    kept = {name: row[name] for name in same if name in row}
    return from_dict(Preference, {n: v for n, v in {**kept, **values}.items() if v is not None})


def _prompt_ranking(row: Mapping[str, Any]) -> Preference:
    """Return the preference of a prompt, its answers and the rank of each."""
    responses, ranking = row["responses"], row["ranking"]
    if not isinstance(responses, list) or not all(isinstance(r, str) for r in responses):
        raise DataError(f"responses (={responses!r:.80}) must be a list of texts.")
    if not isinstance(ranking, list) or not all(type(rank) is int for rank in ranking):
        raise DataError(
            f"ranking (={ranking!r:.80}) must be a list of whole numbers: the rank of each "
            "response in its place, 1 = best."
        )
    answers = [_stripped(response, "a response") for response in responses]
    return _preference(row, _turns(row, "prompt"), answers, ranking, row.get("scores"))


def _best_of(row: Mapping[str, Any]) -> Preference:
    """Return the preference of a best-of-K label: the best is first, all others tie."""
    names = [f"sample{k}" for k in range(sum(c.startswith("sample") for c in row))]
    if missing := [name for name in names if name not in row]:
        raise DataError(f"samples must be numbered from 0 without a hole; {missing[0]} is missing.")
    best = row["best"]
    if type(best) is not int or not 0 <= best < len(names):
        raise DataError(
            f"best (={best!r:.80}) must be the number of a sample, 0 to {len(names) - 1}."
        )
    responses = [_stripped(row[name], name) for name in names]
    ranks = [1 if k == best else 2 for k in range(len(names))]
    return _preference(row, _turns(row, "query"), responses, ranks)


def _rated(row: Mapping[str, Any]) -> Preference:
    """Return the preference of rated completions: the higher the rating, the better.

    The rating is `overall_score`; where no completion of the row has one, `fine-grained_score`.
    What else a completion holds is not read.
    """
    completions = row["completions"]
    if not isinstance(completions, list) or not all(isinstance(c, Mapping) for c in completions):
        raise DataError(f"completions (={completions!r:.80}) must be a list of JSON objects.")
    responses = [_stripped(c.get("response"), "response") for c in completions]
    overall = any(c.get("overall_score") is not None for c in completions)
    name = "overall_score" if overall else "fine-grained_score"
    scores = [c.get(name) for c in completions]
    for place, score in enumerate(scores):
        if type(score) not in (int, float) or not math.isfinite(score):
            raise DataError(
                f"{name} (={score!r:.80}) of completion {place} must be a finite number; rate it "
                "or take the completion out."
            )
    order = sorted(set(scores), reverse=True)
    ranks = [order.index(score) + 1 for score in scores]
    prompt = _turns(row, "instruction" if "instruction" in row else "prompt")
    return _preference(row, prompt, responses, ranks, scores)


def _stripped(text: Any, name: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{name} (={text!r:.80}) must be text; remove the row or fill it.")
    return text.strip()


def _same_kind(row: Mapping[str, Any], names: list[str]) -> None:
    kinds = {type(row[name]) for name in names}
    if len(kinds) > 1 or not kinds <= {str, list}:
        shown = ", ".join(f"{name}: {type(row[name]).__name__}" for name in names)
        raise DataError(f"columns ({shown}) must be all texts or all lists of turns.")


def _completion_turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    if isinstance(row[name], str):
        return (Message("assistant", _text(row, name).strip()),)
    return to_messages(row[name])


def _split_pair(chosen: Any, rejected: Any) -> tuple[tuple[Message, ...], ...]:
    """Return the prompt that two whole dialogues or texts share, and what follows it in each.

    Of texts the prompt is the longest common beginning, moved back to the end of a word.
    """
    if isinstance(chosen, str):
        if chosen.lstrip().startswith("Human:"):
            raise DataError("the row holds a Human/Assistant dialogue; use dataset.format=hh_rlhf.")
        prompt = "".join(_shared(_words(chosen), _words(rejected)))
        if not prompt.strip():
            raise DataError("chosen and rejected must begin alike; give the prompt in its column.")
        sides = (chosen[len(prompt) :].strip(), rejected[len(prompt) :].strip())
        return (Message("user", prompt.strip()),), *((Message("assistant", s),) for s in sides)
    one, other = to_messages(chosen), to_messages(rejected)
    shared = tuple(_shared(one, other))
    if len(shared) == min(len(one), len(other)):
        raise DataError("chosen and rejected must differ in their last turn; drop the row.")
    return shared, one[len(shared) :], other[len(shared) :]


def _shared(one: Sequence[T], other: Sequence[T]) -> list[T]:
    """Return the longest common beginning."""
    pairs = zip(one, other, strict=False)
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _words(text: str) -> list[str]:
    """Return the words of a text, each with the white space before it; joined they are the text."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def _passages(row: Mapping[str, Any]) -> tuple[str, ...]:
    passages = row.get("passages", ())
    if not isinstance(passages, list | tuple) or not all(isinstance(p, str) for p in passages):
        raise DataError(f"passages (={passages!r:.80}) must be a list of texts.")
    return tuple(passages)


def _meta(row: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = row.get("meta", {})
    if not isinstance(meta, Mapping):
        raise DataError(f"meta (={meta!r:.80}) must be a JSON object.")
    return meta


_CHATS: dict[str, Callable[[Mapping[str, Any]], Chat]] = {
    "prompt": _prompt,
    "chat": _chat,
    "demonstration": lambda row: from_dict(Demonstration, row),
    "completion": _completion,
    "ranking": lambda row: from_dict(Preference, row),
    "pair": _pair,
    "prompt ranking": _prompt_ranking,
    "best of": _best_of,
    "rated": _rated,
    "rated prompt": _rated,
}
