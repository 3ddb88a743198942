"""Stage `ppo`: proximal policy optimisation of an SFT policy against a reward, top to bottom.

For each update:

1. Generate. The policy answers prompts, `batch_size` responses.   -> Trajectory
2. Score. Reward terms judge the text; policy, reference and
   value model read the tokens.                                    -> scores (b,), log-probs, values
3. Shape. A KL penalty per token, the score at the last step.      -> rewards (b, t)
4. Advantages. GAE, whitened over the rollout, or group baselines. -> advantages, returns (b, t)
5. Learn. `num_ppo_epochs * num_mini_batches` optimizer steps.     -> PPOStats
6. Control. The KL coefficient of the next update, and whether there is one.
7. Keep. The rollout's file, the metrics, every few updates a checkpoint.

With `ppo.staleness` the text of an update is generated and scored one update ahead, so before the
policy that learns from it has taken the update between; a schedule that a trainer beside an engine
would have, without its overlap.

What is decided where: settings `config.py`, what of them each step reads `update_settings.py`,
what a batch is made of `rollout/batches.py` and `rollout/dynamic_sampling.py`,
steps 3 and 4 `objective.py`, the order of reward transforms `rlhf/rewards/transforms.py`, KL
estimators and their control `kl.py`, gaps and truncation `advantages.py`, losses `losses.py`, the
loop over mini-batches `step.py`, where values are read `value_model.py`, what is loaded and shared
`models.py` and `shared_trunk.py`, why the old log-probs are not the sampler's
`rollout/evaluation.py`, what a resumed run needs `state.py`, what is written at the end
`publishing.py`, what each metric means `measures/metrics.py`, how a finished run is continued
`continuation.py`.

With several processes each generates and scores its share of the rows; from then on all hold the
whole rollout, so whitening and metrics are those of one process, and only the rows of each
mini-batch are dealt out again. The main process alone writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from plumbrule.errors import ConfigError
from plumbrule.inputs import Inputs
from plumbrule.lm.cost_metrics import cost_metrics
from plumbrule.lm.loading import resolve_device
from plumbrule.lm.parallel import distributed, fsdp
from plumbrule.lm.sizes.lengths import describe_lengths
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CHECKPOINTS, RECORDS, REPLIES, ROLLOUTS, TABLES
from plumbrule.store.json_files import write_json
from plumbrule.store.metric_rows import read_metrics
from plumbrule.timing import Stopwatch
from rlhf.masked import masked_mean
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.continuation import start_of, write_end
from rlhf.ppo.kl import kl_weights, next_kl_coefficient
from rlhf.ppo.measures.memory import describe_estimate, estimate_memory
from rlhf.ppo.measures.metrics import (
    SAMPLED,
    consistency,
    objective_metrics,
    require_finite,
    sampling_metrics,
    time_metrics,
    update_metrics,
    warn_if_inconsistent,
    warn_of_large_returns,
)
from rlhf.ppo.measures.searches import search_metrics
from rlhf.ppo.measures.throughput import (
    flops_of,
    matmul_rate,
    num_actions,
    num_trained,
    time_table,
    work_per_token,
)
from rlhf.ppo.models import (
    assemble_learner,
    gather_full_model,
    load_actors,
    load_teacher,
    make_value_model,
    shard_models,
    with_frozen_states,
)
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.entropy import entropy_weight, next_entropy_coefficient
from rlhf.ppo.optimisation.learner import learning_rates, set_learning_rates
from rlhf.ppo.optimisation.weight_average import AveragedWeights
from rlhf.ppo.ptx import PTX, read_demonstrations
from rlhf.ppo.publishing import notes_on, publish
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.batches import draw_batch
from rlhf.ppo.rollout.evaluation import compute_precision, evaluate
from rlhf.ppo.rollout.parquet import kept_on_failure
from rlhf.ppo.rollout.prompts import ask, batch_of, read_held_out, read_prompts
from rlhf.ppo.rollout.samplers import open_sampler, open_searcher
from rlhf.ppo.rollout.teacher import teacher_logprobs
from rlhf.ppo.rollout.trajectory import Sampler
from rlhf.ppo.state import LoopState, checkpoint, resume, state_of
from rlhf.ppo.step import ppo_step
from rlhf.ppo.stopping import kl_limit, stop_reason
from rlhf.ppo.update_settings import (
    draw_settings,
    loss_settings,
    shaping_settings,
    step_settings,
)
from rlhf.rewards.accuracy_gate import check_report_cards
from rlhf.rewards.functions import check_prompts
from rlhf.rewards.terms import open_terms

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
    sampler: Sampler | None = None,
) -> Mapping[str, float]:
    """Train a policy against the reward; return headline metrics of the last update.

    Args: sampler: answers the rollouts' queries; None: the one that `config.sampler` names.
    Raises: ConfigError: settings and inputs that do not go together. DataError: a prompt that a
    reward term cannot score. TrainingError: NaN or Inf in a score, a loss or a gradient; the
    rollout is kept beside the checkpoints.
    """
    given, device = Inputs(inputs), resolve_device(runtime)
    check_inputs(config, inputs)
    study = inputs["overoptimisation"] if config.stop_at is not None else None
    limit = kl_limit(config.early_stop.run_kl, study, config.stop_series)
    if "rm" in config.reward.weights:
        check_report_cards(config.require_rm, given.many("rm"))
    scorers = open_terms(config.reward, inputs, runtime, out / REPLIES)
    actors = load_actors(config, inputs, device)
    policy, reference = actors.policy, actors.reference
    teacher = load_teacher(config, inputs, policy)
    value_model = make_value_model(config, actors, inputs)
    sharded = shard_models(actors, value_model, runtime)
    learner = assemble_learner(config, actors, value_model)
    if runtime.gradient_checkpointing:
        learner.checkpoint_activations()
    retriever = None
    if config.retrieval.share > 0:
        retriever = given.retriever("index", config.retrieval.method, runtime)
    searcher = open_searcher(config, given, runtime, sampler)
    response_tokens = config.most_response_tokens
    prompts, lengths = read_prompts(inputs["prompts"].file(RECORDS), policy, response_tokens)
    check_prompts(config.reward.weights, prompts)
    num_too_long = len(lengths) - len(prompts)
    policy.check_chats(read_held_out(inputs))  # they are answered when all is trained
    ptx = None
    if config.ptx.coef > 0:
        path = inputs["demonstrations"].file(RECORDS)
        ptx = PTX(read_demonstrations(path, policy), config.ptx.coef, config.ptx.batch_size)
    targets = {"kl_coef": config.kl.target, "entropy_coef": config.entropy.target}
    steered = [name for name, target in targets.items() if target is not None]
    first = LoopState(config.kl.coef, entropy_coef=config.entropy.coef)
    start = start_of(inputs, learner, first, steered)
    end = start.updates + config.num_updates
    average = None
    if config.ema_decay is not None:
        average = AveragedWeights(policy.model, config.ema_decay)
        average.load(start.average or {})
    rows_of = partial(
        batch_of,
        len(prompts),
        batch_size=config.batch_size,
        samples_per_prompt=config.samples_per_prompt,
        seed=config.seed,
    )
    queries_of = partial(
        ask,
        policy,
        retriever=retriever,
        retrieval=config.retrieval,
        seed=config.seed,
        max_new_tokens=response_tokens,
    )
    rates_of = partial(
        learning_rates,
        num_updates=config.num_updates,
        learning_rate=config.learning_rate,
        value_learning_rate=config.value_learning_rate,
        warmup_share=config.warmup_share,
        schedule=config.lr_scheduler_type,
    )
    begun, control, ahead = resume(out, learner, average, start.control, start.updates, tracker)

    if begun < end and not sharded:  # the probe's passes are one process's own
        probed = [prompts[number] for number in rows_of(begun + 1)]
        rows = [query.tokens for query in queries_of(probed, begun + 1)]
        expected = estimate_memory(
            actors,
            learner,
            rows,
            replace(config.sampling, max_new_tokens=response_tokens),
            micro_batch_size=runtime.micro_batch_size,
            num_ppo_epochs=config.num_ppo_epochs,
            precision=config.precision,
            averaged=config.ema_decay is not None,
            teacher=teacher,
        )
        tracker.say(describe_estimate(expected, device))
    if begun < end and distributed.is_main():
        most = policy.spec.context - response_tokens
        tracker.say(f"ppo  {describe_lengths('prompts', lengths, most, num_too_long)}")

    with (
        open_sampler(config.sampler, config.precision, runtime, sampler) as engine,
        tracker.progress(config.num_updates * config.batch_size, "ppo", "episodes") as progress,
    ):
        progress.skip((begun - start.updates) * config.batch_size)
        draw = partial(
            draw_batch,
            policy,
            prompts,
            rows_of=rows_of,
            queries_of=queries_of,
            scorers=scorers,
            sampler=engine.answer,
            settings=draw_settings(config),
            searcher=searcher,
        )
        for update in range(begun + 1, end + 1):
            if control.stopped:
                break
            watch = Stopwatch()
            set_learning_rates(learner.optimizer, rates_of(update - start.updates))

            with fsdp.unsharded(*learner.models.values(), reference.policy.model):
                # 1 Generate, and score the text: this update's unless it was done ahead.
                behind = 0 if ahead is None else config.staleness
                batch, ahead = ahead or draw(update, watch=watch), None
                if config.staleness and update < end:
                    ahead = draw(update + 1, watch=watch)
                with watch("generate"), compute_precision(config.precision, device):
                    trajectory = with_frozen_states(
                        batch.trajectory, actors.frozen_layers, runtime.micro_batch_size
                    )

                # 2 Score the tokens.
                with watch("forward"):
                    outputs = evaluate(
                        trajectory,
                        actors.reader,
                        reference.reader,
                        learner.value_model,
                        temperature=config.sampling.temperature,
                        precision=config.precision,
                        micro_batch_size=runtime.micro_batch_size,
                        ref_context=reference.context,
                    )
                    if teacher is not None:
                        taught = teacher_logprobs(
                            trajectory,
                            teacher,
                            temperature=config.sampling.temperature,
                            precision=config.precision,
                            micro_batch_size=runtime.micro_batch_size,
                        )
                        outputs = outputs._replace(teacher_logprobs=taught)

            gap = consistency(trajectory.rollout_logprobs, outputs.logprobs, trajectory.action_mask)

            # 3 Shape, and 4 Advantages.
            kl = kl_weights(control.kl_coef, config.kl.where)
            shaping = shaping_settings(config, kl.in_reward)
            rollout = shape(trajectory, outputs, batch.terms, shaping)

            entropy = float(masked_mean(rollout.entropy, trajectory.action_mask))
            bonus = entropy_weight(control.entropy_coef, entropy, config.entropy.target)

            # 5 Learn.
            with watch("update"), kept_on_failure(rollout, out / CHECKPOINTS, update):
                require_finite(rollout, update)
                stats = ppo_step(
                    learner,
                    rollout,
                    update,
                    step_settings(config),
                    loss_settings(config, kl.in_loss, bonus),
                    runtime.micro_batch_size,
                    ptx,
                )
            if average is not None:
                average.add(policy.model)
            metrics = {
                **objective_metrics(rollout, config.reward, config.kl.estimator),
                **search_metrics(trajectory),
                **update_metrics(stats),
                "objective/kl_coef": control.kl_coef,
                "objective/entropy_coef": bonus,
                "val/logprob_gap_max": gap.largest,
                "val/logprob_gap_mean": gap.mean,
                "val/ratio_out_of_band": gap.out_of_band,
                **{f"lr/{group['name']}": group["lr"] for group in learner.optimizer.param_groups},
                **time_metrics(watch, config.batch_size),
                "ppo/updates": float(update - start.updates),
                "time/ppo_seconds": control.metrics.get("time/ppo_seconds", 0.0) + watch.total(),
            }

            # 6 Control.
            measured = metrics["objective/kl"]
            stopped = stop_reason(measured, limit, update - start.updates, config.num_updates)
            unused = ahead if stopped else None  # it will not be trained on
            staleness = behind if config.staleness else None
            metrics |= sampling_metrics(batch, unused, staleness, control.metrics)
            control = LoopState(
                next_kl_coefficient(
                    control.kl_coef,
                    measured,
                    config.kl.target,
                    config.kl.horizon,
                    config.batch_size,
                ),
                stopped,
                metrics,
                next_entropy_coefficient(
                    control.entropy_coef, entropy, config.entropy.target, config.entropy.step
                ),
            )

            # 7 Keep.
            if distributed.is_main():
                path = parquet.path_of(out / ROLLOUTS, update)
                parquet.write(rollout, path, engine.name, staleness=behind)
            if not behind:  # an older policy's log-probs are others
                warn_if_inconsistent(gap, config.precision, update)
            if update == start.updates + 1 and config.has_value_model:
                warn_of_large_returns(rollout.returns, trajectory.step_mask, update)
            tracker.log(metrics, update)
            last = update == end or bool(control.stopped)
            if last or update % config.save_every == 0:
                checkpoint(out, learner, average, control, update, None if stopped else ahead)
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
        work = work_per_token(actors, learner, config.num_ppo_epochs, teacher)
        rate = matmul_rate(device, config.precision)
        logged = read_metrics(out)
        notes = notes_on(num_too_long, control, config, engine.name, logged)
        table = time_table(logged, work, config.batch_size, rate, distributed.world_size())
        costs = cost_metrics(
            generated_tokens=num_actions(logged, config.batch_size),
            training_tokens=num_trained(logged, config.batch_size, config.num_ppo_epochs),
            training_flops=flops_of(logged, work, config.batch_size, config.samples_per_prompt),
        )
        write_json(out / TABLES, [table] if table else [])
        publish(out, learner, actors.reference, retriever, searcher, inputs, config, notes, tracker)
    distributed.barrier()
    metrics = control.metrics
    episodes = metrics["ppo/updates"] * config.batch_size
    return {
        **{name: metrics[name] for name in HEADLINES},
        **{name: value for name, value in metrics.items() if name.startswith("reward/")},
        **{name: metrics[name] for name in (SAMPLED,) if name in metrics},
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
