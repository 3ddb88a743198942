"""A file of conf/paper as a `Paper`: what may stand in it, and what must.

Everything that can be wrong with a claim before anything is run is refused here: no source, no
tolerance, an expression that can't be read or names no metric, a key that no arm sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from plumbrule.config import require, require_choice
from plumbrule.errors import ConfigError, listed
from plumbrule.papers.expressions import EVERY, parse
from plumbrule.papers.paper import (
    SCALES,
    STATUSES,
    DataNeed,
    Paper,
    PaperClaim,
    PaperScale,
    PaperSource,
    Setting,
)
from plumbrule.papers.sweep_words import arm_values, normal
from plumbrule.report.metric_wording import find_name
from plumbrule.results.nearest_names import nearest
from plumbrule.results.sweep_axes import SWEEP

ARM = "arm"
"""Key of a selection that names an arm."""
_PAPER = ("title", "citation", "summary", *SCALES)
_SCALE = ("experiment", "settings", "seeds", "arms", "needs", "definitions", "expected")
_CLAIM = ("text", "expression", "tolerance", "source", "status", "explanation")


def paper_names(folder: Path) -> list[str]:
    """Return the names of the papers that a folder has files of."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_paper(folder: Path, name: str) -> Paper:
    """Return a paper by its name.

    Raises: ConfigError: there is none of that name, and the nearest; or its file is wrong.
    """
    known = paper_names(folder)
    if name not in known:
        raise ConfigError(f"paper (={name}) must be one of conf/paper; {nearest(name, known)}")
    path = folder / f"{name}.yaml"
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError, UnicodeError, OSError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"conf/paper/{name}.yaml must be YAML; {told}.") from None
    return as_paper(name, found)


def as_paper(name: str, found: Any) -> Paper:
    """Return what a file holds as a paper. Raises: ConfigError: as `read_paper`."""
    field = f"paper {name}"
    _keys(field, found, _PAPER)
    scales = {scale: _scale(f"{field}: {scale}", scale, found.get(scale)) for scale in SCALES}
    title, citation, summary = (_text(field, found, k) for k in ("title", "citation", "summary"))
    return Paper(name, title, citation, summary, scales)


def _scale(field: str, name: str, found: Any) -> PaperScale:
    """Return one scale; a text says why there is none."""
    if isinstance(found, str) and found.strip():
        return PaperScale(name, unavailable=" ".join(found.split()))
    _keys(field, found, _SCALE)
    settings = [_setting(field, *item) for item in _mapping(field, found, "settings").items()]
    seeds = found.get("seeds")
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    whole = whole and len(set(seeds)) == len(seeds)
    rule = "be a list of whole numbers, each once"
    require(bool(whole), f"{field}.seeds", seeds, rule, "write [0, 1, 2]")
    arms = {
        str(arm): _words(f"{field}.arms.{arm}", words)
        for arm, words in (_mapping(field, found, "arms") or {"main": []}).items()
    }
    needs = _mapping(field, found, "needs")
    scale = PaperScale(
        name,
        _text(field, found, "experiment"),
        settings,
        list(seeds or ()),
        arms,
        [DataNeed(str(key), str(what)) for key, what in needs.items()],
        {str(k): str(v) for k, v in _mapping(field, found, "definitions").items()},
    )
    claims = found.get("expected")
    require(
        isinstance(claims, list) and bool(claims),
        f"{field}.expected",
        claims,
        "be a list of claims",
        "write one, or say in place of the scale why there is none",
    )
    assert isinstance(claims, list)
    read = [_claim(f"{field}.expected[{i}]", claim, scale) for i, claim in enumerate(claims)]
    return PaperScale(**{**vars(scale), "claims": read})


def _claim(field: str, found: Any, scale: PaperScale) -> PaperClaim:
    _keys(field, found, _CLAIM)
    tolerance = found.get("tolerance")
    number = type(tolerance) in (int, float) and math.isfinite(tolerance) and tolerance >= 0
    require(
        bool(number),
        f"{field}.tolerance",
        tolerance,
        "be a number of at least 0",
        "write 0 where the comparison must hold as it stands",
    )
    claim = PaperClaim(
        _text(field, found, "text"),
        _text(field, found, "expression"),
        float(tolerance),
        _source(field, found),
        " ".join(str(found.get("explanation") or "").split()),
    )
    require_sound_claim(field, claim, scale)
    return claim


