"""The second of two steps from a row of somebody's table to a record: its values are parsed.

The first, which schema the row has, looks at the names of its columns alone (`row_schemas.py`).
Here each schema has a function that makes a record of the values; `parse_row` chooses among them.

TRL's *standard* rows hold text and its *conversational* ones lists of turns; a standard prompt
becomes the user's turn and a completion the assistant's, since every prompt here is a chat. White
space around foreign answers is dropped: the policy's own template puts it back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, TypeVar

from plumbrule.data.records import (
    BenchmarkItem,
    Demonstration,
    Document,
    Message,
    Preference,
    Prompt,
    Record,
    from_dict,
)
from plumbrule.data.roles import Chat, to_role
from plumbrule.data.row_schemas import RowSchema
from plumbrule.data.turns import read_sharegpt, read_turns
from plumbrule.errors import DataError

T = TypeVar("T")


def parse_row(
    row: Mapping[str, Any], shape: RowSchema, id: str, role: str
) -> Record | dict[str, Any]:
    """Return the record that `row`, which has the columns of `shape`, gives to `role`.

    A row without an id of its own gets `id`.
    Raises: DataError: a value of the wrong type, or one that breaks the record's rules.
    """
    values = {"id": id, **row}
    if type(values["id"]) not in (str, int):
        raise DataError(f"id (={values['id']!r:.80}) must be text or a whole number.")
    values["id"] = str(values["id"])
    kind = {"kind": _stripped(values["kind"], "kind")} if "kind" in values else {}
    match shape.name:
        case "text" if role == "documents":
            return from_dict(Document, values)
        case "text":
            return {"text": _text(values, "text"), **kind}
        case "segments":
            return {"segments": _segments(values["segments"]), **kind}
        case "benchmark":
            return from_dict(BenchmarkItem, values)
        case _:
            return to_role(_CHATS[shape.name](values), role)


def _text(row: Mapping[str, Any], name: str) -> str:
    _stripped(row[name], name)
    return row[name]


def _segments(segments: Any) -> list[Any]:
    fits = isinstance(segments, list) and all(
        isinstance(segment, list)
        and [type(part) for part in segment] in ([str, int], [str, float])
        and 0 <= segment[1] <= 1e6
        for segment in segments
    )
    if not fits or not any(text.strip() for text, _ in segments):
        raise DataError(
            f"segments (={segments!r:.80}) must be a list of [text, loss weight of at least 0]."
        )
    return segments


def _turns(row: Mapping[str, Any], name: str) -> tuple[Message, ...]:
    """Return the turns under `name`: a list of them, or a text that is taken for the user's."""
    if isinstance(row[name], str):
        return (Message("user", _text(row, name).strip()),)
    return read_turns(row[name], name)


def _answer(turns: tuple[Message, ...]) -> str:
    if [m.role for m in turns] != ["assistant"]:
        roles = ", ".join(m.role for m in turns) or "none"
        raise DataError(f"an answer (turns: {roles}) must be one assistant turn after the prompt.")
    if not turns[0].content.strip():
        raise DataError("an answer must hold text; remove the row.")
    return turns[0].content.strip()


def _plain_turns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ours with its turns read as those of a foreign file are."""
    turns = read_turns(row["messages"], "messages")
    return {**row, "messages": [{"role": m.role, "content": m.content} for m in turns]}


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(row["id"], _turns(row, "prompt"), _meta(row))


def _chat(row: Mapping[str, Any]) -> Prompt | Demonstration:
    """Return a demonstration of the last turn where that is the assistant's, else a prompt."""
    return _of_turns(row, read_turns(row["messages"], "messages"))


def _of_turns(row: Mapping[str, Any], turns: tuple[Message, ...]) -> Prompt | Demonstration:
    if turns and turns[-1].role == "assistant":
        answer = _answer(turns[-1:])
        return Demonstration(row["id"], turns[:-1], answer, _passages(row), _meta(row))
    if row.get("passages"):
        raise DataError(
            "passages must stand beside an answer; this row ends with the user's turn. Take the "
            "column out, or give the answer."
        )
    return Prompt(row["id"], turns, _meta(row))


def _alpaca(row: Mapping[str, Any]) -> Demonstration:
    """Return the demonstration of an instruction, its input and its output."""
    asked, more = _stripped(row["instruction"], "instruction"), row.get("input", "")
    if not isinstance(more, str):
        raise DataError(f"input (={more!r:.80}) must be text.")
    prompt = (Message("user", f"{asked}\n\n{more.strip()}".strip()),)
    answer = _stripped(row["output"], "output")
    return Demonstration(row["id"], prompt, answer, _passages(row), _meta(row))


def _completion(row: Mapping[str, Any]) -> Demonstration:
    prompt, completion = _turns(row, "prompt"), _completion_turns(row, "completion")
    return Demonstration(row["id"], prompt, _answer(completion), _passages(row), _meta(row))


def _pair(row: Mapping[str, Any]) -> Preference:
    """Return the preference of a pair; without a prompt it is what both sides begin with.

    A prompt as text beside two dialogues (H4) must be a turn that both of them begin with.
    """
    h4 = isinstance(row.get("prompt"), str) and isinstance(row["chosen"], list)
    _same_kind(row, [n for n in ("prompt", "chosen", "rejected") if n in row and (n, h4) != _H4])
    if h4:
        prompt, *sides = _split_pair(row["chosen"], row["rejected"])
        if row["prompt"].strip() not in [m.content.strip() for m in prompt]:
            raise DataError(
                "columns prompt, chosen and rejected must be all texts or all lists of turns, or "
                "the dialogues chosen and rejected must begin alike with a turn that is the prompt."
            )
        if "messages" in row and row["messages"] != row["chosen"]:
            raise DataError("messages must equal chosen; take the column out.")
    elif "prompt" in row:
        prompt = _turns(row, "prompt")
        sides = [_completion_turns(row, "chosen"), _completion_turns(row, "rejected")]
    else:
        prompt, *sides = _split_pair(row["chosen"], row["rejected"])
    scores = tuple(row[name] for name in ("score_chosen", "score_rejected") if name in row) or None
    if scores is not None and len(scores) == 1:
        raise DataError("score_chosen and score_rejected must stand together; take the one out.")
    return _preference(row, prompt, [_answer(side) for side in sides], [1, 2], scores)


_H4 = ("prompt", True)


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
            "response in its place, 1 = best (1 and not 1.0)."
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
    return read_turns(row[name], name)


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
    one, other = read_turns(chosen, "chosen"), read_turns(rejected, "rejected")
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
    "H4 chat": _chat,
    "ShareGPT": lambda row: _of_turns(row, read_sharegpt(row["conversations"])),
    "alpaca": _alpaca,
    "demonstration": lambda row: from_dict(Demonstration, _plain_turns(row)),
    "completion": _completion,
    "ranking": lambda row: from_dict(Preference, _plain_turns(row)),
    "pair": _pair,
    "H4 pair": _pair,
    "prompt ranking": _prompt_ranking,
    "best of": _best_of,
    "rated instruction": _rated,
    "rated prompt": _rated,
}
