"""What files of tasks that a config names (`eval.lm_eval.include_path`) may hold: no code.

A task's file of lm-evaluation-harness can run Python in several ways, and each is closed:

- YAML tags (`!function`, `!!python/...`), whatever their spelling: a file is parsed with the loader
  that the library takes, and has the tags of YAML's own types alone.
- files that it includes: they are read by the same rule, and must lie in the folder.
- settings that load a script: `REFUSED`; and a metric that the library does
  not have itself, for which it would load a script of the library `evaluate`.
- templates: the library renders them in a jinja2 environment from which all of Python is reached.
  `sandboxed_templates` puts jinja2's sandbox in its place, where methods of plain values (texts,
  numbers, lists, mappings, dates) can be called, and no name that begins with `_` is reached.

A template may still take time and memory without bound.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import yaml
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from plumbrule.errors import ConfigError

FIELD = "eval.lm_eval.include_path"
REFUSED = ("trust_remote_code", "hf_evaluate", "unsafe_code", "use_prompt")
"""Settings at any depth by which a file names code: `use_prompt` reads a further file by another
loader.
"""
TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in (
        *("null", "bool", "int", "float", "binary", "timestamp", "merge", "value"),
        *("str", "seq", "map", "omap", "pairs", "set"),
    )
}
"""Of YAML's own types."""
PLAIN = (
    *(str, bytes, int, float, list, tuple, dict, set, range),
    *(datetime.date, datetime.time, datetime.timedelta),
    *(LoopContext, Cycler, Joiner, Namespace),
)
"""Types whose attributes a template may read."""
METRIC, INCLUDE = "metric", "include"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_task_files(folder: Path) -> set[str]:
    """Return the names of the metrics that a folder's task files have.

    Raises: ConfigError: it is no folder, or a file in it names code, is no YAML, or includes one
    that is not in the folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{FIELD} (={folder}) must be a folder of task files; check it.")
    metrics: set[str] = set()
    todo = sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")])
    seen: set[Path] = set()
    while todo:
        file = todo.pop().resolve()
        if file in seen or file.is_dir():
            continue
        seen.add(file)
        nodes = list(_nodes_of(folder, file))
        for node in nodes:
            if node.tag not in TAGS:
                raise _names_code(folder, file, f"the tag {node.tag}")
        for key, value in _settings_of(nodes):
            if key in REFUSED:
                raise _names_code(folder, file, key)
            for one in _texts_of(value):
                if key == METRIC:
                    metrics.add(one)
                elif key == INCLUDE:
                    todo.append(_included(folder, file, one))
    return metrics


def require_known_metrics(folder: Path, metrics: set[str], known: Container[str]) -> None:
    """Raise ConfigError for a metric of a folder's files that is not among the library's own."""
    for name in sorted(metrics):
        if name not in known:
            raise ConfigError(
                f"{FIELD} (={folder}) must name no code, and has the metric {name}, which "
                "lm-evaluation-harness does not have itself and would load as a script; take one "
                "of its own."
            )


@contextlib.contextmanager
def sandboxed_templates() -> Iterator[None]:
    """Have lm-evaluation-harness render templates in a sandbox, here.

    Raises: ConfigError: one reached for what a sandbox refuses.
    """
    from lm_eval import utils

    before = utils.env
    utils.env = sandbox_like(before)
    try:
        yield
    except SecurityError as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"A template of {FIELD} must name no code, and {told}; write it without that."
        ) from error
    finally:
        utils.env = before


def sandbox_like(environment: Any) -> SandboxedEnvironment:
    """Return a sandbox with the filters, and what it says of missing names, of an environment."""
    sandbox = PlainValueSandbox(
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    sandbox.filters.update(environment.filters)
    return sandbox


class PlainValueSandbox(SandboxedEnvironment):
    """jinja2's sandbox, in which no more than plain values have attributes: a document's image has
    a method that writes files.
    """

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may read an attribute."""
        return isinstance(obj, PLAIN) and super().is_safe_attribute(obj, attr, value)


def _nodes_of(folder: Path, file: Path) -> Iterator[yaml.Node]:
    """Yield each node of a file once. Raises: ConfigError: it can't be read as YAML."""
    try:
        # bytes, as the library has it: YAML tells UTF-16 by its first bytes
        root = yaml.compose(file.read_bytes(), Loader=_LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"{FIELD} (={folder}) must hold YAML that can be read, and {file.name} is not ({told});"
            " mend it, or take it out."
        ) from None
    todo, seen = [] if root is None else [root], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias is the node that it names, which may hold itself
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            todo += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _settings_of(nodes: list[yaml.Node]) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the keys of all mappings with their values."""
    for node in nodes:
        if isinstance(node, yaml.MappingNode):
            yield from (
                (str(key.value), value)
                for key, value in node.value
                if isinstance(key, yaml.ScalarNode)
            )


def _texts_of(node: yaml.Node) -> list[str]:
    """Return a text, or those of a list."""
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [str(part.value) for part in parts if isinstance(part, yaml.ScalarNode)]


def _included(folder: Path, file: Path, name: str) -> Path:
    """Return a file that another includes. Raises: ConfigError: it is not in the folder."""
    found = (file.parent / name).resolve()
    if not found.is_file() or not found.is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{FIELD} (={folder}) must hold what its files include, and {file.name} includes "
            f"{name}; put that file into the folder."
        )
    return found


def _names_code(folder: Path, file: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{FIELD} (={folder}) must name no code, and {file.name} holds {what}; write the task "
        "without it, or take one of lm-evaluation-harness."
    )
