"""Stage `dpo`: a policy learns from rankings directly, without a reward model or sampling.

Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): of two ranked answers the
better one is made likelier against the worse one, both relative to the policy at the start. That
start is the reference. TRL's DPOTrainer does the training (`trainer.py`); tokens and pairs
(`pairs.py`), losses (`losses.py`), the order of pairs and measurement are ours.

1. Rankings of all inputs (`preferences`, `preferences_1`, ...: rounds of feedback) as token ids.
2. What the policy makes of them as it is: log-probs of every answer, and answers of its own.
3. Training.
4. Held-out rankings again. The implicit reward of an answer is beta times its log-ratio to the
   reference, so the report card of reward models (`rlhf/reward_model/report_card.py`) applies to
   it. The losses ask for the difference of two rewards only, and both may fall: the better answers
   get less likely too, in favour of answers that nobody ranked. `dpo/rewards_chosen` shows it, a
   note says it. `dpo/kl` is how far the policy moved, on answers that it samples now.

The annotator's confidence is not used: a ranking counts in full or is left out of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from plumbrule.data.records import Preference
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import has_adapter, prepare_training
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.lm.cost_metrics import ADAPTED, READ, TRAINED, cost_metrics, num_weights
from plumbrule.lm.generation import Sample, generate
from plumbrule.lm.loading import (
    Policy,
    checkpoint_activations,
    fits,
    load_policy,
    resolve_device,
    save_policy,
)
from plumbrule.lm.logprobs import output_embeddings, trunk
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import TokenRow
from plumbrule.lm.sizes.lengths import describe_lengths
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import mean_interval
from plumbrule.store.adapter_files import merge_command
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    CHECKPOINTS,
    MODEL,
    NOTES,
    RECORDS,
    REPORT_CARD,
    SAMPLES,
    VALIDATION,
)
from plumbrule.store.headline import publish
from plumbrule.store.json_files import write_json, write_jsonl
from rlhf.dpo.config import DPOConfig
from rlhf.dpo.losses import preference_losses
from rlhf.dpo.pairs import (
    PairSplit,
    Place,
    answer_logprobs,
    encode_split,
    examples_of,
    read_preferences,
)
from rlhf.reward_model.preferences import refuse_leaks
from rlhf.reward_model.report_card import ScoredRanking, report_card


def run(
    config: DPOConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Train the `policy` input on the rankings and return its headline metrics `dpo/*`.

    Writes `model/`, `samples.jsonl`, `report_card.json` (with held-out pairs) and `notes.json`.
    Raises: DataError: no pair to train on, or a held-out prompt in training. ConfigError: an
    adapter that can't be trained so. TrainingError: a loss, gradient or log-prob is not finite.
    """
    from rlhf.dpo.trainer import train  # TRL takes seconds to import

    # 1
    sources = list(Inputs(inputs).many("preferences").values())
    paths = [source.file(RECORDS) for source in sources]
    learned = read_preferences(paths)
    unseen = read_preferences([source.file(VALIDATION) for source in sources])
    refuse_leaks(learned, unseen)
    refuse_ties_alone(learned, paths[0])
    device = resolve_device(runtime)
    policy = starting_policy(inputs["policy"], config.adapter, config.seed, device)
    limit = min(config.max_tokens or policy.spec.context, policy.spec.context)
    training = encode_split(policy, learned, limit, config.pairs, config.seed)
    held_out = encode_split(policy, unseen, limit, "all", config.seed)
    refuse_no_pairs(training, limit, paths[0])
    lengths = [row.num_tokens for s in (training, held_out) for rows in s.answers for row in rows]
    too_long = training.num_too_long + held_out.num_too_long
    said = describe_lengths("answers with their prompts", lengths, limit, too_long, "pairs")
    tracker.say(f"dpo  {said}")

    # 2
    size = runtime.micro_batch_size
    learnt = training.paired()
    nats = answer_logprobs(policy, list(learnt.values()), size, config.precision)
    reference = dict(zip(learnt, nats, strict=True))
    measured = held_out.used()
    before = answer_logprobs(policy, list(measured.values()), size)
    asked = [p for p in unseen if fits(policy, p.messages, p.passages, config.max_new_tokens)]
    shown = asked[: config.num_samples]
    answer = partial(
        answers_to, max_new_tokens=config.max_new_tokens, seed=config.seed, rows_per_pass=size
    )
    answers_before = answer(policy, shown)

    # 3
    if config.num_train_epochs > 0:
        if runtime.gradient_checkpointing:
            checkpoint_activations(policy.model)
        train(
            policy,
            examples_of(training, reference),
            config,
            micro_batch_size=size,
            device=device,
            saves=out / CHECKPOINTS,
            tracker=tracker,
        )

    # 4
    save_policy(policy, out / MODEL)
    after = answer_logprobs(policy, list(measured.values()), size)
    gains = [new - old for old, new in zip(before, after, strict=True)]
    logratios = dict(zip(measured, gains, strict=True))
    metrics = {
        "dpo/pairs": float(len(training.pairs)),
        "dpo/pairs_too_long": float(training.num_too_long + held_out.num_too_long),
        **cost(policy, training, config.num_train_epochs),
    }
    numbers: dict[str, Mapping[str, Any]] = {}
    if held_out.pairs:
        card = report_card(scored(held_out, logratios, config.beta))
        write_json(out / REPORT_CARD, card)
        numbers |= card_metrics(card)
        metrics |= held_out_metrics(
            held_out, logratios, config.loss, config.beta, config.label_smoothing
        )
    if sampled := asked[: config.num_kl_prompts]:
        start = load_policy(inputs["policy"].file(MODEL), device=device)
        numbers["dpo/kl"] = kl_to(
            start, policy, sampled, answer(policy, sampled, temperature=1.0), size
        )
    metrics |= publish(numbers, out)
    rows = sample_rows(policy, shown, answers_before, answer(policy, shown))
    write_samples(out / SAMPLES, rows, tracker)
    write_json(out / NOTES, notes(metrics, training.num_empty + held_out.num_empty, limit))
    return metrics


