"""Stage `ppo`: proximal policy optimisation of an SFT policy against a reward, top to bottom.

For each update:

1. Generate. The policy answers `batch_size` prompts.              -> Trajectory
2. Score. Reward terms judge the text; policy, reference and
   value model read the tokens.                                    -> scores (b,), log-probs, values
3. Shape. A KL penalty per token, the score at the last step.      -> rewards (b, t)
4. Advantages. GAE, whitened over the rollout, or group baselines. -> advantages, returns (b, t)
5. Learn. `num_ppo_epochs * num_mini_batches` optimizer steps.     -> PPOStats
6. Control. The KL coefficient of the next update, and whether there is one.
7. Keep. The rollout's file, the metrics, every few updates a checkpoint.

What is decided where: settings `ppo_config.py`, steps 3 and 4 `objective.py`, the order of reward
transforms `rewards.py`, KL estimators and their control `kl.py`, gaps and truncation
`advantages.py`, losses `losses.py`, what a mini-batch is `ppo_step.py`, where values are read
`value_model.py`, what is loaded and shared `ppo_models.py` and `sharing.py`, why the old log-probs
are not the sampler's `forward.py`, what a resumed run needs `ppo_state.py`, what each metric means
`meters.py`, how a finished run is continued `continuation.py`.

With several processes each generates and scores its share of the rows; from then on all hold the
whole rollout, so whitening and metrics are those of one process, and only the rows of each
mini-batch are dealt out again. The main process alone writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from plumbrule.config import RuntimeConfig
from plumbrule.data.records import Prompt, read_records
from plumbrule.errors import ConfigError, DataError, TrainingError
from plumbrule.lm import distributed, fsdp
from plumbrule.lm.generation import generate
from plumbrule.lm.loading import Policy, resolve_device, save_policy
from plumbrule.protocols import Retriever
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact, write_json
from plumbrule.store.costs import cost_metrics
from plumbrule.timing import Stopwatch
from plumbrule.tracking.stage_tracker import Tracker, read_metrics
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.continuation import Start, start_of, write_end
from rlhf.ppo.measures.memory import Estimate, estimate_memory, free_memory
from rlhf.ppo.measures.metrics import (
    consistency,
    objective_metrics,
    require_finite,
    time_metrics,
    update_metrics,
    warn_if_inconsistent,
)
from rlhf.ppo.measures.throughput import (
    flops_of,
    matmul_rate,
    num_actions,
    time_table,
    work_per_token,
)
from rlhf.ppo.models import gather_full_model, load_actors, make_value_model, on_stem, shard_models
from rlhf.ppo.objective import kl_coef_in_loss, shape
from rlhf.ppo.optimisation.weight_average import AveragedWeights
from rlhf.ppo.ptx import read_demonstrations
from rlhf.ppo.rollout import parquet as rollouts
from rlhf.ppo.rollout.evaluation import compute_precision, evaluate
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.prompts import ask, batch_of, prompts_that_fit
from rlhf.ppo.rollout.samples import sample_rows, write_rows
from rlhf.ppo.rollout.trajectory import Sampler, roll_out
from rlhf.ppo.shared_trunk import Reference
from rlhf.ppo.state import Control, load_state, save_state, state_of
from rlhf.ppo.step import Learner, make_learner, ppo_step, set_learning_rates
from rlhf.ppo.stopping import kl_limit, next_control
from rlhf.ppo.value_model import save_value_model
from rlhf.rewards.accuracy_gate import check_report_cards
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.http_scorer import note_on
from rlhf.rewards.terms import open_terms, reward_models, score_terms

HEADLINES = (
    "objective/kl",
    "objective/scores",
    "objective/rlhf_reward",
    "objective/entropy",
    "val/num_eos_tokens",
    "val/response_length_tokens",
    "ppo/updates",
)
"""Metrics of the last update that `run` returns."""


def run(
    config: PPOConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
    sampler: Sampler = generate,
) -> Mapping[str, float]:
    """Train a policy against the reward; return headline metrics of the last update.

    Args: sampler: answers the rollouts' queries.
    Raises: ConfigError: settings and inputs that do not go together. TrainingError: NaN or Inf in
    a score, a loss or a gradient; the rollout is kept beside the checkpoints.
    """
    device = resolve_device(runtime)
    check_inputs(config, inputs)
    limit = kl_limit(config, inputs)
    if "rm" in config.reward.weights:
        check_report_cards(config.require_rm, reward_models(inputs))
    scorers = open_terms(config.reward, inputs, runtime, out / "replies")
    actors = load_actors(config, inputs, device)
    policy, reference = actors.policy, actors.reference
    value_model = make_value_model(config, actors, inputs)
    sharded = shard_models(actors, value_model, runtime)
    learner = make_learner(policy, value_model, config, actors.reader)
    if runtime.gradient_checkpointing:
        learner.checkpoint_activations()
    retriever = open_retriever(config, inputs)
    prompts, num_too_long = read_prompts(inputs["prompts"].file("records.jsonl"), policy, config)
    policy.check_chats(read_held_out(inputs))  # they are answered when all is trained
    demonstrations = None
    if config.ptx.coef > 0:
        demonstrations = read_demonstrations(inputs["demonstrations"].file("records.jsonl"), policy)
    start = start_of(config, inputs, learner)
    end = start.updates + config.num_updates
    average = None
    if config.ema_decay is not None:
        average = AveragedWeights(policy.model, config.ema_decay)
        average.load(start.average or {})
    begun, control = resume(out, learner, average, start, tracker)

    if begun < end and not sharded:  # the probe's passes are one process's own
        first = [prompts[number] for number in batch_of(len(prompts), config, begun + 1)]
        rows = [query.tokens for query in ask(policy, first, retriever, config, begun + 1)]
        tracker.say(
            describe_estimate(estimate_memory(actors, learner, rows, config, runtime), device)
        )

    with tracker.progress(config.num_updates * config.batch_size, "ppo", "episodes") as progress:
        progress.skip((begun - start.updates) * config.batch_size)
        for update in range(begun + 1, end + 1):
            if control.stopped:
                break
            watch = Stopwatch()
            set_learning_rates(learner, config, update - start.updates)

            with fsdp.unsharded(*learner.models.values(), reference.policy.model):
                # 1 Generate.
                with watch("generate"), compute_precision(config.precision, device):
                    asked = [prompts[number] for number in batch_of(len(prompts), config, update)]
                    queries = ask(policy, asked, retriever, config, update)
                    trajectory = roll_out(
                        policy, queries, config.sampling, len(asked), config.score_at, sampler
                    )
                    trajectory = on_stem(trajectory, actors.stem, runtime.micro_batch_size)

                # 2 Score: the text, then the tokens.
                with watch("score"):
                    terms = score_terms(scorers, trajectory, asked)
                with watch("forward"):
                    seen = evaluate(
                        trajectory,
                        actors.reader,
                        reference.reader,
                        learner.value_model,
                        temperature=config.sampling.temperature,
                        precision=config.precision,
                        micro_batch_size=runtime.micro_batch_size,
                        ref_context=reference.context,
                    )

            gap = consistency(trajectory.rollout_logprobs, seen.logprobs, trajectory.action_mask)

            # 3 Shape, and 4 Advantages.
            rollout = shape(trajectory, seen, terms, config, control.kl_coef)

            # 5 Learn.
            with watch("update"), kept_on_failure(rollout, out / "checkpoints", update):
                require_finite(rollout, update)
                stats = ppo_step(
                    learner,
                    rollout,
                    config,
                    update,
                    runtime.micro_batch_size,
                    kl_coef_in_loss(config, control.kl_coef),
                    demonstrations,
                )
            if average is not None:
                average.add(policy.model)
            metrics = {
                **objective_metrics(rollout, config.reward, config.kl.estimator),
                **update_metrics(stats),
                "objective/kl_coef": control.kl_coef,
                "val/logprob_gap_max": gap.largest,
                "val/logprob_gap_mean": gap.mean,
                **{f"lr/{group['name']}": group["lr"] for group in learner.optimizer.param_groups},
                **time_metrics(watch, config.batch_size),
                "ppo/updates": float(update - start.updates),
                "time/ppo_seconds": control.metrics.get("time/ppo_seconds", 0.0) + watch.total(),
            }

            # 6 Control.
            control = next_control(control, metrics, config, limit)

            # 7 Keep.
            if distributed.is_main():
                rollouts.write(rollout, rollouts.path_of(out / "rollouts", update))
            warn_if_inconsistent(gap, config.precision, update)
            tracker.log(metrics, update)
            last = update == end or bool(control.stopped)
            if last or update % config.save_every == 0:
                checkpoint(out, learner, average, control, update)
            shown = {"score": metrics["objective/scores"], "kl": metrics["objective/kl"]}
            progress.advance(config.batch_size, **shown)

    kept = state_of(learner, average) if config.keep_state else None
    if distributed.is_main():  # before the average takes the weights' place
        done = start.updates + int(control.metrics["ppo/updates"])
        write_end(out, done, control, kept)
    costs: dict[str, float] = {}
    if average is not None:
        average.put_into(policy.model)
    if sharded:
        actors, learner = gather_full_model(config, inputs, device, learner)
    if distributed.is_main():
        notes = notes_on(num_too_long, control, config.reward)
        work = work_per_token(actors, learner, config)
        rate = matmul_rate(device, config.precision)
        logged = read_metrics(out)
        table = time_table(logged, work, config, rate, distributed.world_size())
        costs = cost_metrics(
            generated_tokens=num_actions(logged, config),
            training_flops=flops_of(logged, work, config),
        )
        write_json(out / "tables.json", [table] if table else [])
        publish(out, learner, actors.reference, retriever, inputs, config, notes, tracker)
    distributed.barrier()
    metrics = control.metrics
    episodes = metrics["ppo/updates"] * config.batch_size
    return {
        **{name: metrics[name] for name in HEADLINES},
        **{name: value for name, value in metrics.items() if name.startswith("reward/")},
        **costs,
        "ppo/episodes": episodes,
        "ppo/episodes_per_second": episodes / metrics["time/ppo_seconds"],
    }


def check_inputs(config: PPOConfig, inputs: Mapping[str, Artifact]) -> None:
    """Raise ConfigError where an option needs an input that the node has not."""
    if config.ptx.coef > 0 and "demonstrations" not in inputs:
        raise ConfigError(
            f"ppo.ptx.coef (={config.ptx.coef}) must be 0 without an input demonstrations; add "
            "nodes.ppo.inputs.demonstrations=demonstrations."
        )


def describe_estimate(expected: Estimate, device: torch.device) -> str:
    """Return a line on what an update will take, with a way out where it is more than there is."""
    free = free_memory(device)
    if expected.fits and (free is None or expected.memory_bytes <= free + expected.held_bytes):
        return f"ppo  {expected}"
    there = (
        "" if free is None else f", and {(free + expected.held_bytes) / 2**30:.2g} GiB are there"
    )
    return (
        f"ppo  {expected}{there}: lower runtime.micro_batch_size, or set "
        "runtime.gradient_checkpointing=true, ppo.adapter.rank or ppo.unfrozen_layers"
    )


def notes_on(num_too_long: int, control: Control, reward: RewardConfig) -> list[str]:
    """Return what a reader of the report should know first."""
    notes = [control.stopped] if control.stopped else []
    notes += note_on(reward)
    if num_too_long:
        notes.append(f"{num_too_long} prompts were left out: they leave no room for a response.")
    return notes


def open_retriever(config: PPOConfig, inputs: Mapping[str, Artifact]) -> Retriever | None:
    """Return the index as a Retriever where some prompts are shown passages, else None."""
    if config.retrieval.share > 0 and "index" in inputs:
        return inputs["index"].open(method=config.retrieval.method)
    return None


def read_prompts(path: Path, policy: Policy, config: PPOConfig) -> tuple[list[Prompt], int]:
    """Return the prompts in `path` that leave room for a response, and how many do not.

    Raises: DataError: none does, or the chat template refuses one.
    """
    every = read_records(Prompt, path)
    policy.check_chats(every)
    response_tokens = config.sampling.max_new_tokens
    kept = prompts_that_fit(policy, every, response_tokens)
    if not kept:
        raise DataError(
            f"prompts (={len(every)} rows) must hold one that fits the context (="
            f"{policy.spec.context} tokens) with a response of {response_tokens} tokens.",
            path,
        )
    return kept, len(every) - len(kept)


def read_held_out(inputs: Mapping[str, Artifact]) -> list[Prompt]:
    """Return the held-out prompts, of which the first are shown with answers."""
    return read_records(Prompt, inputs["prompts"].file("validation.jsonl"))


def resume(
    out: Path,
    learner: Learner,
    average: AveragedWeights | None,
    start: Start,
    tracker: Tracker,
) -> tuple[int, Control]:
    """Load the newest checkpoint and forget what came after it; return its update and control.

    Without one, those of the start.
    """
    newest = checkpoints.newest(out / "checkpoints")
    update, control = start.updates, start.control
    if newest is not None:
        update, control = newest[0], load_state(newest[1], learner, average)
    distributed.barrier()  # nobody writes before everybody has read
    tracker.rewind(update)
    if distributed.is_main():
        rollouts.remove_after(out / "rollouts", update)
    return update, control


def checkpoint(
    out: Path, learner: Learner, average: AveragedWeights | None, control: Control, update: int
) -> None:
    """Save everything as it is after `update`."""
    state = state_of(learner, average)
    if distributed.is_main():
        checkpoints.save(out / "checkpoints", update, lambda path: save_state(path, state, control))
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
    reference: Reference,
    retriever: Retriever | None,
    inputs: Mapping[str, Artifact],
    config: PPOConfig,
    notes: list[str],
    tracker: Tracker,
) -> None:
    """Write the policy, the value model, samples before and after, and notes."""
    policy = learner.policy
    policy.spec = dataclasses.replace(policy.spec, temperature=config.sampling.temperature)
    save_policy(policy, out / "model")
    if learner.value_model is not None:
        save_value_model(learner.value_model, out / "value")
    held_out = prompts_that_fit(policy, read_held_out(inputs), config.sampling.max_new_tokens)[
        : config.num_samples
    ]
    rows = sample_rows(policy, reference, held_out, retriever, config)
    write_rows(rows, out / "samples.jsonl")
    if rows:
        tracker.table("ppo/samples", list(rows[0]), [list(row.values()) for row in rows])
    write_json(out / "notes.json", notes)
