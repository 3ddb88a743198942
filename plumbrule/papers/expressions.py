"""The language in which a paper's claims are written: arithmetic over metrics, compared.

    eval:eval/accuracy_ppo_rag > eval_sft:eval/accuracy_sft_rag
    rm/accuracy[rm.num_rankings=100] < rm/accuracy[rm.num_rankings=400]
    trend(rm/accuracy[rm.num_rankings=*]) > 0
    abs(last(curve(ppo:objective/kl)) - 2) < 0.5 and ppo/gold_gain > 0

A metric is written as `gather` prints it, with its node before a colon where several have it.
Behind it stands, in brackets, which runs of the sweep are meant, by what was swept; `*` for one key
is the values of all of them, in the sweep's order. `curve(node:metric)` is a node's metric over its
updates. Further names are the paper's `definitions`. A division has spaces around it: a/b is a
metric.

The text is read by Python's parser into a tree, of which only numbers, names, + - * /, comparisons,
`and` and calls of `FUNCTIONS` are let through, and the tree is computed here. Nothing is evaluated
by Python, so a claim can't do more than the functions that are listed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from plumbrule.errors import ConfigError, listed
from plumbrule.papers.claim_functions import FUNCTIONS
from plumbrule.results.nearest_names import nearest

Value = float | np.ndarray
"""A number, or a curve: one number per update, or per swept value."""
MOST_CHARACTERS = 2000
"""Length of the longest expression."""
EVERY = "*"
"""Value of a selection that stands for all values of its key."""
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=="}
_OPERATIONS: dict[type, Callable[[Value, Value], Value]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
}
_REFERENCE = re.compile(
    r"(?<![\w.])(?:(?P<node>[A-Za-z_]\w*(?:@[\w.,=+-]+)?):)?"
    r"(?P<metric>[A-Za-z_]\w*(?:/\w+(?:\.\w+|=(?!=)[\w.]+)*)+)"
    r"(?:\[(?P<where>[^\[\]]*)\])?"
)
_PLACE = re.compile(r"_r(\d+)")
CURVE = "curve"


class MetricReference(NamedTuple):
    """A metric that an expression names. node: "" where it names none. where: (key, value) of the
    runs that are meant. is_curve: whether its values over updates are.
    """

    text: str
    node: str
    metric: str
    where: tuple[tuple[str, str], ...]
    is_curve: bool = False


class Comparison(NamedTuple):
    """One comparison of a claim: left op right. text: as it was written."""

    left: ast.expr
    op: str
    right: ast.expr
    text: str


class ClaimExpression(NamedTuple):
    """A claim that was read. comparisons: all of which must hold. references: in their order."""

    text: str
    comparisons: tuple[Comparison, ...]
    references: tuple[MetricReference, ...]


def parse(
    text: str, definitions: Mapping[str, str] | None = None, field: str = "expression"
) -> ClaimExpression:
    """Return a claim's expression.

    Args: definitions: name -> an expression without comparisons, for which the name stands. field:
    what errors call it.
    Raises: ConfigError: it can't be read, holds what is not let through, compares nothing, or names
    no metric.
    """
    reader = _Reader(text, definitions or {}, field)
    try:
        tree = reader.tree(text)
        is_all = isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And)
        parts = tree.values if isinstance(tree, ast.BoolOp) and is_all else [tree]
        comparisons = tuple(one for part in parts for one in reader.comparisons(part))
    except RecursionError:
        raise reader.error("be nested less deeply", "use definitions") from None
    found = reader.references
    if not found:
        raise reader.error("name a metric", "write one as in ppo/gold_gain > 0")
    return ClaimExpression(text, comparisons, tuple(found))


class _Reader:
    """Reads one expression; what it refers to is collected in `references`."""

    def __init__(self, text: str, definitions: Mapping[str, str], field: str):
        self.text, self.definitions, self.field = text, definitions, field
        self.references: list[MetricReference] = []
        self.trees: dict[str, ast.expr] = {}
        self.opening: list[str] = []

    def error(self, rule: str, fix: str) -> ConfigError:
        """Return the error that says what is wrong with the expression."""
        return ConfigError(f"{self.field} (={self.text:.200}) must {rule}; {fix}.")

    def tree(self, text: str) -> ast.expr:
        """Return the tree of a text, in which each metric is a name `_r<number>`."""
        if len(text) > MOST_CHARACTERS:
            raise self.error(f"have at most {MOST_CHARACTERS} characters", "use definitions")
        if _PLACE.search(text):
            raise self.error("hold no name like _r0", "rename it")
        placed = _REFERENCE.sub(self._place, text)
        try:
            tree = ast.parse(" ".join(placed.split()), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self.error(
                "be readable", "write numbers, metrics, + - * /, comparisons, and, and functions"
            ) from None
        self._mark_curves(tree)
        return tree

    def _place(self, match: re.Match[str]) -> str:
        where = []
        for pair in filter(None, (part.strip() for part in (match["where"] or "").split(","))):
            key, equals, value = pair.partition("=")
            if not (equals and key.strip() and value.strip()):
                raise self.error("select runs by key=value", f"correct [{match['where']}]")
            where.append((key.strip(), value.strip()))
        if sum(value == EVERY for _, value in where) > 1:
            raise self.error(
                "take all values of one key alone", f"give others in {match[0]} a value"
            )
        self.references.append(
            MetricReference(match[0], match["node"] or "", match["metric"], tuple(where))
        )
        return f"_r{len(self.references) - 1}"

    def _mark_curves(self, tree: ast.expr) -> None:
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id != CURVE:
                continue
            place = _placed(node.args[0]) if len(node.args) == 1 else None
            if place is None or node.keywords:
                raise self.error("give curve one metric", "write curve(ppo:objective/kl)")
            found = self.references[place]
            if not found.node or any(value == EVERY for _, value in found.where):
                raise self.error(
                    "name the node of a curve, and one group of runs", f"correct {found.text}"
                )
            self.references[place] = found._replace(is_curve=True)

    def comparisons(self, tree: ast.expr) -> Iterator[Comparison]:
        """Yield the comparisons of a part of a claim; a chain is several."""
        if not isinstance(tree, ast.Compare):
            raise self.error("compare", "end it as in > 0")
        written = [tree.left, *tree.comparators]
        sides = [self.checked(side) for side in written]
        for place, (left, op, right) in enumerate(zip(sides, tree.ops, sides[1:], strict=False)):
            sign = COMPARISONS.get(type(op))
            if sign is None:
                raise self.error(
                    f"compare by one of {' '.join(COMPARISONS.values())}", "change the comparison"
                )
            words = f"{self.shown(written[place])} {sign} {self.shown(written[place + 1])}"
            yield Comparison(left, sign, right, words)

    def checked(self, tree: ast.expr) -> ast.expr:
        """Return a side of a comparison with definitions filled in.

        Raises: ConfigError: it holds what is not let through.
        """
        if isinstance(tree, ast.Constant):
            number = tree.value
            if type(number) not in (int, float) or not math.isfinite(float(str(number))):
                raise self.error("hold finite numbers alone", f"take out {tree.value!r:.40}")
            return tree
        if isinstance(tree, ast.Name):
            return tree if _placed(tree) is not None else self._defined(tree.id)
        if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
            return ast.UnaryOp(tree.op, self.checked(tree.operand))
        if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATIONS:
            return ast.BinOp(self.checked(tree.left), tree.op, self.checked(tree.right))
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.keywords:
            return self._called(tree, tree.func.id)
        raise self.error(
            "hold numbers, metrics, + - * /, comparisons, and, and functions alone",
            f"take out {self.shown(tree):.60}",
        )

    def _called(self, tree: ast.Call, name: str) -> ast.expr:
        if name == CURVE:
            return tree.args[0]
        if name not in FUNCTIONS:
            raise self.error(
                f"call functions that there are, not {name}",
                nearest(name, [CURVE, *FUNCTIONS])[:-1],
            )
        fewest, most = FUNCTIONS[name].arguments
        if not fewest <= len(tree.args) <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} or more"
            raise self.error(f"give {name} {wanted} arguments, not {len(tree.args)}", "correct it")
        return ast.Call(tree.func, [self.checked(one) for one in tree.args], [])

    def _defined(self, name: str) -> ast.expr:
        if name not in self.definitions:
            known = listed(self.definitions) or "none"
            raise self.error(
                f"use names that are defined, not {name}",
                f"definitions: {known}; a metric holds a /, as ppo/gold_gain",
            )
        if name in self.opening:
            raise self.error(f"have no definition that leads to itself, as {name}", "correct it")
        if name not in self.trees:
            self.opening.append(name)
            self.trees[name] = self.checked(self.tree(str(self.definitions[name])))
            self.opening.pop()
        return self.trees[name]

    def shown(self, tree: ast.expr) -> str:
        """Return a side of a comparison as text, with its metrics."""
        text = ast.unparse(ast.fix_missing_locations(tree))
        return _PLACE.sub(lambda match: self.references[int(match[1])].text, text)


def _placed(tree: ast.expr) -> int | None:
    """Return the number of the reference that a name stands for."""
    match = _PLACE.fullmatch(tree.id) if isinstance(tree, ast.Name) else None
    return None if match is None else int(match[1])


def holds_references(tree: ast.expr) -> bool:
    """Return whether a side of a comparison names a metric; else it is a constant."""
    return any(_placed(node) is not None for node in ast.walk(tree) if isinstance(node, ast.Name))


def evaluate(tree: ast.expr, values: Mapping[int, Value]) -> Value:
    """Return a side of a comparison, given the value of each reference by its number.

    What can't be computed is NaN: a root of a negative number, a division by 0.
    Raises: ValueError: curves of different lengths are put together.
    """
    with np.errstate(all="ignore"):
        return _evaluate(tree, values)


def _evaluate(tree: ast.expr, values: Mapping[int, Value]) -> Value:
    if isinstance(tree, ast.Constant):
        return np.float64(tree.value)  # type: ignore[arg-type]
    if isinstance(tree, ast.Name):
        place = _placed(tree)
        assert place is not None  # `checked` has filled in all others
        return np.float64(values[place]) if np.ndim(values[place]) == 0 else values[place]
    if isinstance(tree, ast.UnaryOp):
        return np.negative(_evaluate(tree.operand, values))
    if isinstance(tree, ast.BinOp):
        left, right = _evaluate(tree.left, values), _evaluate(tree.right, values)
        return _OPERATIONS[type(tree.op)](left, right)
    assert isinstance(tree, ast.Call)
    assert isinstance(tree.func, ast.Name)
    return FUNCTIONS[tree.func.id].compute(*(_evaluate(one, values) for one in tree.args))
