"""What PPO writes when it has ended: policy, value model, samples before and after, notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.lm.generation.search_turns import Searcher
from plumbrule.lm.loading import save_policy
from plumbrule.protocols import Retriever, Tracker
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import MODEL, NOTES, SAMPLES, VALUE
from plumbrule.store.json_files import write_json, write_jsonl
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.optimisation.learner import Learner
from rlhf.ppo.rollout.prompts import prompts_that_fit, read_held_out
from rlhf.ppo.rollout.samples import sample_rows
from rlhf.ppo.shared_trunk import ReferencePolicy
from rlhf.ppo.state import LoopState
from rlhf.ppo.value_model import save_value_model


def publish(
    out: Path,
    learner: Learner,
    reference: ReferencePolicy,
    retriever: Retriever | None,
    searcher: Searcher | None,
    inputs: Mapping[str, Artifact],
    config: PPOConfig,
    notes: list[str],
    tracker: Tracker,
) -> None:
    """Write the policy, the value model, samples before and after, and notes."""
    policy = learner.policy
    policy.spec = dataclasses.replace(policy.spec, temperature=config.sampling.temperature)
    save_policy(policy, out / MODEL)
    if learner.value_model is not None:
        save_value_model(learner.value_model, out / VALUE)
    held_out = prompts_that_fit(policy, read_held_out(inputs), config.most_response_tokens)[
        : config.num_samples
    ]
    rows = sample_rows(
        policy,
        reference,
        held_out,
        retriever,
        sampling=config.sampling,
        retrieval=config.retrieval.without_chance(),
        seed=config.seed,
        precision=config.precision,
        searcher=searcher,
    )
    write_jsonl(out / SAMPLES, rows)
    if rows:
        tracker.table("ppo/samples", list(rows[0]), [list(row.values()) for row in rows])
    write_json(out / NOTES, notes)


def notes_on(
    num_too_long: int,
    control: LoopState,
    config: PPOConfig,
    sampler: str,
    logged: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what a reader of the report should know first.

    Args: sampler: the name of who answered the rollouts' prompts. logged: rows of the run's log.
    """
    notes = [control.stopped] if control.stopped else []
    notes += config.reward.notes()
    if config.staleness:
        notes.append(
            "Each rollout but the first was sampled before the update ahead of it "
            f"(ppo.staleness={config.staleness}); nothing ran at the same time."
        )
    filled = [int(row.get("rollout/groups_filled_up", 0)) for row in logged]
    if any(filled):
        groups = len(filled) * config.batch_size // config.samples_per_prompt
        notes.append(
            f"{sum(filled)} of {groups} groups that were trained on have no variance: "
            f"{sum(map(bool, filled))} of {len(filled)} updates reached "
            f"ppo.dynamic_sampling_max_draws (={config.dynamic_sampling_max_draws})."
        )
    if sampler not in ("own", "given"):
        notes.append(
            f"Rollouts were sampled by {sampler}; val/logprob_gap_mean and val/ratio_out_of_band "
            "say how far it was from the policy."
        )
    if num_too_long:
        notes.append(
            f"{num_too_long} prompts were left out: with a response they do not fit the context."
        )
    return notes
