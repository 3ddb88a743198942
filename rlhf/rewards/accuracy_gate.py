"""Whether a reward model is good enough to be trained against: `ppo.require_rm`.

A policy is optimised against what its reward model gets wrong. So a run can demand, before a policy
loads, what the report card of each of its reward models must show; it stops where one does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from plumbrule.errors import TrainingError
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import REPORT_CARD
from rlhf.rewards.config import RequireConfig


def check_report_cards(config: RequireConfig, models: Mapping[str, Artifact]) -> None:
    """Raise TrainingError with all that the report cards of `models` do not show as demanded."""
    if config == RequireConfig():
        return
    found = []
    for slot, artifact in models.items():
        card = json.loads(artifact.file(REPORT_CARD).read_text(encoding="utf-8"))
        found += [f"{slot}: {short}" for short in shortcomings(config, card)]
    if found:
        raise TrainingError(
            f"{'; '.join(found)}. PPO does not train against it: improve the reward model (more "
            "rankings, rm.uses_token_logprobs, a larger model), or lower what is demanded."
        )


def shortcomings(config: RequireConfig, card: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a report card lacks: measured value, rule and setting."""
    accuracy = card["accuracy"]
    if config.accuracy is not None and accuracy["value"] < config.accuracy:
        yield (
            f"accuracy (={accuracy['value']:.3f} of {accuracy['n']} pairs) must be at least "
            f"ppo.require_rm.accuracy (={config.accuracy:g})"
        )
    kinds = card.get("noise_free", {}).get("by_difference", {})
    if config.every_kind is not None and not kinds:
        yield (
            f"ppo.require_rm.every_kind (={config.every_kind:g}) must be null where the rankings "
            "carry no utilities, without which no kind is measured"
        )
    for kind, measured in kinds.items():
        if config.every_kind is not None and measured["value"] < config.every_kind:
            yield (
                f"accuracy on pairs that differ in {kind} (={measured['value']:.3f} of "
                f"{measured['n']}) must be at least ppo.require_rm.every_kind "
                f"(={config.every_kind:g})"
            )
    ece = card.get("ece_debiased", card["ece"])["value"]
    if config.ece is not None and ece > config.ece:
        yield f"debiased ece (={ece:.3f}) must be at most ppo.require_rm.ece (={config.ece:g})"
    if config.beats_rules:
        # a rule and its opposite: "longer is better" at .3 is "shorter is better" at .7
        rules = {name: max(r["value"], 1 - r["value"]) for name, r in card["rules"].items()}
        best = max(rules, key=lambda name: rules[name])
        low = accuracy["low"]
        if low is None:
            yield (
                f"accuracy (={accuracy['value']:.3f} of {accuracy['n']} pairs) must have "
                "bounds for ppo.require_rm.beats_rules; hold out more prompts"
            )
        elif low <= rules[best]:
            yield (
                f"accuracy (at least {low:.3f} at 95 %) must be above that of the rule {best} or "
                f"its opposite (={rules[best]:.3f}) with ppo.require_rm.beats_rules"
            )