def cost(policy: Policy, training: PairSplit, num_train_epochs: float) -> dict[str, float]:
    """Return the tokens and FLOPs of training, the reading of the reference once included, and the
    rankings.
    """
    paired = [training.answers[i][k] for pair in training.pairs for i, k in pair]
    once = training.paired().values()
    trained, read = (sum(row.num_tokens for row in every) for every in (paired, once))
    each = ADAPTED if has_adapter(policy) else TRAINED
    flops = (each * trained * num_train_epochs + READ * read) * num_weights(trunk(policy.model))
    tokens = trained * num_train_epochs
    labels = len(training.preferences)
    return cost_metrics(training_tokens=tokens, training_flops=flops, labels=labels)


def refuse_ties_alone(preferences: Sequence[Preference], path: Path) -> None:
    """Raise DataError unless some ranking orders two answers strictly."""
    if not any(max(p.ranks) > 1 for p in preferences):
        raise DataError(
            f"rankings (={len(preferences)}) must hold an answer that is ranked above another: "
            "ties say nothing about which to prefer; give others.",
            path,
        )


def refuse_no_pairs(split: PairSplit, limit: int, path: Path) -> None:
    """Raise DataError unless the split has a pair that can be trained on."""
    if not split.pairs:
        raise DataError(
            f"at least one pair must fit {limit} tokens and have tokens to compare "
            f"({split.num_too_long} are longer, {split.num_empty} have an empty answer); raise "
            "dpo.max_tokens or the policy's context, or give shorter answers.",
            path,
        )


def starting_policy(
    artifact: Artifact, adapter: AdapterConfig, seed: int, device: torch.device
) -> Policy:
    """Return the policy to train, ready for it; it answers as before.

    Raises: ConfigError: as `prepare_training`; an adapter on the output layer.
    """
    policy = load_policy(artifact.file(MODEL), device=device)
    policy = prepare_training(policy, adapter, seed, "dpo.adapter")
    if has_adapter(policy) and hasattr(output_embeddings(policy.model), "lora_A"):
        raise ConfigError(
            f"dpo: policy (={artifact.node or artifact.kind}) must have no adapter on its output "
            "layer, which TRL does not train; set dpo.adapter.inherited=merge, or merge it first: "
            f"{merge_command(artifact.file('model'))}."
        )
    return policy


def scored(split: PairSplit, logratios: Mapping[Place, float], beta: float) -> list[ScoredRanking]:
    """Return the rankings with the implicit reward of each answer, None where it has none."""
    return [
        ScoredRanking(
            preference,
            tuple(
                beta * logratios[i, k] if (i, k) in logratios else None
                for k in range(len(preference.responses))
            ),
        )
        for i, preference in enumerate(split.preferences)
    ]


