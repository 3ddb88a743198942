"""Stage `ppo`: proximal policy optimisation of an SFT policy against a reward, top to bottom.

For each update:

1. Generate. The policy answers `batch_size` prompts.              -> Trajectory
2. Score. Reward terms judge the text; policy, reference and
   value model read the tokens.                                    -> scores (b,), log-probs, values
3. Shape. A KL penalty per token, the score at the last one.       -> rewards (b, t)
4. Advantages. GAE over action tokens, whitened over the rollout.  -> advantages, returns (b, t)
5. Learn. `num_ppo_epochs * num_mini_batches` optimizer steps.     -> PPOStats
6. Control. The KL coefficient of the next update; here it is fixed.
7. Keep. The rollout's file, the metrics, every few updates a checkpoint.

What is decided where: the order of reward transforms `rewards.py`, gaps and truncation
`advantages.py`, losses `losses.py`, what a mini-batch is `ppo_step.py`, where values are read
`value_model.py`, why the old log-probs are not the sampler's `forward.py`, what a resumed run needs
`ppo_state.py`, what each metric means `meters.py`.

With several processes each generates and scores its share of the rows; from then on all hold the
whole rollout, so whitening and metrics are those of one process, and only the rows of each
mini-batch are dealt out again. The main process alone writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from plumbrule import checkpoints, distributed
from plumbrule.artifacts import Artifact, write_json
from plumbrule.config import RuntimeConfig
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.models import Policy, load_policy, resolve_device, save_policy
from plumbrule.protocols import Retriever
from plumbrule.records import Prompt, read_records
from plumbrule.tracking import Tracker
from rlhf import rollouts
from rlhf.advantages import gae
from rlhf.config import PPOConfig
from rlhf.forward import compute_precision, evaluate
from rlhf.kl import k1
from rlhf.masked import whiten
from rlhf.meters import (
    Stopwatch,
    objective_metrics,
    require_finite,
    update_metrics,
    warn_if_inconsistent,
)
from rlhf.ppo_prompts import ask, batch_of, that_fit
from rlhf.ppo_samples import sample_rows, write_rows
from rlhf.ppo_state import load_state, save_state
from rlhf.ppo_step import Learner, make_learner, ppo_step, set_learning_rates
from rlhf.reward_model import load_reward_model
from rlhf.reward_terms import open_terms, reward_models, score_terms
from rlhf.rewards import penalise_unfinished, shape_rewards, weighted_sum
from rlhf.rollouts import Rollout
from rlhf.trajectory import roll_out
from rlhf.value_model import (
    ValueModel,
    save_value_model,
    value_from_policy,
    value_from_reward_model,
)

HEADLINES = (
    "objective/kl",
    "objective/scores",
    "objective/rlhf_reward",
    "objective/entropy",
    "val/num_eos_tokens",
    "val/response_length_tokens",
)
"""Metrics of the last update that `run` returns."""


def run(
    config: PPOConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Train a policy against the reward; return headline metrics of the last update.

    Raises: ConfigError: settings and inputs that do not go together. TrainingError: NaN or Inf in
    a score, a loss or a gradient; the rollout is kept beside the checkpoints.
    """
    device = resolve_device(runtime)
    scorers = open_terms(config.reward, inputs, runtime)
    policy = load_policy(inputs["policy"].file("model"), device=device)
    ref_policy = load_policy(inputs["policy"].file("model"), device=device)
    learner = make_learner(policy, make_value_model(config, policy, inputs), config)
    retriever = open_retriever(config, inputs)
    prompts, num_too_long = read_prompts(inputs["prompts"].file("records.jsonl"), policy, config)
    begun, metrics = resume(out, learner, tracker)

    with tracker.progress(config.num_updates * config.batch_size, "ppo", "episodes") as progress:
        progress.skip(begun * config.batch_size)
        for update in range(begun + 1, config.num_updates + 1):
            watch = Stopwatch()
            set_learning_rates(learner, config, update)

            # 1 Generate.
            with watch("generate"), compute_precision(config.precision, device):
                numbers = batch_of(len(prompts), config.batch_size, update, config.seed)
                asked = [prompts[number] for number in numbers]
                queries = ask(policy, asked, retriever, config, update)
                trajectory = roll_out(policy, queries, config.sampling, len(asked))
            mask = trajectory.action_mask

            # 2 Score: the text, then the tokens.
            with watch("score"):
                terms = score_terms(scorers, trajectory, asked)
                raw_scores = weighted_sum(terms, config.reward.weights)
                scores = penalise_unfinished(
                    raw_scores, trajectory.finished, config.missing_eos_penalty
                )
            with watch("forward"):
                seen = evaluate(
                    trajectory,
                    policy,
                    ref_policy,
                    learner.value_model,
                    temperature=config.sampling.temperature,
                    precision=config.precision,
                    micro_batch_size=runtime.micro_batch_size,
                )

            # 3 Shape.
            kl = k1(seen.logprobs, seen.ref_logprobs, mask)
            rewards = shape_rewards(scores, kl, mask, config.kl.coef)
            if config.whiten_rewards:
                rewards = whiten(rewards, mask, shift_mean=False)

            # 4 Advantages. The returns are made before whitening and never see it.
            advantages, returns = gae(rewards, seen.values, mask, config.gamma, config.lam)
            rollout = Rollout(
                trajectory=trajectory,
                **seen._asdict(),
                kl=kl,
                terms=terms,
                raw_scores=raw_scores,
                scores=scores,
                rewards=rewards,
                advantages=whiten(advantages, mask),
                returns=returns,
            )

            # 5 Learn.
            with watch("update"), kept_on_failure(rollout, out / "checkpoints", update):
                require_finite(rollout, update)
                stats = ppo_step(learner, rollout, config, update, runtime.micro_batch_size)

            # 6 Control: the KL coefficient stays what it is.

            # 7 Keep.
            if distributed.is_main():
                rollouts.write(rollout, rollouts.path_of(out / "rollouts", update))
            metrics = {
                **objective_metrics(rollout, config.reward.weights, config.kl.coef),
                **update_metrics(stats),
                **{f"lr/{group['name']}": group["lr"] for group in learner.optimizer.param_groups},
                **watch.metrics(config.batch_size),
                "time/ppo_seconds": metrics.get("time/ppo_seconds", 0.0) + watch.total(),
            }
            warn_if_inconsistent(metrics, config.precision, update)
            tracker.log(metrics, update)
            if update % config.save_every == 0 or update == config.num_updates:
                checkpoint(out, learner, metrics, update)
            shown = {"score": metrics["objective/scores"], "kl": metrics["objective/kl"]}
            progress.advance(config.batch_size, **shown)

    if distributed.is_main():
        publish(out, learner, ref_policy, retriever, inputs, config, num_too_long, tracker)
    distributed.barrier()
    episodes = config.num_updates * config.batch_size
    return {
        **{name: metrics[name] for name in HEADLINES},
        **{name: value for name, value in metrics.items() if name.startswith("reward/")},
        "ppo/updates": float(config.num_updates),
        "ppo/episodes": float(episodes),
        "ppo/episodes_per_second": episodes / metrics["time/ppo_seconds"],
    }


