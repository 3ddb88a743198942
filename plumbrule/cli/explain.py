"""Hydra's and OmegaConf's errors in our words: field, value, rule, and the nearest known name."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from plumbrule.cli.composition import CONF, group_options
from plumbrule.overrides import as_override, unreadable
from plumbrule.pipeline.compose import KEYS
from plumbrule.pipeline.experiment import RunConfig
from plumbrule.pipeline.setting_names import hint, settings_of
from plumbrule.pipeline.stages import STAGES

MULTIRUN = ("-m", "--multirun")
TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
OPTIONS = (
    *("--help", "-h", "--version", "--plugin", "--config-dir", "-cd", "--cfg", "-c"),
    *("--multirun", "-m", "--hydra-help", "--info", "-i", "--resolve", "--package", "-p"),
    *("--run", "-r", "--config-path", "-cp", "--config-name", "-cn"),
    *("--shell-completion", "-sc"),
)
"""Words with a dash that the command takes beside its settings."""
SETTING_OF = {"dry-run": "run.dry=true", "dry": "run.dry=true", "sweep": "-m", "seed": "seed=0"}
"""An option that other programs have -> what it is here."""
RERUN = "--experimental-rerun"
"""Hydra's, which would unpickle a file."""


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """Return a composition error as one line: field, value, rule, and the nearest known name."""
    word = error.override if isinstance(error, OverrideParseException) else None
    if (word := word or unreadable_word(arguments)) is not None:
        return explain_word(str(word))
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return explain_choice(error, arguments)
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    inside = re.search(r"Key '(\w+)' not in '(\w+)'", text)
    listed = re.search(r"(?:Could not override|Error merging override) \+*'?([\w.@/]+)", text)
    if inside and listed and inside.group(1) not in listed.group(1).split("."):
        return (
            f"{listed.group(1)} (={inside.group(1)}) must hold known keys; "
            f"{hint(f'{listed.group(1)}.{inside.group(1)}', settings_of(RunConfig), KEYS)}"
        )
    full_key = re.search(r"full_key: (\S+)", text)
    if full_key and re.search(r" is not a ListConfig,.* list,? or tuple", text):
        key = full_key.group(1)
        value = next((w.partition("=")[2] for w in arguments if w.startswith(f"{key}=")), "a")
        return f"{key} (={value}) must be a list; write {shlex.quote(f'{key}=[{value}]')}."
    wrong = re.search(r"Value '(.*?)' of type '\w+' could not be converted to (\w+)", text)
    if wrong and full_key:
        kind = TYPES.get(wrong.group(2), wrong.group(2))
        return f"{full_key.group(1)} (={wrong.group(1)}) must be {kind}; change it."
    item = re.search(
        r"Invalid type assigned: \w+ is not a subclass of \w+\. value: (.*?) full_key", text
    )
    if item and full_key:
        group = full_key.group(1).partition("[")[0]
        return (
            f"{full_key.group(1)} (={item.group(1)}) must be a mapping, as {{name: ...}}; "
            f"plumbrule doc {group} says what it may hold."
        )
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is None and "not in" in text and full_key:
        unknown = full_key
    if unknown is None:
        return text
    given = unknown.group(1)
    head = given.rpartition(".")[0]
    known = [*settings_of(RunConfig), *(path.name for path in CONF.iterdir() if path.is_dir())]
    if head.startswith("nodes.") and head.endswith(".inputs"):
        known += [f"{head}.{slot}" for kind in STAGES.values() for slot in kind.slots]
    return f"{given} must be a known key; {hint(given, known, KEYS)}"


def explain_choice(error: MissingConfigException, arguments: Sequence[str]) -> str:
    """Return what a group's choice must be where there is no such file: the nearest, or a path."""
    group, slash, choice = str(error.missing_cfg_file).partition("/")
    if not slash:
        return (
            f"--config-name (={group}) must name a file of conf/; leave it out: an experiment is "
            "experiment=<name>."
        )
    given = next(
        (w for w in arguments if re.split("[=@]", w.lstrip("+"))[0] == group and choice in w),
        f"{group}={choice}",
    )
    key, _, value = given.partition("=")
    options = sorted(set(error.options or group_options(group)) - {"schema"})
    named = f"{key} (={value}) must be one of {', '.join(options)}"
    close = difflib.get_close_matches(choice, options, n=1)
    named += f"; did you mean {key}={close[0]}?" if close else ""
    looks_like_path = "/" in value or "." in value or Path(value).exists()
    if group == "dataset" and looks_like_path:
        target = "dataset" if "@" not in key else key.partition("@")[2]
        path = as_override(f"{target}.path", value)
        return f"{key} (={value}) must name a format; a file is {key}=jsonl {path}"
    if group == "model" and not close:
        return (
            f"{named}, or a folder or hub name, as model=./{Path(value).name or 'folder'} or "
            "model=owner/name; there is no such file or folder."
        )
    return named if close else f"{named}; choose one."


def explain_word(word: str) -> str:
    """Return what to do about a word that Hydra can't read, or reads as several values."""
    key, _, value = word.partition("=")
    if value and word[0] in "'\"" and word[-1] == word[0]:
        return f"the setting {word} must not be in quotes that reach Hydra; write {word[1:-1]}"
    try:
        sweeps = OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        sweeps = False
    if not sweeps:
        return unreadable(word)
    told = f"{key} (={value}) names several values; add -m for a sweep: plumbrule -m "
    told += shlex.quote(word)
    if re.fullmatch(r"[-+.,\w\s]*\d[-+.,\d\seE]*|(choice|range|interval|glob)\(.*\)", value):
        return told
    return f"{told}; or, for one text with a comma, write {as_override(key, value)}"


def unreadable_word(arguments: Sequence[str]) -> str | None:
    """Return the first setting=value that Hydra can't read, or reads as several values where the
    command is no sweep; None: all are read.
    """
    parser, sweeps = OverridesParser.create(), bool(set(arguments) & set(MULTIRUN))
    for word in arguments:
        if word.startswith("-") or "=" not in word:
            continue
        try:
            if parser.parse_override(word).is_sweep_override() and not sweeps:
                return word
        except HydraException:
            return word
    return None


def unknown_option(arguments: Sequence[str]) -> str | None:
    """Return what is wrong with the first option that the command does not have, or that stands
    without the one that it belongs to; None: nothing.
    """
    if "--resolve" in arguments and not {w.partition("=")[0] for w in arguments} & {"--cfg", "-c"}:
        return "--resolve must stand beside --cfg job, whose values it fills in; write both."
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == RERUN:
            file = value if equals else next(iter(arguments[place + 1 :]), "")
            return (
                f"{RERUN} (={file}) must be left out, since it would run what a pickle holds; "
                "repeat a recorded run with plumbrule rerun <run>."
            )
        if not word.startswith("-") or name in OPTIONS or not name.strip("-"):
            continue
        plain = name.lstrip("-").replace("_", "-")
        if equals:
            setting = f"{name.lstrip('-')}={value}"
        else:
            close = difflib.get_close_matches(name, [o for o in OPTIONS if len(o) > 2], n=1)
            setting = SETTING_OF.get(plain) or (close[0] if close else "")
        fix = f"write {setting}" if setting else "settings are setting=value; plumbrule --help"
        return f"{name} must be an option of the command; {fix}."
    return None