def held_out_metrics(
    split: PairSplit,
    logratios: Mapping[Place, float],
    loss: str,
    beta: float,
    label_smoothing: float,
) -> dict[str, float]:
    """Return means over all pairs of a split: of the loss, of both rewards and their difference."""
    found = [[logratios[place] for place in pair] for pair in split.pairs]
    sizes = [[len(split.answers[i][k].response) for i, k in pair] for pair in split.pairs]
    both, lengths = torch.tensor(found, dtype=torch.float64).T, torch.tensor(sizes).T
    losses = preference_losses(both, lengths, loss, beta, label_smoothing)
    chosen, rejected = (beta * both.mean(1)).tolist()
    return {
        "dpo/loss": losses.mean().item(),
        "dpo/margin": chosen - rejected,
        "dpo/rewards_chosen": chosen,
        "dpo/rewards_rejected": rejected,
    }


def card_metrics(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the accuracies of a report card by metric."""
    found = {"dpo/accuracy": card["accuracy"]}
    if "noise_free" in card:
        found["dpo/accuracy_noise_free"] = card["noise_free"]["accuracy"]
    return found


def kl_to(
    start: Policy,
    policy: Policy,
    asked: Sequence[Preference],
    samples: Sequence[Sample],
    rows_per_pass: int,
) -> dict[str, float | None]:
    """Return the KL of the policy to `start`, nats per response, with bounds over prompts.

    The mean of log p - log p_start (k1) over one response each to the prompts of rankings.

    Args: samples: the policy's responses, sampled at temperature 1.
    """
    answers = [
        TokenRow(tuple(policy.encode(p.messages, p.passages)), tuple(sample.tokens))
        for p, sample in zip(asked, samples, strict=True)
    ]
    nats = answer_logprobs(start, answers, rows_per_pass)
    gaps = [sum(s.logprobs) - then for s, then in zip(samples, nats, strict=True)]
    return mean_interval(gaps, [p.messages for p in asked]).as_json()


def answers_to(
    policy: Policy,
    asked: Sequence[Preference],
    *,
    max_new_tokens: int,
    seed: int,
    rows_per_pass: int,
    temperature: float = 0.0,
) -> Sequence[Sample]:
    """Return one answer of the policy to the prompt of each ranking, greedy or sampled."""
    sampling = SamplingConfig(temperature, max_new_tokens, rows_per_pass)
    prompts = [policy.encode(p.messages, p.passages) for p in asked]
    keys = [row_key("dpo sample", seed, p.id) for p in asked]
    return generate(policy, prompts, sampling=sampling, keys=keys)


def sample_rows(
    policy: Policy,
    shown: Sequence[Preference],
    before: Sequence[Sample],
    after: Sequence[Sample],
) -> list[dict[str, Any]]:
    """Return one row per prompt: answers before and after training, and a best ranked one."""
    return [
        {
            "id": preference.id,
            "prompt": "\n".join(f"{m.role}: {m.content}" for m in preference.messages),
            "passages": list(preference.passages),
            "response": policy.decode(new.tokens),
            "finished": new.finished,
            "response_before": policy.decode(old.tokens),
            "finished_before": old.finished,
            "best": preference.responses[preference.ranks.index(1)],
        }
        for preference, old, new in zip(shown, before, after, strict=True)
    ]


def write_samples(path: Path, rows: Sequence[Mapping[str, Any]], tracker: Tracker) -> None:
    """Write the rows of `sample_rows` as JSON Lines and show them as a table."""
    write_jsonl(path, rows)
    columns = ["prompt", "response_before", "response", "best"]
    tracker.table("samples", columns, [[row[name] for name in columns] for row in rows])


def notes(metrics: Mapping[str, float], num_empty: int, limit: int) -> list[str]:
    """Return what a reader of the report must be told.

    Args: num_empty: pairs left out because an answer has no token. limit: longest row, tokens.
    """
    said = []
    if num_too_long := int(metrics["dpo/pairs_too_long"]):
        said.append(
            f"{num_too_long} pairs were left out: a prompt with its answer exceeds {limit} tokens."
        )
    if num_empty:
        said.append(f"{num_empty} pairs were left out: an answer was cut before its first token.")
    if "dpo/accuracy" not in metrics:
        said.append("No held-out pair was there to measure, so the accuracy is not known.")
    elif metrics["dpo/rewards_chosen"] < 0:
        said.append(
            f"The better held-out answers became less likely too: their mean reward is "
            f"{metrics['dpo/rewards_chosen']:.3g}, that of the worse ones "
            f"{metrics['dpo/rewards_rejected']:.3g}. DPO's losses ask for the difference only; a "
            "larger dpo.beta or a smaller dpo.learning_rate stays closer to the start."
        )
    return said
