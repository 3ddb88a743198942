"""What each metric means and its unit: one table for the report and for whoever reads a log.

It stands apart from `tracking.py`, which every stage imports: so that a better wording rebuilds
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS: dict[str, tuple[str, str]] = {
    "data/rows": ("rows", "kept to train on, or to measure with"),
    "data/validation_rows": ("rows", "held out"),
    "data/duplicates": ("rows", "that repeated another and were removed"),
    "data/dropped": ("rows", "that the reader left out; the data card says why"),
    "feedback/prompts": ("prompts", "whose answers were ranked"),
    "feedback/prompts_all_equal": ("prompts", "not ranked: all their sampled answers are equal"),
    "feedback/answers": ("answers", "sampled, repeats included"),
    "feedback/duplicates": ("share of answers", "that repeat another answer to the same prompt"),
    "feedback/pairs": ("pairs", "ordered strictly by the rankings"),
    "feedback/tie_rate": ("share of pairs", "of different answers that tie"),
    "feedback/agreement": (
        "share of pairs",
        "ordered as by the gold utility, without label noise and bias",
    ),
    "feedback/utility": ("utility per answer", "gold, without noise"),
    "feedback/flipped": ("share of rankings", "that were turned upside down"),
    "feedback/judge_position_bias": (
        "share of pairs",
        "whose answers the judge prefers by their place: the other in the other order",
    ),
    "feedback/judge_first": ("", "mean chance that the judge prefers the answer shown first"),
    "feedback/prompts_not_judged": ("prompts", "not ranked: too long for the judge's context"),
    "feedback/annotators": ("people", "whose judgements were used: they judged every question"),
    "feedback/alpha": ("", "Krippendorff's alpha of the annotators; 1: all agree, 0: as by chance"),
    "feedback/self_agreement": (
        "share of pairs",
        "of a question asked twice that one annotator judged alike",
    ),
    "feedback/cant_say": ("judgements", 'that say "can\'t say"'),
    "feedback/prompts_cant_say": ("prompts", 'not ranked: every annotator says "can\'t say"'),
    "feedback/finished": ("share of answers", "that ended with their terminal token"),
    "feedback/with_passages": ("share of prompts", "ranked ones that were shown passages"),
    "rm/accuracy": ("share of pairs", "held-out pairs whose better answer scores higher"),
    "rm/accuracy_noise_free": (
        "share of pairs",
        "held-out, whose better answer by the utility without noise scores higher",
    ),
    "rm/best_rule_accuracy": ("share of pairs", "the same pairs by the best rule of one feature"),
    "rm/labels_noise": ("utility", "standard deviation of the labels' noise, from the rankings"),
    "rm/labels_flipped": ("share of rankings", "upside down, from the rankings"),
    "rm/labels_length_taste": ("utility per ten words", "of the labels, from the rankings"),
    "rm/adversarial_as_it_was": ("share of pairs", "right against wrong, ordered rightly"),
    "rm/adversarial_longer": ("share of pairs", "the same, the worse answer made longer"),
    "rm/adversarial_politer": ("share of pairs", "the same, the worse answer made politer"),
    "rm/adversarial_surer": ("share of pairs", "the same, the worse answer made surer of itself"),
    "rm/accuracy_ood": ("share of pairs", "of rankings from elsewhere, ordered rightly"),
    "rm/ece": ("", "expected calibration error of the reward model's pair probabilities"),
    "rm/length_correlation": ("", "Spearman correlation of held-out scores with words"),
    "rm/loss": ("nats per pair", "Bradley-Terry loss on held-out pairs"),
    "rm/pairs": ("pairs", "trained on"),
    "rm/pairs_too_long": ("pairs", "left out of training or measurement: too many tokens"),
    "rm/train_loss": ("nats per pair", "loss of the step's rankings, mean over each one's pairs"),
    "rm/train_accuracy": ("share of pairs", "of the step, before it, ordered rightly"),
    "rm/train_grad_norm": ("", "of the step's gradient, before clipping"),
    "base/read_accuracy": ("share of questions", "on unheard names, answered from passages"),
    "base/closed_book_accuracy": ("share of questions", "on known entities, answered from memory"),
    "base/abstain_accuracy": ("share of questions", "that nothing answers, answered so"),
    "base/exact": ("share of texts", "held-out, of a kind, greedy answers exact"),
    "base/parameters": ("parameters", "of the model"),
    "base/loss": ("nats per token", "held-out, tokens weighted as in training"),
    "base/perplexity": ("", "exponential of base/loss"),
    "base/bits_per_byte": ("bits per byte", "held-out, all tokens alike; compares tokenizers"),
    "base/epochs": ("epochs", "passes over the corpus"),
    "base/documents_split": ("documents", "longer than a row, cut into several"),
    "base/padding_share": ("share of tokens", "of packed rows that is padding"),
    "base/train_loss": ("nats per token", "weighted mean of one optimizer step"),
    "base/grad_norm": ("", "of the whole gradient, before clipping"),
    "base/learning_rate": ("", "of this step"),
    "sft/loss": ("nats per token", "held-out, mean over response tokens, terminal token included"),
    "sft/perplexity": ("", "exponential of sft/loss"),
    "sft/rows": ("demonstrations", "trained on"),
    "sft/rows_too_long": ("demonstrations", "left out because they did not fit the context"),
    "sft/train_loss": ("nats per token", "mean over the response tokens of one optimizer step"),
    "sft/grad_norm": ("", "of the whole gradient, before clipping"),
    "sft/learning_rate": ("", "of this step"),
    "rag/documents": ("documents", "indexed"),
    "rag/chunks": ("chunks", "that the documents were cut into"),
    "rag/build_seconds": ("seconds", "to cut, encode and index; not to measure"),
    "rag/recall_at_1": ("share of questions", "whose document gave the first passage, hybrid"),
    "rag/recall_at_5": ("share of questions", "whose document is among 5 passages, hybrid"),
    "rag/mrr": ("", "mean of 1 / rank of the first passage from the right document, hybrid"),
    "objective/kl": ("nats per response", "KL of the policy to its reference, k1 estimate"),
    "objective/entropy": ("nats per token", "of the next-token distributions at action tokens"),
    "objective/kl_cut_tokens": ("tokens", "of a rollout whose k3 was cut at its bound"),
    "objective/kl_coef": ("reward per nat", "of the KL penalty, or its weight in the loss"),
    "objective/scores_raw": ("reward per response", "weighted sum of the reward terms"),
    "objective/scores": ("reward per response", "score after every transform"),
    "objective/non_score_reward": ("reward per response", "the KL penalty"),
    "objective/rlhf_reward": ("reward per response", "score and KL penalty together"),
    "objective/grad_norm": ("", "of the policy's gradient before clipping, mean over steps"),
    "objective/value_grad_norm": ("", "of the value model's gradient before clipping"),
    "dpo/accuracy": ("share of pairs", "held-out, whose better answer has the higher reward"),
    "dpo/accuracy_noise_free": (
        "share of pairs",
        "held-out, whose better answer by the utility without noise has the higher reward",
    ),
    "dpo/loss": ("nats per pair", "held-out, the configured loss"),
    "dpo/margin": ("nats per pair", "held-out, reward of the better answer over the worse"),
    "dpo/rewards_chosen": ("nats", "held-out better answers: beta * log-ratio to the start"),
    "dpo/rewards_rejected": ("nats", "held-out worse answers: beta * log-ratio to the start"),
    "dpo/kl": ("nats per response", "KL of the policy to its start, k1 estimate"),
    "dpo/pairs": ("pairs", "trained on"),
    "dpo/pairs_too_long": ("pairs", "left out of training or measurement: too many tokens"),
    "dpo/train_loss": ("nats per pair", "mean over the pairs of one optimizer step"),
    "dpo/train_accuracy": ("share of pairs", "of the step, before it, ordered rightly"),
    "dpo/train_rewards_chosen": ("nats", "of the step's better answers, mean"),
    "dpo/train_rewards_rejected": ("nats", "of the step's worse answers, mean"),
    "dpo/grad_norm": ("", "of the whole gradient, before clipping"),
    "dpo/learning_rate": ("", "of this step"),
    "best_of_n/n": ("answers", "among which the best by the reward is taken"),
    "best_of_n/prompts": ("prompts", "with answers to choose among"),
    "best_of_n/kl_bound": ("nats", "at most: log n - (n - 1) / n"),
    "best_of_n/reward_gain": ("reward per response", "of the best of n over one answer"),
    "best_of_n/utility_gain": ("utility per response", "of the best of n over one answer"),
    "reject/demonstrations": ("demonstrations", "the best answers by the reward"),
    "reject/prompts_left_out": ("prompts", "without a finished answer"),
    "reject/reward_gain": ("reward per response", "of the kept answers over all that ended"),
    "reward/rm_raw": ("reward per response", "the reward models together, as they gave it"),
    "reward/rm": ("reward per response", "the reward models together, after their weight"),
    "reward/rm/std_raw": ("reward per response", "disagreement of the reward models"),
    "reward/gold_raw": ("reward per response", "the gold utility, before its weight"),
    "reward/gold": ("reward per response", "the gold utility, after its weight"),
    "policy/approxkl_avg": ("nats per token", "half the mean squared log-ratio of the update"),
    "policy/clipfrac_avg": ("share of tokens", "where the policy's clip was the larger loss"),
    "loss/policy_avg": ("", "clipped policy loss, mean over action tokens"),
    "policy/cut_ratios_avg": ("share of tokens", "whose log-ratio was cut at 20 nats"),
    "loss/value_avg": ("", "clipped value loss, mean over steps"),
    "loss/kl_avg": ("nats per token", "of the policy in training to its reference"),
    "loss/ptx_avg": ("nats per token", "of demonstrations' responses, mixed in"),
    "val/clipfrac_avg": ("share of tokens", "where the value's clip was the larger loss"),
    "val/ratio": ("", "mean probability ratio of new to old policy"),
    "val/ratio_var": ("", "variance of that ratio over action tokens"),
    "val/first_ratio_error": ("", "largest |ratio - 1| before any step: 0 up to rounding"),
    "val/num_eos_tokens": ("responses", "that ended with their terminal token"),
    "val/prompt_length_tokens": ("tokens per prompt", "passages included"),
    "val/response_length_tokens": ("tokens per response", "that the policy sampled"),
    "val/explained_variance": ("", "share of the returns' variance that the values foresee"),
    "val/logprob_gap_max": ("nats per token", "sampler against training pass, largest"),
    "val/logprob_gap_mean": ("nats per token", "sampler against training pass, mean"),
    "lr/policy": ("", "learning rate of the policy"),
    "lr/value": ("", "learning rate of the value model"),
    "ppo/updates": ("updates", "rollouts trained on"),
    "ppo/episodes": ("episodes", "responses sampled"),
    "ppo/episodes_per_second": ("episodes per second", "over the whole run"),
    "ppo/optimizer_steps": ("steps", "of one update"),
    "time/generate_seconds": ("seconds", "of an update: retrieval, sampling, and the stem if any"),
    "time/prefill_seconds": ("seconds", "of those, reading prompts"),
    "time/decode_seconds": ("seconds", "of those, token after token"),
    "time/score_seconds": ("seconds", "of an update, in reward terms"),
    "time/forward_seconds": ("seconds", "of an update, log-probs and values"),
    "time/stem_seconds": ("seconds", "of an update, frozen layers that all share"),
    "time/policy_seconds": ("seconds", "of an update, log-probs of the policy"),
    "time/ref_seconds": ("seconds", "of an update, log-probs of the reference"),
    "time/value_seconds": ("seconds", "of an update, values"),
    "time/update_seconds": ("seconds", "of an update, training"),
    "time/episodes_per_second": ("episodes per second", "of an update"),
    "time/ppo_seconds": ("seconds", "of all updates so far"),
    "cost/generated_tokens": ("tokens", "sampled for training or feedback by this stage"),
    "cost/training_flops": ("FLOPs", "useful ones, of what this stage read, sampled and trained"),
    "cost/labels": ("rankings", "judged by this stage"),
    "methods/gold_gain": ("utility per response", "over the start, chosen setting, test half"),
    "methods/kl": ("nats per response", "to the start, chosen setting, test half"),
    "methods/generated_tokens": ("tokens", "that the chosen policy cost beyond the start"),
    "methods/training_flops": ("FLOPs", "that the chosen policy cost beyond the start"),
    "methods/labels": ("rankings", "that the chosen policy cost beyond the start"),
    "overoptimisation/series": ("series", "of runs that differ by their seed alone"),
    "overoptimisation/peak_kl": ("nats", "KL at which the fitted law's gold is highest"),
    "overoptimisation/decline": ("utility", "of gold lost from there to the largest KL seen"),
    "ppo/gold_gain": ("utility per response", "paired difference to the baseline, gold utility"),
    "dpo/gold_gain": ("utility per response", "paired difference to the baseline, gold utility"),
    "sft/gold_gain": ("utility per response", "paired difference to the baseline, gold utility"),
    "eval/accuracy": ("share of questions", "after the cut-off, whose greedy answer is right"),
    "eval/abstain": ("share of questions", "after the cut-off, answered with not knowing"),
    "eval/confident_wrong": ("share of questions", "after the cut-off, answered wrongly"),
    "eval/known_accuracy": ("share of questions", "before the cut-off, answered rightly"),
    "eval/gold": ("utility per response", "gold utility of sampled responses"),
    "eval/kl": ("nats per response", "of sampled responses to the node's reference, k1 estimate"),
    "ppo/reward_gain": ("reward per response", "paired difference to the baseline, the reward"),
    "dpo/reward_gain": ("reward per response", "paired difference to the baseline, the reward"),
    "sft/reward_gain": ("reward per response", "paired difference to the baseline, the reward"),
    "eval/reward": ("reward per response", "the configured reward of sampled responses"),
    "reward/terms": ("terms", "of the configured reward"),
    "eval/proxy": ("reward per response", "the reward model's score of sampled responses"),
    "eval/halueval": ("share of texts", "HaluEval-shaped judging by the log-probs of Yes and No"),
    "eval/bold": ("share of texts", "sentiment of BOLD-shaped continuations, by group"),
    "time/total_seconds": ("seconds", "of the whole command"),
}
"""Metric -> (unit, meaning). Keys are TRL's where TRL has one."""


