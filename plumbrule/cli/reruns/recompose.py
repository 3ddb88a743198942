"""The settings of a recorded run, composed by the present version.

A record holds the words of its command and every setting with its value. The words alone give
another run once a default or a file of conf/ has changed, so what differs from the record is set
to what it was, by further words, and said. What can't be set, because it no longer exists, is said
too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, get_type_hints

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from plumbrule.cli.composition import CONF, composed_config
from plumbrule.cli.explain import explain
from plumbrule.errors import ArtifactError, ConfigError, PlumbruleError, listed
from plumbrule.overrides import as_override
from plumbrule.pipeline.compose import Composed, compose_run
from plumbrule.pipeline.experiment import RunConfig, as_json
from plumbrule.pipeline.graph import FILLED_IN
from plumbrule.pipeline.setting_names import settings_of
from plumbrule.results.store_names import pasted
from plumbrule.store.json_files import as_read_back

APART = ("tracking", "executor", "runtime")
"""Sections that change no number beyond rounding."""
OF_THE_COMMAND = ("run.store", "run.dry", "run.notes", "run.versions", "run.objective")
"""Settings that change no number, either."""
OWN = ("run.dry", "run.store", "tracking", "executor", "runtime")
"""Beginnings of words that a rerun may be given beside the recorded ones."""
NONE = "none"


class SettingChange(NamedTuple):
    """A setting that is not as it was. then, now: as text. kept: whether the rerun has it as then.

    why: `its default changed`, `it no longer exists`, `it is new`, or what of conf/ is gone.
    """

    setting: str
    then: str
    now: str
    why: str
    kept: bool


class Recomposed(NamedTuple):
    """A recorded run composed again. words: its whole command. settings: what is not as it was."""

    cfg: DictConfig
    composed: Composed
    words: list[str]
    settings: list[SettingChange]

    @property
    def lost(self) -> list[SettingChange]:
        """The settings that the rerun can't have as they were."""
        return [one for one in self.settings if not one.kept and one.why != NEW]


DEFAULT, GONE, NEW = "its default changed", "it no longer exists", "it is new"
FILE_GONE = "the file of conf/ is gone"


def recompose(record: Mapping[str, Any], own: Sequence[str]) -> Recomposed:
    """Return a recorded run, composed by the present version with its settings as they were.

    Args: own: words of the rerun itself, which begin as `OWN`.
    Raises: ArtifactError: the record is of a version that kept no words. ConfigError: the present
    version can't compose it.
    """
    if not record.get("id") or ("config" not in record and record["state"] in ("done", "unknown")):
        raise ArtifactError(
            "the record must hold the run's id and settings, and does not: an earlier version "
            f"wrote it; run its command again as it stands in its report: {pasted(record)}"
        )
    said, gone = _words(record["overrides"])
    kept_apart = [word for word in said if not _key(word).startswith("run.store")]
    words = [*kept_apart, *own]
    now, composed, cfg = _compose(words, record)
    then = record.get("config")
    if then is None:
        return Recomposed(cfg, composed, words, gone)
    changes = compared(_leaves(then), _leaves(now))
    further = []
    for one in changes:
        if one.why == DEFAULT:
            try:
                further.append(f"++{one.setting}={as_value(_leaves(then)[one.setting])}")
            except ConfigError:  # no word can say it: it stays as it is now, which is told
                continue
    if further:
        words = [*kept_apart, *further, *own]
        now, composed, cfg = _compose(words, record)
    still = _leaves(now)
    old = _leaves(then)
    settings = [
        one._replace(kept=one.setting in still and still[one.setting] == old[one.setting])
        if one.why == DEFAULT
        else one
        for one in changes
    ]
    return Recomposed(cfg, composed, words, [*gone, *settings])


