"""What `plumbrule --help` prints, and what `plumbrule doc <setting>` says of a setting.

Everything is read from where it is written: verbs from their table, groups and their choices from
the files of conf/ and the schemas, settings and their defaults from the dataclasses and the text
under each field.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib.metadata
import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from omegaconf import OmegaConf

from plumbrule.errors import ConfigError
from plumbrule.pipeline.experiment import DEFAULT_IS_SCHEMA

COMMANDS = (
    ("plumbrule", "the quickstart: the whole chain on a generated world"),
    ("plumbrule run.dry=true", "what would be built, why, and for how long"),
    ("plumbrule ppo.kl.coef=0.1 seed=1", "settings are overrides; only what reads them is built"),
    (
        "plumbrule experiment=own dataset.path=<file> model=<folder>",
        "your data and model (docs/bring_data.md)",
    ),
    ("plumbrule --plugin rewards.py 'reward.terms=[{name: mine}]'", "your reward"),
    ("plumbrule -m ppo.kl.coef=0.02,0.1", "a sweep; shared stages are built once"),
    ("plumbrule debug=fast", "every stage in seconds, to see that a graph runs"),
    ("plumbrule --config-dir mine experiment=mine", "experiments in a folder of your own"),
)
"""Command -> what it does."""
MOST_USED = (
    "seed",
    "run.goals",
    "run.seeds",
    "run.store",
    "dataset.path",
    "feedback.labeller",
    "rm.ensemble",
    "ppo.total_episodes",
    "ppo.learning_rate",
    "ppo.kl.coef",
)
"""Settings that the page names; what they are and their defaults are read from the config."""
DEFAULT_EXPERIMENT = "quickstart"
"""Of conf/experiment/: what `plumbrule` alone runs; the page gives its values beside defaults."""


def page(verbs: Mapping[str, str], conf: Path, schema: type) -> str:
    """Return the help page.

    Args: verbs: verb -> what it does. conf: the folder of Hydra's groups. schema: of the whole
    config, from which the settings' defaults and texts are read.
    """
    lines = [
        "plumbrule: RLHF experiments from small config files. A command composes a graph of",
        "stages (data, sft, feedback, rm, ppo, eval, compare ...), builds what is not in the",
        "store yet, and writes runs/<name>/<id>/report.html.",
        "",
        "  plumbrule [setting=value ...]    compose, plan and build (Hydra's overrides)",
        "  plumbrule <verb> ...             ask the store",
        "",
        "Verbs",
        *(f"  {name:<10}{what}" for name, what in verbs.items()),
        "",
        "Commands",
        *_columns(COMMANDS),
        "",
        f"Settings (default; that of experiment={DEFAULT_EXPERIMENT}, where it is another)",
        *_columns(most_used(conf, schema)),
        "  all of a group: plumbrule doc ppo.kl; all of a run: plumbrule --cfg job",
        "",
        "Groups (group=choice)",
    ]
    for folder in sorted(conf.iterdir()):
        names = {path.stem for path in folder.glob("*.yaml")} if folder.is_dir() else set()
        if names:
            names |= {"default"} if folder.name in DEFAULT_IS_SCHEMA else set()
            lines.append(f"  {folder.name:<12}{', '.join(sorted(names))}")
    lines += [
        "",
        "Options: --cfg job (print the composed config), --config-dir <folder>, --plugin <file>,",
        "  -m (sweep), --version, --hydra-help; completion: docs/commands.md",
        "Documentation: README.md, docs/*.md and rlhf/ppo/README.md, beside the code",
    ]
    return "\n".join(lines)


def most_used(conf: Path, schema: type) -> list[tuple[str, str]]:
    """Return (`setting=default`, what it is) of the settings that the page names."""
    file = conf / "experiment" / f"{DEFAULT_EXPERIMENT}.yaml"
    experiment = OmegaConf.load(file)
    rows = []
    for name in MOST_USED:
        owner, field = _find(name, schema)
        assert field is not None
        default = _written(_default(field))
        given = _written(OmegaConf.select(experiment, name, default=_default(field)))
        other = f" ({given})" if given != default else ""
        what = re.split(r"[;:.] |\.$", _texts(owner)[field.name])[0]
        rows.append((f"{name}={default}{other}", what[:1].lower() + what[1:]))
    return rows


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(left) for left, _ in rows)
    return [f"  {left:<{width}}  {right}" for left, right in rows]


def _written(value: Any) -> str:
    """Return a value as an override has it: null, true, [a,b]."""
    if OmegaConf.is_list(value) or isinstance(value, list):
        return f"[{','.join(_written(each) for each in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def version() -> str:
    """Return the version of this package."""
    try:
        return f"plumbrule {importlib.metadata.version('plumbrule')}"
    except importlib.metadata.PackageNotFoundError:
        return "plumbrule (not installed: run from its sources)"


class ComposedConfig(NamedTuple):
    """What a command composes to. words: what it says, as experiment=quickstart. config: nested."""

    words: str
    config: Mapping[str, Any]


def describe(name: str, schema: type, composed: ComposedConfig) -> str:
    """Return what a setting or a group of settings is: value, default, type, the text under it.

    Args: name: dotted, such as ppo.kl or ppo.kl.coef. schema: of the whole config.
    Raises: ConfigError: there is none of that name.
    """
    owner, field = _find(name, schema)
    if field is None:
        return _group("", schema, composed)
    group = _group_of(owner, field)
    text = _texts(owner).get(field.name, "")
    if group is not None:
        return _group(name, group, composed) + (f"\n\n{text}" if text else "")
    return _setting(name, owner, field, composed)


def _find(name: str, schema: type) -> tuple[type, dataclasses.Field[Any] | None]:
    """Return the dataclass that a setting or a group is a field of, and the field; None: no name.

    Raises: ConfigError: there is none of that name.
    """
    from plumbrule.pipeline.setting_names import hint, settings_of

    owner, field = schema, None
    for part in filter(None, name.split(".")):
        inner = owner if field is None else _group_of(owner, field)
        found = [] if inner is None else [f for f in dataclasses.fields(inner) if f.name == part]
        if inner is None or not found:
            raise _unknown(name, hint(name, settings_of(schema), "see plumbrule --help."))
        owner, field = inner, found[0]
    return owner, field


def _unknown(name: str, known: str) -> ConfigError:
    return ConfigError(f"{name} must be a known key; {known}")


def _group(name: str, schema: type, composed: ComposedConfig) -> str:
    """Return the title of a group and a paragraph for each of its settings."""
    title = inspect.getdoc(schema) or ""
    prefix = f"{name}." if name else ""
    parts = [f"{name or 'plumbrule'}: {title}"]
    for field in dataclasses.fields(schema):
        inner = _group_of(schema, field)
        if inner is None:
            parts.append(_setting(prefix + field.name, schema, field, composed))
        else:
            first = (inspect.getdoc(inner) or "").splitlines()[0]
            parts.append(f"{prefix}{field.name}: {first} (plumbrule doc {prefix}{field.name})")
    return "\n\n".join(parts)


def _setting(
    name: str, owner: type, field: dataclasses.Field[Any], composed: ComposedConfig
) -> str:
    default = _default(field)
    kind = str(field.type).replace("typing.", "")
    shown = _shown(default)
    with contextlib.suppress(KeyError, TypeError):
        value: Any = composed.config
        for part in name.split("."):
            value = value[part]
        if _shown(value) != shown:
            shown = f"{_shown(value)} in {composed.words}; {shown} by itself"
    text = _texts(owner).get(field.name, "")
    return f"{name}: {kind} = {shown}" + (f"\n    {text}" if text else "")


def _shown(value: Any) -> str:
    """Return a value as it is told: repr, shortened; of a dataclass that of its fields."""
    if isinstance(value, list):
        value = [dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for v in value]  # type: ignore[arg-type]
    shown = "a group" if dataclasses.is_dataclass(value) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _group_of(owner: type, field: dataclasses.Field[Any]) -> type | None:
    """Return the dataclass of a field, of its list or of its mapping; None for a plain one."""
    hint = get_type_hints(owner)[field.name]
    kinds = [hint, *getattr(hint, "__args__", ())]
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)  # type: ignore[return-value]


def _texts(schema: type) -> dict[str, str]:
    """Return the text under each field of a dataclass, on one line each."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(schema)))
    (body,) = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {}
    for statement, after in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(after, ast.Expr):
            continue
        if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            found[ast.unparse(statement.target)] = " ".join(after.value.value.split())
    return found
