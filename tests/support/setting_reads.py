"""Which settings code reads, by type: `config.beta` reads DPOConfig.beta where `config` is one.

mypy says what class an attribute is taken from, through parameters, locals, `self.config`, nested
configs and what functions return; a plug-in writes each such read down. What has the type Any reads
nothing. Not a read: an assignment, and anything in `__post_init__`, which only checks.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from mypy import build
from mypy.modulefinder import BuildSource
from mypy.nodes import StrExpr
from mypy.options import Options
from mypy.plugin import AttributeContext, FunctionContext, Plugin
from mypy.types import Instance, Type, UnionType, get_proper_type
from places import ROOT

PACKAGES = ("plumbrule", "sft", "rlhf", "rag", "eval")
Place = tuple[str, int, int]
"""A file's path, a line and a column."""


class Accesses(Plugin):
    """Collects where attributes are taken: "module.Class.name" -> places."""

    def __init__(self, options: Options):
        super().__init__(options)
        self.places: defaultdict[str, set[Place]] = defaultdict(set)

    def get_attribute_hook(self, fullname: str) -> Callable[[AttributeContext], Type]:
        def note(context: AttributeContext) -> Type:
            self.places[fullname].add(_place(context))
            return context.default_attr_type

        return note

    def get_function_hook(self, fullname: str) -> Callable[[FunctionContext], Type] | None:
        """Note `getattr(config, "name")`; a name that is computed counts for no setting."""
        return self._note_getattr if fullname == "builtins.getattr" else None

    def _note_getattr(self, context: FunctionContext) -> Type:
        name = context.args[1][0]
        owner = get_proper_type(context.arg_types[0][0])
        for kind in owner.items if isinstance(owner, UnionType) else [owner]:
            if isinstance(name, StrExpr) and isinstance(kind, Instance):
                self.places[f"{kind.type.fullname}.{name.value}"].add(_place(context))
        return context.default_return_type


def _place(context: AttributeContext | FunctionContext) -> Place:
    return (context.api.path, context.context.line, context.context.column)  # type: ignore[attr-defined]


def reads_in(sources: Mapping[str, tuple[str, str]]) -> frozenset[str]:
    """Return every "module.Class.attribute" that the sources read.

    Args: sources: module -> (path, text).
    """
    options = Options()
    options.incremental = False
    options.cache_dir = "/dev/null"
    options.follow_imports = "skip"
    options.ignore_missing_imports = True
    options.check_untyped_defs = True
    accesses = Accesses(options)
    modules = [BuildSource(path, module, text) for module, (path, text) in sources.items()]
    build.build(modules, options, extra_plugins=[accesses])
    loads = {place for path, text in sources.values() for place in _loads(path, text)}
    return frozenset(name for name, places in accesses.places.items() if places & loads)


def _loads(path: str, text: str) -> set[Place]:
    """Return where a file takes the value of an attribute outside `__post_init__`."""
    nodes = list(ast.walk(ast.parse(text)))
    checks = {
        inner
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__"
        for inner in ast.walk(node)
    }
    return {
        (path, node.lineno, node.col_offset)
        for node in nodes
        if (
            (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
            or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr")
        )
        and node not in checks
    }


@functools.cache
def project_reads() -> frozenset[str]:
    """Return what the packages read; mypy takes some ten seconds for them."""
    sources = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            sources[module] = (str(path), path.read_text(encoding="utf-8"))
    return reads_in(sources)


def schemas_under(root: type) -> set[type]:
    """Return the config classes that a config is made of, itself included."""
    found: set[type] = set()
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if schema in found:
            continue
        found.add(schema)
        for hint in typing.get_type_hints(schema).values():
            kinds = (hint, *typing.get_args(hint))
            waiting += [k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)]
    return found


def unread(schemas: Iterable[type], reads: Collection[str]) -> set[str]:
    """Return the settings, as "Class.field", that no expression of that class reads."""
    return {
        f"{schema.__name__}.{field.name}"
        for schema in schemas
        for field in dataclasses.fields(schema)
        if f"{schema.__module__}.{schema.__qualname__}.{field.name}" not in reads
    }