def make_value_model(
    config: PPOConfig, policy: Policy, inputs: Mapping[str, Artifact]
) -> ValueModel:
    """Return the value model that `config.value_init` names; of several reward models the first.

    Raises: ConfigError: rm without a reward model, or with one of another tokenizer.
    """
    if config.value_init == "policy":
        return value_from_policy(policy)
    models = reward_models(inputs)
    if not models:
        raise ConfigError("ppo.value_init (=rm) must be policy without an rm input; change it.")
    slot, artifact = next(iter(models.items()))
    reward_model = load_reward_model(artifact.path, device=policy.model.device)
    if reward_model.policy.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            f"ppo.value_init (=rm) must be policy where {slot} has another tokenizer: a value "
            "model reads the policy's tokens; change it."
        )
    return value_from_reward_model(reward_model)


def open_retriever(config: PPOConfig, inputs: Mapping[str, Artifact]) -> Retriever | None:
    """Return the index as a Retriever where some prompts are shown passages, else None."""
    if config.retrieval.share > 0 and "index" in inputs:
        return inputs["index"].open(method=config.retrieval.method)
    return None


def read_prompts(path: Path, policy: Policy, config: PPOConfig) -> tuple[list[Prompt], int]:
    """Return the prompts in `path` that leave room for a response, and how many do not.

    Raises: DataError: none does.
    """
    every = read_records(Prompt, path)
    response_tokens = config.sampling.max_new_tokens
    kept = that_fit(policy, every, response_tokens)
    if not kept:
        raise DataError(
            f"prompts (={len(every)} rows) must hold one that fits the context (="
            f"{policy.spec.context} tokens) with a response of {response_tokens} tokens.",
            path,
        )
    return kept, len(every) - len(kept)


def resume(out: Path, learner: Learner, tracker: Tracker) -> tuple[int, dict[str, float]]:
    """Load the newest checkpoint and forget what came after it; return its update and metrics."""
    newest = checkpoints.newest(out / "checkpoints")
    update, metrics = 0, {}
    if newest is not None:
        update, metrics = newest[0], load_state(newest[1], learner)
    distributed.barrier()  # nobody writes before everybody has read
    tracker.rewind(update)
    if distributed.is_main():
        rollouts.remove_after(out / "rollouts", update)
    return update, metrics


def checkpoint(out: Path, learner: Learner, metrics: dict[str, float], update: int) -> None:
    """Save the learner as it is after `update`."""
    if distributed.is_main():
        folder = out / "checkpoints"
        checkpoints.save(folder, update, lambda path: save_state(path, learner, metrics))
    distributed.barrier()


@contextmanager
def kept_on_failure(rollout: Rollout, folder: Path, update: int) -> Iterator[None]:
    """Write the rollout into `folder` if training on it fails, and say so in the error."""
    try:
        yield
    except TrainingError as error:
        path = folder / f"failed-update-{update:05d}.parquet"
        if distributed.is_main():
            rollouts.write(rollout, path)
        raise TrainingError(f"{error} Its rollout is kept: {path}") from error


def publish(
    out: Path,
    learner: Learner,
    ref_policy: Policy,
    retriever: Retriever | None,
    inputs: Mapping[str, Artifact],
    config: PPOConfig,
    num_too_long: int,
    tracker: Tracker,
) -> None:
    """Write the policy, the value model, samples before and after, and notes."""
    policy = learner.policy
    policy.spec = dataclasses.replace(policy.spec, temperature=config.sampling.temperature)
    save_policy(policy, out / "model")
    save_value_model(learner.value_model, out / "value")
    every = read_records(Prompt, inputs["prompts"].file("validation.jsonl"))
    held_out = that_fit(policy, every, config.sampling.max_new_tokens)[: config.num_samples]
    rows = sample_rows(policy, ref_policy, held_out, retriever, config)
    write_rows(rows, out / "samples.jsonl")
    if rows:
        tracker.table("ppo/samples", list(rows[0]), [list(row.values()) for row in rows])
    notes = []
    if num_too_long:
        notes.append(f"{num_too_long} prompts were left out: they leave no room for a response.")
    write_json(out / "notes.json", notes)
