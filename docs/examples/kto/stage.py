"""Stage `kto`: a policy learns from single answers, each of which is desirable or undesirable.

Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306). An answer's implicit
reward is beta times its log-ratio to the reference, the policy at the start; the loss asks that it
lie above the policy's KL to the reference for desirable answers, and below for undesirable ones.
Nothing is paired: of each ranking the best answer is desirable and the worst undesirable, and
either is used without the other.

1. Rankings of all inputs as token ids: the best and the worst answer of each.
2. Training (`train`).
3. Held-out rankings: the implicit rewards of their best and worst answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from plumbrule.data.records import Preference, read_records
from plumbrule.errors import DataError, TrainingError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import prepare_training
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.loading import checkpoint_activations, load_policy, resolve_device, save_policy
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import generator
from plumbrule.lm.response_logprobs import response_logprobs, score_batches, token_row
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.statistics import mean_interval
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import NOTES, RECORDS, VALIDATION
from plumbrule.store.headline import publish
from plumbrule.store.json_files import write_json
from rlhf.dpo.pairs import pairs_of
from rlhf.kto.config import KTOConfig
from rlhf.lr_schedules import cosine, lr_multiplier
from rlhf.reward_model.preferences import refuse_leaks


class Example(NamedTuple):
    """An answer, whether it is desirable, and the number of the ranking that it is from."""

    row: TokenRow
    desirable: bool
    ranking: int


def run(
    config: KTOConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Train the `policy` input on the rankings and return its headline metrics `kto/*`.

    Writes `model/`, `intervals.json` and `notes.json`.
    Raises: DataError: fewer than two answers to train on, or a held-out prompt in training.
    TrainingError: a loss, gradient or reward is not finite.
    """
    # 1
    sources = list(Inputs(inputs).many("preferences").values())
    learned, unseen = (
        [p for source in sources for p in read_records(Preference, source.file(name))]
        for name in (RECORDS, VALIDATION)
    )
    refuse_leaks(learned, unseen)
    device = resolve_device(runtime)
    start = inputs["policy"].file("model")
    reference, policy = (load_policy(start, device=device) for _ in range(2))
    policy = prepare_training(policy, AdapterConfig(), config.seed, "kto.adapter")
    training, num_out = encode(policy, learned, config.seed)
    held_out, num_held_out_out = encode(policy, unseen, config.seed)
    if len(training) < 2:
        raise DataError(
            f"answers to train on (={len(training)}) must be at least 2: ranked above or below "
            f"another, with a token, within {policy.spec.context} tokens; give other rankings.",
            sources[0].file(RECORDS),
        )

    # 2
    if runtime.gradient_checkpointing:
        checkpoint_activations(policy.model)
    train(policy, reference, training, config, runtime, out / "checkpoints", tracker)
    save_policy(policy, out / "model")

    # 3
    numbers = measure(policy, reference, held_out, unseen, config.beta, runtime.micro_batch_size)
    metrics = {"kto/answers": len(training), "kto/answers_left_out": num_out + num_held_out_out}
    said = []
    if metrics["kto/answers_left_out"]:
        said.append(
            f"{num_out} training and {num_held_out_out} held-out answers were left out: they have "
            f"no token, or exceed {policy.spec.context} with their prompt."
        )
    write_json(out / NOTES, said)
    return {**metrics, **publish(numbers, out)}


def encode(
    policy: Policy, preferences: Sequence[Preference], seed: int
) -> tuple[list[Example], int]:
    """Return the best and the worst answers of rankings, and how many of them are left out.

    Left out is what has no token or does not fit the policy's context. A ranking of ties alone has
    neither a best nor a worst answer.
    """
    policy.check_chats(preferences)
    found = []
    for number, p in enumerate(preferences):
        ended = p.which_finished()
        for pair in pairs_of(p, "best_worst", seed):
            for place, desirable in zip(pair, (True, False), strict=True):
                row = token_row(policy, p.messages, p.passages, p.responses[place], ended[place])
                found.append(Example(row, desirable, number))
    kept = [e for e in found if e.row.response and e.row.num_tokens <= policy.spec.context]
    return kept, len(found) - len(kept)


