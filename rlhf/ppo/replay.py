"""What a kept run would have looked like under another reward or other settings, without sampling.

A rollout's file holds all that its update was computed from, so three questions can be answered
afterwards, for every update or a few:

1. Score. What would another reward have given these very responses?
2. Shape. What rewards, advantages and returns follow under other settings (kl, gamma, lam,
   whitening, clipping of scores)?
3. Learn. What losses, ratios and gradients does the first update have? Its policy is the input's,
   so it is trained again, under other settings of the losses if wanted. Later updates began from
   weights that nobody kept, and so did all of a run that continues another: none is trained.

With nothing changed, all of it equals the run's own log, to the last digit on the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from plumbrule.data.records import Prompt, read_records
from plumbrule.errors import ArtifactError, ConfigError
from plumbrule.lm.loading import resolve_device
from plumbrule.rounding import is_rounding, precision_of
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import spearman
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import METRIC_ROWS, RECORDS, ROLLOUTS
from plumbrule.store.metric_rows import read_metrics
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.kl import kl_weights
from rlhf.ppo.measures.metrics import objective_metrics, update_metrics
from rlhf.ppo.models import assemble_learner, load_actors, make_value_model, with_frozen_states
from rlhf.ppo.objective import shape
from rlhf.ppo.optimisation.learner import learning_rates, set_learning_rates
from rlhf.ppo.ptx import PTX, read_demonstrations
from rlhf.ppo.rollout import parquet
from rlhf.ppo.rollout.evaluation import Evaluation, compute_precision
from rlhf.ppo.rollout.score import score_terms
from rlhf.ppo.step import ppo_step
from rlhf.ppo.update_settings import loss_settings, shaping_settings, step_settings
from rlhf.rewards.terms import open_terms


def replay(
    config: PPOConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    folder: Path,
    updates: Sequence[int] | None = None,
    rescore: bool = False,
) -> list[tuple[int, dict[str, float], dict[str, float]]]:
    """Return (update, metrics of the run's log, metrics now) of each update that is replayed.

    Args: config: the run's, or a changed one. inputs: the run's. folder: its artifact. updates:
    which; None: all. rescore: ask the reward again rather than take the scores in the file.
    Raises: ArtifactError: the folder holds no such rollout. ConfigError: a term is weighed that the
    file has no scores of, and `rescore` is off.
    """
    device = resolve_device(runtime)
    artifact = Artifact.at(folder)
    logged = {}
    if artifact.has(METRIC_ROWS):
        rows = read_metrics(artifact.file(METRIC_ROWS).parent)
        logged = {int(row["update"]): row for row in rows}
    prompts: dict[str, Prompt] = {}
    scorers = {}
    if rescore:
        scorers = open_terms(config.reward, inputs, runtime)
        prompts = {p.id: p for p in read_records(Prompt, inputs["prompts"].file(RECORDS))}
    found = []
    for update in updates or sorted(logged):
        name = str(parquet.path_of(Path(ROLLOUTS), update))
        if update not in logged or not artifact.has(name):
            raise ArtifactError(f"{folder} has no rollout of update {update}; name another one.")
        kept = parquet.read(artifact.file(name), device)
        trajectory, terms = kept.trajectory, kept.terms
        if rescore:
            terms = score_terms(scorers, trajectory, [prompts[i] for i in trajectory.prompt_ids])
        missing = sorted(set(config.reward.weights) - set(terms))
        if missing:
            raise ConfigError(
                f"reward.terms (={missing}) must be among those of the run "
                f"(={sorted(terms)}) unless they are scored again; pass --reward."
            )
        if config.distill.coef and kept.teacher_logprobs is None:
            raise ConfigError(
                f"ppo.distill.coef (={config.distill.coef}) must be 0 for a run that had no "
                "teacher, of which its rollouts hold nothing; leave it out."
            )
        outputs = Evaluation(
            kept.logprobs, kept.ref_logprobs, kept.values, kept.entropy, kept.teacher_logprobs
        )
        steered = config.kl.target is not None  # else the coefficient is the config's throughout
        coef = logged[update]["objective/kl_coef"] if steered else config.kl.coef
        kl = kl_weights(coef, config.kl.where)
        shaped = shape(trajectory, outputs, terms, shaping_settings(config, kl.in_reward))
        now = objective_metrics(shaped, config.reward, config.kl.estimator)
        before, after = (x.raw_scores.cpu().numpy() for x in (kept, shaped))
        now["replay/score_rank_correlation"] = float(spearman(before, after))
        before, after = (x.advantages[trajectory.action_mask].cpu().numpy() for x in (kept, shaped))
        now["replay/advantage_correlation"] = _correlation(before, after, "float32")
        if update == 1:
            actors = load_actors(config, inputs, device)
            value_model = make_value_model(config, actors, inputs)
            learner = assemble_learner(config, actors, value_model)
            with compute_precision(config.precision, device):
                read = with_frozen_states(
                    shaped.trajectory, actors.frozen_layers, runtime.micro_batch_size
                )
            shaped = shaped._replace(trajectory=read)
            rates = learning_rates(
                update,
                config.num_updates,
                learning_rate=config.learning_rate,
                value_learning_rate=config.value_learning_rate,
                warmup_share=config.warmup_share,
                schedule=config.lr_scheduler_type,
            )
            set_learning_rates(learner.optimizer, rates)
            ptx = None
            if config.ptx.coef > 0:
                path = inputs["demonstrations"].file(RECORDS)
                demonstrations = read_demonstrations(path, actors.policy)
                ptx = PTX(demonstrations, config.ptx.coef, config.ptx.batch_size)
            stats = ppo_step(
                learner,
                shaped,
                update,
                step_settings(config),
                loss_settings(config, kl.in_loss, logged[update].get("objective/entropy_coef")),
                runtime.micro_batch_size,
                ptx,
            )
            now |= update_metrics(stats)
        found.append((update, logged[update], now))
    return found


def _correlation(x: np.ndarray, y: np.ndarray, precision: str | None = None) -> float:
    """Return Pearson's correlation of two (n,), NaN where one of them varies by rounding alone.

    Args: precision: in which both were computed; None: that of their dtypes.
    """
    for values in (x, y):
        largest = np.abs(values).max()
        if is_rounding(
            values.astype(np.float64).std(), largest, precision or precision_of(values.dtype)
        ):
            return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