def compared(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[SettingChange]:
    """Return the settings that differ, by their dotted names -> values."""
    known = set(settings_of(RunConfig))
    found = []
    for name in sorted({*then, *now}):
        if name in then and name in now:
            if then[name] != now[name]:
                found.append(_change(name, then, now, DEFAULT))
        elif name in then:
            can_be_set = name in known or name.startswith(("nodes.", "data."))
            inside = any(name.startswith(f"{other}.") for other in now)
            why = DEFAULT if can_be_set or (inside and _is_free(name, known)) else GONE
            found.append(_change(name, then, now, why))
        elif not any(
            other.startswith(f"{name}.") or name.startswith(f"{other}.") for other in then
        ):
            found.append(_change(name, then, now, NEW))
    return found


def _is_free(name: str, known: set[str]) -> bool:
    """Return whether a name lies in a mapping whose keys are a user's."""
    above = name.rpartition(".")[0]
    return above in known and not any(one.startswith(f"{above}.") for one in known)


def _change(name: str, then: Mapping[str, Any], now: Mapping[str, Any], why: str) -> SettingChange:
    before, after = (str(side[name]) if name in side else NONE for side in (then, now))
    return SettingChange(name, before, after, why, kept=False)


def _compose(
    words: Sequence[str], record: Mapping[str, Any]
) -> tuple[dict[str, Any], Composed, DictConfig]:
    """Return the settings as JSON, the run and its config. Raises: ConfigError."""
    where = commit_of(record)
    hint = f"; check out commit {where} to compose it as it was" if where else ""
    try:
        cfg = composed_config(words)
        composed = compose_run(cfg)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(
            f"the recorded run can't be composed: {explain(error, words)}{hint}"
        ) from None
    except PlumbruleError as error:
        raise type(error)(f"the recorded run can't be composed: {error}{hint}") from None
    config = composed.config
    whole = as_json(replace(config, run=replace(config.run, store=None)))
    return as_read_back(whole), composed, cfg


def commit_of(record: Mapping[str, Any]) -> str:
    """Return the commit that a run was made by, 12 digits; "" where none is recorded."""
    git = record.get("git")
    return str(git.get("commit") or "")[:12] if isinstance(git, Mapping) else ""


def _words(overrides: Sequence[str]) -> tuple[list[str], list[SettingChange]]:
    """Return the recorded words that the present version knows, and what became of the others."""
    known = set(settings_of(RunConfig))
    kept, gone = [], []
    for word in overrides:
        key, value = _key(word), word.partition("=")[2]
        if (CONF / key).is_dir():
            names = {path.stem for path in (CONF / key).glob("*.yaml")} | {"default", "schema"}
            if re.fullmatch(r"[\w.-]+", value) and value not in {*names, "null"}:
                gone.append(SettingChange(f"{key}={value}", "chosen", NONE, FILE_GONE, kept=False))
                continue
        elif word[:1] != "~" and not _exists(key, known):
            gone.append(SettingChange(key, value, NONE, GONE, kept=False))
            continue
        kept.append(word)
    return kept, gone


def _exists(key: str, known: set[str]) -> bool:
    """Return whether a setting, or a place in a mapping of a user's, is called so."""
    if key in known or "@" in key or key.startswith(("nodes.", "data.", "hydra.")):
        return True
    above = key
    while above := above.rpartition(".")[0]:
        if above in known:
            return not any(one.startswith(f"{above}.") for one in known)
    return False


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted setting -> value, without what a node or a plug-in's digest is filled in by."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        left_out = key in OF_THE_COMMAND or key in without_effect(RunConfig)
        if left_out or (not prefix and name in APART) or name == "source":
            continue
        if prefix.startswith("nodes.") and prefix.count(".") == 2 and name in FILLED_IN:
            continue
        if isinstance(value, Mapping) and value:
            if prefix == "nodes." and any(value.get(field) for field in FILLED_IN):
                continue  # a member of an ensemble, or an artifact: its users name it
            found |= _leaves(value, f"{key}.")
        elif not isinstance(value, Mapping):
            found[key] = _without_digests(value)
    return found


@lru_cache
def without_effect(schema: type, prefix: str = "") -> frozenset[str]:
    """Return the dotted names of the settings of a dataclass that no fingerprint holds."""
    hints = get_type_hints(schema)
    found: set[str] = set()
    for field in fields(schema):
        if field.metadata.get("hashed") == "no":
            found.add(f"{prefix}{field.name}")
        elif is_dataclass(hints[field.name]):
            found |= without_effect(hints[field.name], f"{prefix}{field.name}.")
    return frozenset(found)


def _without_digests(value: Any) -> Any:
    """Return a list of groups of settings without the digests that are filled in."""
    if isinstance(value, list):
        return [
            {k: v for k, v in one.items() if k != "source"} if isinstance(one, Mapping) else one
            for one in value
        ]
    return value


def require_own(words: Sequence[str]) -> None:
    """Raise ConfigError for a word that would make a rerun another run."""
    wrong = [word for word in words if not _key(word).startswith(OWN) or "=" not in word]
    if wrong:
        raise ConfigError(
            f"rerun (={wrong[0]}) must take only words that change no number, which begin with "
            f"{listed(OWN)}; for another setting run the command itself with it."
        )


def as_value(value: Any) -> str:
    """Return a value of JSON as Hydra reads it back: texts in quotes, lists and mappings whole.

    Raises: ConfigError: a key of a mapping can't be written without quotes, which Hydra refuses.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        bad = [key for key in value if not re.fullmatch(r"[A-Za-z_][\w./-]*", str(key))]
        if bad:
            raise ConfigError(
                f"the recorded key {bad[0]!r:.40} must be a word that Hydra reads without quotes; "
                "set its value in a file of conf/, and run the command itself."
            )
        return "{" + ",".join(f"{key}:{as_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_value(one) for one in value) + "]"
    (word,) = shlex.split(as_override("value", str(value)))
    text = word.partition("=")[2]
    return text if text[:1] == '"' else f'"{text}"'
