"""The reward beside the gold utility: where the one is high and the other low, it is being hacked.

Both are in units of their own, so the gap is taken of standardised scores: proxy less gold, each
less its mean and over its standard deviation at the first update. At 0 a response is as good as its
reward says; what training finds beyond that shows as a gap that grows over updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np

from plumbrule.atlas.config import GoldConfig
from plumbrule.data.records import Prompt, read_records
from plumbrule.errors import ConfigError
from plumbrule.protocols import Episode
from plumbrule.report.rollouts.files import Responses
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import RECORDS
from plumbrule.store.layout import artifacts_of, find_artifact
from plumbrule.store.manifests import read_manifest

GOLD = "term:gold"
CHUNK = 4096
"""Responses that the gold utility judges at a time."""


class Gold(NamedTuple):
    """The gold utility of responses, (n,), or None; and one sentence on where it is from."""

    values: np.ndarray | None
    note: str


class Gap(NamedTuple):
    """Proxy, gold and their gap in standard deviations of the first update, (n,) each."""

    proxy: np.ndarray
    gold: np.ndarray
    gap: np.ndarray


def read_prompts(artifact: Artifact) -> dict[str, Prompt]:
    """Return the prompts that a PPO artifact was trained on, by id; {} where they are gone."""
    try:
        fingerprint = read_manifest(artifact.path).inputs.get("prompts", "")
    except FileNotFoundError:
        return {}
    folder = find_artifact(artifacts_of(artifact.path), fingerprint) if fingerprint else None
    if folder is None:
        return {}
    return {p.id: p for p in read_records(Prompt, Artifact.at(folder).file(RECORDS))}


def find_gold(
    responses: Responses, prompts: Mapping[str, Prompt], config: Mapping[str, Any]
) -> Gold:
    """Return the gold utility: of the rollouts themselves, else judged now where prompts allow it.

    Args: prompts: by id. config: of the PPO stage, whose `reward.gold` weighs the utility's terms.
    """
    if GOLD in responses.numbers and not np.isnan(responses.numbers[GOLD]).all():
        return Gold(responses.numbers[GOLD], "Gold is the run's own reward term of that name.")
    known = all("answer" in prompts[i].meta for i in set(responses.prompt_ids) & set(prompts))
    if not prompts or not known or not set(responses.prompt_ids) <= set(prompts):
        return Gold(
            None,
            "Gold, and so the gap, is not known: no reward term is called gold, and the prompts "
            "do not say what a right answer is.",
        )
    from plumbrule.atlas.gold import GoldUtility

    weights = config.get("reward", {}).get("gold", {})
    names = {field.name for field in fields(GoldConfig)}
    try:
        utility = GoldUtility(GoldConfig(**{k: v for k, v in weights.items() if k in names}))
    except (ConfigError, TypeError):
        return Gold(
            None, "Gold, and so the gap, is not known: the run's reward.gold is unreadable."
        )
    rows = list(
        zip(
            responses.prompt_ids,
            responses.passages,
            responses.texts,
            responses.finished,
            strict=True,
        )
    )
    different = list(dict.fromkeys(rows))
    scores: dict[Any, float] = {}
    for begin in range(0, len(different), CHUNK):
        part = different[begin : begin + CHUNK]
        judged = utility.score([Episode(prompts[i], p, t, bool(f)) for i, p, t, f in part])
        scores |= dict(zip(part, judged["score"].tolist(), strict=True))
    return Gold(
        np.array([scores[row] for row in rows]),
        "Gold was not a term of the reward: it is the gold utility of Atlas (reward.gold), of "
        "these responses, judged when this page was made.",
    )


def standardise(responses: Responses, gold: np.ndarray | None) -> Gap | None:
    """Return proxy, gold and gap in standard deviations of the first update; None: no gold, or one
    of them does not vary, there and anywhere.

    The proxy is the weighted sum of the reward's terms (`raw_scores`; of an older file `scores`).
    """
    if gold is None:
        return None
    scores = responses.numbers["scores"]
    proxy = responses.numbers.get("raw_scores", scores)
    proxy = np.where(np.isnan(proxy), scores, proxy)  # a file without it beside others that have it
    first = responses.updates == responses.updates.min()
    scaled = []
    for every in (proxy, gold):
        values = np.where(np.isfinite(every), every, np.nan)
        own = values[first]
        wide = np.nanstd(own) or np.nanstd(values)
        if not np.isfinite(wide) or wide == 0:
            return None
        scaled.append((values - np.nanmean(own)) / wide)
    return Gap(scaled[0], scaled[1], scaled[0] - scaled[1])
