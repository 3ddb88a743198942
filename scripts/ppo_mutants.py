"""Mutants of the details of PPO, for `scripts/mutate.py`: one wrong line each, or a few.

Each is a wrong PPO that somebody has published, or nearly did. `rlhf/ppo/details.toml` says what is
right, and the tests that are marked with the detail's number must notice.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A patch that must match once, and what it makes of a detail, or in which area it is."""

    detail: int | str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    """Of which one must fail; (): those that are marked with the detail."""


MUTANTS = [
    Mutant(
        1,
        "the reward model does not read the passages",
        "rlhf/reward_model/model.py",
        "prompt = self.policy.encode(messages, passages)",
        "prompt = self.policy.encode(messages)",
    ),
    Mutant(
        2,
        "the mask is made of ids",
        "plumbrule/lm/logprobs.py",
        "return torch.from_numpy(tokens), torch.from_numpy(mask)",
        "return torch.from_numpy(tokens), torch.from_numpy(tokens != pad_id)",
    ),
    Mutant(
        3,
        "prompts are padded on the right to sample",
        "plumbrule/lm/generation/kv_cache.py",
        'pad_rows(list(order), pad_id, side="left")',
        'pad_rows(list(order), pad_id, side="right")',
    ),
    Mutant(
        4,
        "positions count padding",
        "plumbrule/lm/logprobs.py",
        "return (real_mask.long().cumsum(-1) - 1).clamp(min=0)",
        "return torch.ones_like(real_mask).long().cumsum(-1) - 1",
    ),
    Mutant(
        5,
        "prompts without room are kept",
        "rlhf/ppo/rollout/prompts.py",
        "return [p for p in prompts if fits(policy, p.messages, (), max_new_tokens)]",
        "return list(prompts)",
    ),
    Mutant(
        6,
        "a response begins without its prefix",
        "plumbrule/lm/policy.py",
        "encode_text(self.tokenizer, self.spec.response_prefix + text.strip())",
        "encode_text(self.tokenizer, text.strip())",
    ),
    Mutant(
        7,
        "top-k of 50",
        "plumbrule/lm/generation/token_sampling.py",
        "weights = scaled.sub_(top).exp_()",
        "weights = scaled.sub_(top).exp_()\n"
        "    least = weights.topk(min(50, weights.shape[-1])).values[..., -1:]\n"
        "    weights = torch.where(weights < least, 0.0, weights)",
    ),
    Mutant(
        8,
        "the reference is read at temperature 1",
        "rlhf/ppo/rollout/evaluation.py",
        "ref = action_logprobs(ref_policy.model, inputs, temperature)",
        "ref = action_logprobs(ref_policy.model, inputs, 1.0)",
    ),
    Mutant(
        9,
        "rows that stay get the random numbers of those that left",
        "plumbrule/lm/generation/sampler.py",
        "sampling.temperature, draws[rows, t])",
        "sampling.temperature, draws[: len(rows), t])",
    ),
    Mutant(
        10,
        "old_logprobs is not read",
        "rlhf/ppo/objective.py",
        'if settings.old_logprobs == "rollout":',
        'if settings.old_logprobs == "sampler":',
    ),
    Mutant(
        10,
        "old log-probs are taken at a temperature one percent off",
        "rlhf/ppo/rollout/evaluation.py",
        "new, entropy = action_scores(policy.model, inputs, temperature, hidden)",
        "new, entropy = action_scores(policy.model, inputs, 1.01 * temperature, hidden)",
    ),
    Mutant(
        11,
        "the stop token is no action",
        "plumbrule/lm/generation/sampler.py",
        "torch.where(gone, lengths[rows], t + 1)",
        "torch.where(gone | torch.isin(picked, stops), lengths[rows], t + 1)",
    ),
    Mutant(
        12,
        "the penalty replaces the score",
        "rlhf/rewards/transforms.py",
        "return torch.where(finished, scores, scores - penalty)",
        "return torch.where(finished, scores, torch.full_like(scores, -penalty))",
    ),
    Mutant(
        13,
        "any reward model is taken",
        "rlhf/rewards/ensemble.py",
        'if stats.get("append_terminal") is not True:',
        'if "append_terminal" not in stats:',
    ),
    Mutant(
        14,
        "the score is read as if all padding were on the right",
        "rlhf/reward_model/model.py",
        "return torch.where(real_mask, positions, -1).amax(dim=1)",
        "return real_mask.sum(dim=1) - 1",
    ),
    Mutant(
        15,
        "the KL is paid, not charged",
        "rlhf/rewards/transforms.py",
        "rewards = fill(-penalties, action_mask)",
        "rewards = fill(penalties, action_mask)",
    ),
    Mutant(
        16,
        "score_at=after lands on the last token all the same",
        "rlhf/rewards/transforms.py",
        "last = last_step(step_mask)[:, None]",
        "last = last_step(action_mask)[:, None]",
    ),
    Mutant(
        17,
        "k1 is clamped at 0",
        "rlhf/ppo/kl.py",
        "return fill(logprobs - ref_logprobs, action_mask)",
        "return fill(logprobs - ref_logprobs, action_mask).clamp(min=0)",
    ),
    Mutant(
        17,
        "a token of k3 is charged what it says",
        "rlhf/ppo/kl.py",
        "return (torch.expm1(-bounded) + bounded).clamp(max=LARGEST_K3)",
        "return torch.expm1(-bounded) + bounded",
    ),
    Mutant(
        18,
        "the KL in the loss is that of the policy that sampled",
        "rlhf/ppo/kl.py",
        "return loss if ratio is None else ratio * loss",
        "return loss",
    ),
    Mutant(
        18,
        "the loss has the estimator's own gradient",
        "rlhf/ppo/kl.py",
        'slope = estimate(logprobs, ref_logprobs, action_mask, "k2")',
        "slope = estimate(logprobs, ref_logprobs, action_mask, estimator)",
    ),
    Mutant(
        19,
        "the coefficient counts updates, not episodes",
        "rlhf/ppo/kl.py",
        "return coef * (1.0 + error * num_episodes / horizon)",
        "return coef * (1.0 + error / horizon)",
    ),
    Mutant(
        19,
        "a horizon that turns the coefficient negative is taken",
        "rlhf/ppo/config.py",
        "self.kl.target is None or 5 * self.kl.horizon > self.batch_size,",
        "self.kl.target is None or self.kl.horizon > 0,",
    ),
    Mutant(
        19,
        "the coefficient is not saved",
        "rlhf/ppo/state.py",
        "return LoopState(**state)",
        'return LoopState(**{**state, "kl_coef": 0.02})',
    ),
    Mutant(
        20,
        "scores are not divided by their deviation",
        "rlhf/reward_model/model.py",
        "(raw.numpy().astype(np.float64) - stats.mean) / stats.std",
        "raw.numpy().astype(np.float64) - stats.mean",
    ),
    Mutant(
        21,
        "the score is clipped after the penalty",
        "rlhf/ppo/objective.py",
        "    clipped = clip_scores(raw_scores, settings.score_clip)\n"
        "    scores = penalise_unfinished(clipped, trajectory.finished, "
        "settings.missing_eos_penalty)\n",
        "    scores = clip_scores(\n"
        "        penalise_unfinished(\n"
        "            raw_scores, trajectory.finished, settings.missing_eos_penalty\n"
        "        ),\n"
        "        settings.score_clip,\n    )\n",
    ),
    Mutant(
        21,
        "the KL is added before the clip",
        "rlhf/ppo/objective.py",
        "    rewards = shape_rewards(scores, penalties, mask, steps)\n",
        "    rewards = clip_scores(\n"
        "        shape_rewards(scores, penalties, mask, steps), settings.score_clip\n    )\n",
    ),
    Mutant(
        22,
        "whitening shifts the rewards' mean",
        "rlhf/ppo/objective.py",
        "rewards = whiten(rewards, steps, shift_mean=False)",
        "rewards = whiten(rewards, steps)",
    ),
    Mutant(
        22,
        "Bessel's variance",
        "rlhf/masked.py",
        ".square(), mask) / _count(mask)",
        ".square(), mask) / (_count(mask) - 1)",
    ),
    Mutant(
        23,
        "the value does not carry over a gap",
        "rlhf/ppo/advantages.py",
        "next_value = torch.where(acts, values[:, position], next_value)",
        "next_value = torch.where(acts, values[:, position], 0.0)",
    ),
    Mutant(
        23,
        "lambda is left out",
        "rlhf/ppo/advantages.py",
        "advantage = delta + gamma * lam * next_advantage",
        "advantage = delta + gamma * next_advantage",
    ),
    Mutant(
        24,
        "whitened over padding",
        "rlhf/ppo/objective.py",
        "        advantages = whiten(advantages, mask)\n",
        "        advantages = whiten(advantages, mask | True)\n",
    ),
    Mutant(
        24,
        "whitened by each process over its own rows",
        "rlhf/ppo/objective.py",
        "        advantages = whiten(advantages, mask)\n",
        "        from plumbrule.lm.parallel.distributed import world_size\n\n"
        "        advantages = advantages.clone()\n"
        "        for rank in range(world_size()):\n"
        "            own = slice(rank, None, world_size())\n"
        "            advantages[own] = whiten(advantages[own], mask[own])\n",
    ),
    Mutant(
        24,
        "rounding is whitened",
        "rlhf/masked.py",
        "if bool(varies_by_rounding(x, mask)):",
        "if mask.ndim == 0:",
    ),
    Mutant(
        25,
        "returns are made of whitened advantages",
        "rlhf/ppo/objective.py",
        "return Advantages(fill(advantages, mask), returns)",
        "return Advantages(fill(advantages, mask), fill(advantages + values, steps))",
    ),
    Mutant(
        26,
        "masked positions are multiplied by 0",
        "rlhf/masked.py",
        "return torch.where(mask, x, torch.full((), value, dtype=x.dtype, device=x.device))",
        "return (x * mask + value * ~mask).to(x.dtype)",
    ),
    Mutant(
        27,
        "no clip",
        "rlhf/ppo/losses.py",
        "loss, is_clipped = torch.maximum(unclipped, clipped), clipped > unclipped",
        "loss, is_clipped = unclipped, clipped > unclipped",
    ),
    Mutant(
        27,
        "a mean over micro-batches",
        "rlhf/ppo/step.py",
        "losses.append(counts * (pg.loss.sum() + loss.kl_coef * kl.sum()) / num_tokens)",
        "share = len(part) / len(mine)\n"
        "            losses.append((pg.loss.sum() + loss.kl_coef * kl.sum()) / mask.sum() * share)",
    ),
    Mutant(
        28,
        "the log-ratio is not cut",
        "rlhf/ppo/losses.py",
        "ratio = log_ratio.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()",
        "ratio = log_ratio.exp()",
    ),
    Mutant(
        29,
        "the bound holds for positive advantages too",
        "rlhf/ppo/losses.py",
        "bound = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)",
        "bound = -advantages * dual_clip",
    ),
    Mutant(
        30,
        "the smaller of the two errors",
        "rlhf/ppo/losses.py",
        "loss = 0.5 * torch.maximum(unclipped, clipped)",
        "loss = 0.5 * torch.minimum(unclipped, clipped)",
    ),
    Mutant(
        31,
        "an entropy bonus",
        "rlhf/ppo/step.py",
        "losses.append(counts * (pg.loss.sum() + loss.kl_coef * kl.sum()) / num_tokens)",
        "bonus = 0.01 * (new.exp() * new)[mask].sum()\n"
        "            losses.append((pg.loss.sum() + loss.kl_coef * kl.sum() + bonus) / num_tokens)",
    ),
    Mutant(
        32,
        "the entropy's mean counts padding",
        "rlhf/ppo/measures/metrics.py",
        '"objective/entropy": masked_mean(rollout.entropy, mask),',
        '"objective/entropy": rollout.entropy.mean(),',
    ),
    Mutant(
        33,
        "the head begins at 1 / (d + 1), as a paper misprints it",
        "rlhf/reward_model/model.py",
        "1.0 / math.sqrt(width + 1)",
        "1.0 / (width + 1)",
    ),
    Mutant(
        34,
        "the value head does not begin at 0",
        "rlhf/ppo/value_model.py",
        "nn.init.zeros_(head.weight)",
        "nn.init.normal_(head.weight, std=0.02)",
    ),
    Mutant(
        34,
        "the value forgets the reward's mean",
        "rlhf/reward_model/model.py",
        "head.bias.sub_(self.stats.mean).div_(self.stats.std)",
        "head.bias.div_(self.stats.std)",
    ),
    Mutant(
        35,
        "dropout stays in the modules",
        "plumbrule/lm/loading.py",
        "            module.p = 0.0\n",
        "            pass\n",
    ),
    Mutant(
        36,
        "torch's own epsilon",
        "rlhf/ppo/optimisation/learner.py",
        "torch.optim.Adam(groups, eps=adam_epsilon, ",
        "torch.optim.Adam(groups, ",
    ),
    Mutant(
        36,
        "TensorFlow's Adam without its bias correction",
        "rlhf/ppo/optimisation/tensorflow_adam.py",
        'group["lr"] * math.sqrt(1.0 - beta2**count) / (1.0 - beta1**count)',
        'group["lr"]',
    ),
    Mutant(
        37,
        "the rate of the first group alone falls",
        "rlhf/ppo/optimisation/learner.py",
        "zip(optimizer.param_groups, rates, strict=False)",
        "zip(optimizer.param_groups[:1], rates, strict=False)",
    ),
    Mutant(
        38,
        "a rollout that is not whole is dropped",
        "rlhf/ppo/config.py",
        "return -(-self.total_episodes // self.batch_size)",
        "return self.total_episodes // self.batch_size",
    ),
    Mutant(
        39,
        "every epoch has the same order",
        "rlhf/ppo/optimisation/mini_batches.py",
        'generator("ppo order", seed, update, epoch)',
        'generator("ppo order", seed, update)',
    ),
    Mutant(
        39,
        "num_mini_batches has no effect",
        "rlhf/ppo/optimisation/mini_batches.py",
        "enumerate(order.reshape(num_mini_batches, -1))",
        "enumerate(order.reshape(1, -1))",
    ),
    Mutant(
        39,
        "the early stop compares twice the KL",
        "rlhf/ppo/step.py",
        'approxkl = 0.5 * float(sums[SUMS.index("squared log-ratio")] / number[0])',
        'approxkl = float(sums[SUMS.index("squared log-ratio")] / number[0])',
    ),
    Mutant(
        40,
        "gradients are measured and not clipped",
        "rlhf/ppo/optimisation/gradients.py",
        "        fsdp.scale_gradients(parameters, max_norm, norm)\n",
        "",
    ),
    Mutant(
        41,
        "logits keep the model's precision",
        "plumbrule/lm/logprobs.py",
        "    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))\n",
        "",
    ),
    Mutant(
        42,
        "the sampler leaves the policy in training mode",
        "plumbrule/lm/generation/sampler.py",
        "    policy.model.eval()  # in training mode",
        "    # in training mode",
    ),
    Mutant(
        44,
        "random numbers belong to a row's place",
        "rlhf/ppo/rollout/trajectory.py",
        'row_key("ppo", seed, update, prompt_id, sample)',
        'row_key("ppo", seed, update, len(keys), sample)',
    ),
    Mutant(
        45,
        "the reference is the policy",
        "rlhf/ppo/shared_trunk.py",
        "reference = as_inherited(load(), adapter)",
        "reference = policy",
    ),
    Mutant(
        45,
        "the models are read with a graph",
        "rlhf/ppo/rollout/evaluation.py",
        "with torch.inference_mode(), compute_precision(precision, mask.device):",
        "with compute_precision(precision, mask.device):",
    ),
    Mutant(
        46,
        "a value model of another tokenizer is taken",
        "rlhf/ppo/models.py",
        "if reward_model.policy.tokenizer.get_vocab() != policy.tokenizer.get_vocab():",
        "if len(reward_model.policy.tokenizer) != len(policy.tokenizer):",
    ),
    Mutant(
        46,
        "value_init=rm starts from the policy",
        "rlhf/ppo/models.py",
        "    return value_from_reward_model(reward_model)\n",
        "    return value_from_policy(policy)\n",
    ),
    Mutant(
        47,
        "validation is sampled as in training",
        "rlhf/ppo/rollout/samples.py",
        "greedy = dataclasses.replace(sampling, temperature=0.0)",
        "greedy = sampling",
    ),
    Mutant(
        42,
        "checkpointing is asked for in eval mode, where nothing heeds it",
        "plumbrule/lm/loading.py",
        """({"use_reentrant": False})
    model.train()""",
        """({"use_reentrant": False})
    model.eval()""",
    ),
    Mutant(
        43,
        "the adapters stay on for the reference",
        "rlhf/ppo/shared_trunk.py",
        "off = Reference(policy, policy, lambda: _adapter_off(policy))",
        "off = Reference(policy, policy)",
    ),
    Mutant(
        47,
        "both sides are of the trained policy",
        "rlhf/ppo/rollout/samples.py",
        "before = generate(reference.policy, queries",
        "before = generate(policy, queries",
    ),
    Mutant(
        48,
        "demonstrations are unlearnt",
        "rlhf/ppo/ptx.py",
        "(-ptx.coef * counts * found.sum() / num_tokens).backward()",
        "(ptx.coef * counts * found.sum() / num_tokens).backward()",
    ),
    Mutant(
        48,
        "every step draws the same demonstrations",
        "rlhf/ppo/ptx.py",
        'generator("ppo ptx", seed, *place)',
        'generator("ppo ptx", seed)',
    ),
    Mutant(
        48,
        "the coefficient is not read",
        "rlhf/ppo/ptx.py",
        "(-ptx.coef * counts * found.sum() / num_tokens).backward()",
        "(-found.sum() / num_tokens).backward()",
    ),
    Mutant(
        49,
        "decay and its complement are exchanged",
        "rlhf/ppo/optimisation/weight_average.py",
        "1.0 - self.decay)",
        "self.decay)",
    ),
    Mutant(
        49,
        "the last weights are published",
        "rlhf/ppo/stage.py",
        "        average.put_into(policy.model)\n",
        "        pass\n",
    ),
    Mutant(
        50,
        "warm-up is an update too short",
        "rlhf/ppo/optimisation/learner.py",
        "if update <= value_warmup_updates:",
        "if update < value_warmup_updates:",
    ),
    Mutant(
        51,
        "all responses count as ended",
        "rlhf/ppo/measures/metrics.py",
        '"val/num_eos_tokens": trajectory.finished.sum(),',
        '"val/num_eos_tokens": mask.any(dim=1).sum(),',
    ),
    Mutant(
        51,
        "lengths count text that the policy did not sample",
        "rlhf/ppo/measures/metrics.py",
        '"val/response_length_tokens": mask.sum(dim=1).double().mean(),',
        '"val/response_length_tokens": torch.tensor(\n'
        "            [float(len(r)) for r in trajectory.responses]\n        ).mean(),",
    ),
    Mutant(
        52,
        "the meter compares the training pass with itself",
        "rlhf/ppo/measures/metrics.py",
        "log_ratio = fill(logprobs.double() - rollout_logprobs.double(), action_mask)",
        "log_ratio = fill(logprobs.double() - logprobs.double(), action_mask)",
    ),
    Mutant(
        52,
        "the band of ratios has no lower end",
        "rlhf/ppo/measures/metrics.py",
        "out = ((ratio < BAND[0]) | (ratio > BAND[1])).double()",
        "out = (ratio > BAND[1]).double()",
    ),
    Mutant(
        52,
        "importance weights have no effect",
        "rlhf/ppo/step.py",
        "pg, kl = pg._replace(loss=weights * pg.loss), weights * kl",
        "pg, kl = pg._replace(loss=torch.ones_like(weights) * pg.loss), weights * kl",
    ),
    Mutant(
        54,
        "a term is logged before its weight twice",
        "rlhf/ppo/measures/metrics.py",
        "= config.weight * steps.clipped.mean()",
        "= steps.clipped.mean()",
    ),
    Mutant(
        54,
        "the raw score is logged after its penalty",
        "rlhf/ppo/measures/metrics.py",
        '"objective/scores_raw": rollout.raw_scores.mean(),',
        '"objective/scores_raw": rollout.scores.mean(),',
    ),
]