def describe(name: str) -> tuple[str, str]:
    """Return (unit, meaning) of a metric, or of the metric that it is a case of; else two blanks.

    `eval/accuracy_ppo_rag` is a case of `eval/accuracy`, `summary/rm/ece_pairs` of `rm/ece`, and
    `ppo_2:objective/kl`, a node's own, of `objective/kl`.
    """
    name = name.rpartition(":")[2]
    name = name.removeprefix("summary/")
    while name not in METRICS and "_" in name:
        name = name.rpartition("_")[0]
    return METRICS.get(name, ("", ""))


RISES = (
    "gold_gain",
    "gold",
    "reward",
    "accuracy",
    "known_accuracy",
    "abstain_unanswerable",
    "reading_",
    "read_accuracy",
    "closed_book_accuracy",
    "abstain_accuracy",
    "halueval_",
    "utility_gain",
    "recall_at",
    "mrr",
)
"""Beginnings, behind the last `/`, of metrics that are better when they rise."""
FALLS = (
    "confident_wrong",
    "known_confident_wrong",
    "loss",
    "perplexity",
    "bits_per_byte",
    "ece",
    "best_rule_accuracy",
    "halueval_judge_failed",
)
"""The same of metrics that are better when they fall; these are looked at first."""


def direction(name: str) -> int:
    """Return 1 where a metric is better when it rises, -1 when it falls, 0 where neither is said.

    A shorter answer, a higher proxy score or another sentiment is neither better nor worse.
    """
    last = name.rpartition("/")[2]
    if last.startswith(FALLS):
        return -1
    return 1 if last.startswith(RISES) else 0


def better_when(row: Mapping[str, Any]) -> int:
    """Return the same of a row of comparisons.json, as the benchmark said; an older row is judged
    by its name.
    """
    return int(row["better"]) if "better" in row else direction(str(row["what"]))