def require_sound_claim(field: str, claim: PaperClaim, scale: PaperScale) -> None:
    """Raise ConfigError unless a claim can be read, and what it names can be in its runs."""
    expression = parse(claim.expression, scale.definitions, f"{field}.expression")
    if any(one.op == "==" for one in expression.comparisons):
        require(
            claim.tolerance > 0,
            f"{field}.tolerance",
            claim.tolerance,
            "be above 0 where numbers are to be equal",
            "say how far they may lie apart",
        )
    swept = {arm: arm_values(words) for arm, words in scale.arms.items()}
    for reference in expression.references:
        require(
            find_name(reference.metric) is not None,
            f"{field}.expression",
            claim.expression,
            f"name metrics that there are, not {reference.metric}",
            "correct it; metrics.toml of each stage has them, and a division has spaces around it",
        )
        _require_selectable(field, claim, reference.where, swept)


def _require_selectable(
    field: str,
    claim: PaperClaim,
    where: Sequence[tuple[str, str]],
    swept: Mapping[str, Mapping[str, Sequence[str]]],
) -> None:
    """Raise ConfigError unless runs can be selected so: each key is swept, and has that value."""
    known: dict[str, list[str]] = {ARM: list(swept)}
    for values in swept.values():
        for key, own in values.items():
            known.setdefault(key, []).extend(own)
    for key, value in where:
        require(
            key in known,
            f"{field}.expression",
            claim.expression,
            f"select by what is swept, not {key}",
            f"sweep it in an arm, or take one of {listed(known)}",
        )
        require(
            value == EVERY or normal(value) in map(normal, known[key]),
            f"{field}.expression",
            claim.expression,
            f"select a value of {key} that is swept, not {value}",
            f"take one of {listed(dict.fromkeys(known[key]))}",
        )


def _setting(field: str, key: Any, found: Any) -> Setting:
    field = f"{field}.settings.{key}"
    _keys(field, found, ("value", "source", "status"))
    require("value" in found, field, found, "have a value", "add value: ...")
    value = found["value"]
    special = {True: "true", False: "false", None: "null"}
    text = special[value] if value is None or isinstance(value, bool) else str(value)
    return Setting(str(key), text, _source(field, found))


def _source(field: str, found: Mapping[str, Any]) -> PaperSource:
    where = _text(field, found, "source")
    status = str(found.get("status"))
    require_choice(f"{field}.status", status, STATUSES)
    return PaperSource(where, status)


def _keys(field: str, found: Any, known: Sequence[str]) -> None:
    if not isinstance(found, dict):
        told = f"{field} (={found!r:.80})"
        raise ConfigError(f"{told} must be a mapping; it may have {listed(known)}.")
    for key in found:
        require(
            key in known, f"{field}.{key}", found[key], "be known", nearest(str(key), known)[:-1]
        )


def _text(field: str, found: Mapping[str, Any], key: str) -> str:
    value = found.get(key)
    good = isinstance(value, str) and bool(value.strip())
    require(good, f"{field}.{key}", value, "be a text that is not empty", "write it")
    return " ".join(str(value).split())


def _mapping(field: str, found: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{field}.{key} (={value!r:.80}) must be a mapping; correct it.")
    return value


def _words(field: str, found: Any) -> list[str]:
    good = isinstance(found, list) and all(isinstance(word, str) and "=" in word for word in found)
    require(
        good,
        field,
        found,
        "be a list of overrides",
        "write a list, such as [ppo.kl.coef=0.05, seed=1]",
    )
    for word in found:
        require(
            not word.startswith(SWEEP),
            field,
            word,
            "hold settings of runs alone, and not of a sweep",
            "make each position of that axis an arm of its own",
        )
    return list(found)