def train(
    policy: Policy,
    reference: Policy,
    examples: Sequence[Example],
    config: KTOConfig,
    runtime: RuntimeConfig,
    folder: Path,
    tracker: Tracker,
) -> None:
    """Train `policy` in place, from the newest complete checkpoint under `folder` if there is one.

    1 the step's answers, and each prompt with the next one's answer; 2 the KL, from the latter; 3
    loss and gradients, one micro-batch at a time; 4 clip and step; 5 log; 6 checkpoint. A step is
    a function of the weights and of its number, so a resumed training ends with the same bytes.
    Raises: TrainingError: the loss or its gradient is NaN or Inf.
    """
    size = runtime.micro_batch_size
    weights = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=1e-5)
    steps = math.ceil(len(examples) * config.num_train_epochs / config.batch_size)
    first = load_checkpoint(policy, optimizer, folder)
    tracker.rewind(first)
    with tracker.progress(steps, "kto", "steps") as line:
        line.skip(first)
        for step in range(first, steps):
            # 1
            batch = [examples[i] for i in batch_of(step, len(examples), config)]
            rows = [e.row for e in batch]
            mismatched = [  # cut where it would exceed the context
                TokenRow(row.prompt, other.response[: policy.spec.context - len(row.prompt)])
                for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
            ]
            # 2
            then, now = (response_logprobs(p, mismatched, size) for p in (reference, policy))
            kl = (now - then).mean().clamp(min=0)
            # 3
            then = response_logprobs(reference, rows, size)
            desirable = torch.tensor([e.desirable for e in batch], device=then.device)
            optimizer.zero_grad()
            loss = 0.0
            for places, nats in score_batches(policy, rows, size):
                logratios = nats.sum(1) - then[places]
                part = kto_losses(logratios, desirable[places], kl, config).sum() / len(batch)
                part.backward()
                loss += part.item()
            # 4
            norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
            if not math.isfinite(loss + norm):
                raise TrainingError(
                    f"kto step {step + 1}: loss (={loss:g}) and gradient norm (={norm:g}) must be "
                    "finite; lower kto.learning_rate."
                )
            rate = config.learning_rate * lr_multiplier(step, steps, config.warmup_share, cosine)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            # 5
            logged = {"kto/train_loss": loss, "kto/train_kl": float(kl), "kto/grad_norm": norm}
            tracker.log({**logged, "kto/learning_rate": rate}, update=step + 1)
            line.advance(1, loss=loss)
            # 6
            if (step + 1) % config.save_every == 0 or step + 1 == steps:
                checkpoints.save(
                    folder, step + 1, lambda at: save_checkpoint(policy, optimizer, at)
                )


def kto_losses(logratios: Tensor, desirable: Tensor, kl: Tensor, config: KTOConfig) -> Tensor:
    """Return lambda_y - v(x, y) (b,) of each answer, section 4.1 of Ethayarajh et al. 2024.

    v is lambda_D s(beta (r - z)) of a desirable answer and lambda_U s(beta (z - r)) of an
    undesirable one, r its log-ratio, z the KL, s the logistic function; so lambda_y - v is
    lambda_y s(-x) of the same x.

    Args: logratios: (b,), log p(response) - log p_ref(response), nats. desirable: (b,) bool. kl:
        (), nats, at least 0, without a gradient.
    """
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, config.desirable_weight, config.undesirable_weight)
    return weight * torch.sigmoid(-config.beta * sign * (logratios - kl))


def batch_of(step: int, num_examples: int, config: KTOConfig) -> list[int]:
    """Return the places of the answers of optimizer step `step` (from 0), batch_size of them.

    Steps are stretches of an endless stream of epochs, each shuffled by a key of its own.
    """
    places = range(step * config.batch_size, (step + 1) * config.batch_size)
    orders = {
        epoch: generator("kto order", config.seed, epoch).permutation(num_examples)
        for epoch in {place // num_examples for place in places}
    }
    return [int(orders[place // num_examples][place % num_examples]) for place in places]


def save_checkpoint(policy: Policy, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write all that training needs to go on: weights and the optimizer's state."""
    save_model(policy.model, str(folder / "weights.safetensors"))
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def load_checkpoint(policy: Policy, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Load the newest complete checkpoint under `folder`; return how many steps it has seen."""
    found = checkpoints.newest(folder)
    if found is None:
        return 0
    step, path = found
    device = str(policy.model.device)
    load_model(policy.model, path / "weights.safetensors", device=device)
    state = torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
    optimizer.load_state_dict(state)
    return step


def measure(
    policy: Policy,
    reference: Policy,
    held_out: Sequence[Example],
    preferences: Sequence[Preference],
    beta: float,
    rows_per_pass: int,
) -> dict[str, Mapping[str, Any]]:
    """Return accuracy and mean implicit rewards of held-out answers, with bounds over prompts.

    Raises: TrainingError: a reward is not finite.
    """
    rows = [e.row for e in held_out]
    now, then = (response_logprobs(p, rows, rows_per_pass) for p in (policy, reference))
    rewards = (beta * (now - then)).tolist()
    if not all(map(math.isfinite, rewards)):
        raise TrainingError("kto: held-out rewards must be finite; lower kto.learning_rate.")
    good, bad = (
        {e.ranking: r for e, r in zip(held_out, rewards, strict=True) if e.desirable == which}
        for which in (True, False)
    )
    found = {
        "kto/accuracy": {i: (1 + sign(good[i] - bad[i])) / 2 for i in good if i in bad},
        "kto/rewards_desirable": good,
        "kto/rewards_undesirable": bad,
    }
    return {
        name: mean_interval([*own.values()], [preferences[i].messages for i in own]).as_json()
        for name, own in found.items()
        if own
    }


def sign(difference: float) -> float:
    """Return 1, 0 or -1."""
    return float((difference > 0) - (difference < 0))
