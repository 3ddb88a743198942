"""The training of a reward model: one loop, exactly resumable.

It is our own and not HF's Trainer, which the architecture had foreseen. What Trainer would bring
here is little (none of its evaluation, callbacks or collators is used) and what it costs is
exactness: it averages losses per micro-batch, so that a step depends on how its pairs were split,
and it resumes by replaying a data loader under saved generator states. Here a step is a function
of the weights and of its own number: its pairs are looked up in permutations keyed by (seed,
epoch), its loss is a sum over micro-batches divided by the step's number of pairs, and no random
state exists. So a resumed run is bit-exact on a CPU, and training is one short function. The price:
no FSDP; a trunk that needs several accelerators needs another loop.

Adam with epsilon 1e-5 and no weight decay, linear warm-up, cosine to 0, clipped gradients.

Left out for now: all pairs of a ranking in one pass. The loss takes scores and pairs apart, so only
`micro_batches` would change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from plumbrule import checkpoints
from plumbrule.config import RuntimeConfig
from plumbrule.errors import TrainingError
from plumbrule.randomness import generator
from plumbrule.scoring import buckets, pad_rows
from plumbrule.tracking import Tracker
from rlhf.config import RMConfig
from rlhf.reward_losses import bradley_terry, score_gaps
from rlhf.reward_model import RewardModel

Row = list[int]


class Pair(NamedTuple):
    """Two rows of token ids, the first better: by `margin` where the source states one, else 0."""

    better: Row
    worse: Row
    margin: float


def train(
    model: RewardModel,
    pairs: Sequence[Pair],
    config: RMConfig,
    runtime: RuntimeConfig,
    folder: Path,
    tracker: Tracker,
) -> None:
    """Train `model` in place, from the newest complete checkpoint under `folder` if there is one.

    1 the step's pairs; 2 loss and gradients, one micro-batch at a time; 3 clip and step; 4 log;
    5 checkpoint.
    Raises: TrainingError: the loss or its gradient is NaN or Inf.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, eps=config.adam_epsilon)
    num_steps = count_steps(len(pairs), config)
    first = restore(model, optimizer, folder)
    tracker.rewind(first)
    with tracker.progress(num_steps, "rm", "steps") as line:
        line.skip(first)
        for step in range(first, num_steps):
            # 1
            batch = [pairs[i] for i in batch_of(step, len(pairs), config)]
            # 2
            optimizer.zero_grad()
            loss, num_right = 0.0, 0
            for losses, gaps in micro_batches(model, batch, runtime.micro_batch_size):
                part = losses.sum() / len(batch)
                part.backward()
                loss += part.item()
                num_right += int((gaps > 0).sum())
            # 3
            norm = float(torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm))
            if not math.isfinite(loss + norm):
                raise TrainingError(
                    f"rm step {step + 1}: loss (={loss:g}) and gradient norm (={norm:g}) must be "
                    "finite; lower rm.learning_rate or use rm.precision=float32."
                )
            rate = config.learning_rate * rate_share(step, num_steps, config.warmup_share)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            # 4
            shown = {"loss": loss, "accuracy": num_right / len(batch)}
            logged = {"learning_rate": rate, "grad_norm": norm, **shown}
            tracker.log({f"rm/train_{name}": x for name, x in logged.items()}, update=step + 1)
            line.advance(1, **shown)
            # 5
            if (step + 1) % config.save_every == 0 or step + 1 == num_steps:
                checkpoints.save(folder, step + 1, lambda at: keep(model, optimizer, at))


def micro_batches(
    model: RewardModel, batch: Sequence[Pair], micro_batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (losses, score gaps), (p,) each, of groups of pairs of like length.

    Both rows of a pair go through the model together: micro_batch_size rows are half as many pairs.
    """
    device = model.head.weight.device
    lengths = [max(len(pair.better), len(pair.worse)) for pair in batch]
    for group in buckets(lengths, max(1, micro_batch_size // 2)):
        rows = [batch[i].better for i in group] + [batch[i].worse for i in group]
        tokens, real_mask = pad_rows(rows, model.policy.pad_id)
        scores = model.scores(tokens.to(device), real_mask.to(device))
        better = torch.arange(len(group), device=device)
        compared = torch.stack([better, better + len(group)], dim=1)
        margins = torch.tensor([batch[i].margin for i in group], device=device)
        yield bradley_terry(scores, compared, margins), score_gaps(scores, compared).detach()


def count_steps(num_pairs: int, config: RMConfig) -> int:
    """Return the number of optimizer steps; the last may hold fewer than batch_size pairs."""
    return math.ceil(round(num_pairs * config.num_train_epochs) / config.batch_size)


def batch_of(step: int, num_pairs: int, config: RMConfig) -> list[int]:
    """Return the indices of the pairs of optimizer step `step` (from 0).

    Pairs form one endless row, epoch after epoch, each epoch shuffled by its own key; a step is a
    stretch of that row.
    """
    end = round(num_pairs * config.num_train_epochs)
    places = range(step * config.batch_size, min((step + 1) * config.batch_size, end))
    orders = {
        epoch: generator("rm order", config.seed, epoch).permutation(num_pairs)
        for epoch in {place // num_pairs for place in places}
    }
    return [int(orders[place // num_pairs][place % num_pairs]) for place in places]


def rate_share(step: int, num_steps: int, warmup_share: float) -> float:
    """Return the share of the learning rate at `step` (from 0): linear warm-up, cosine to 0."""
    warmup = round(num_steps * warmup_share)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def keep(model: RewardModel, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write all that training needs to go on: weights and the optimizer's state."""
    save_model(model, str(folder / "weights.safetensors"))
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def restore(model: RewardModel, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    """Load the newest complete checkpoint under `folder`; return how many steps it has seen."""
    found = checkpoints.newest(folder)
    if found is None:
        return 0
    step, path = found
    device = model.head.weight.device
    load_model(model, path / "weights.safetensors", device=str(device))
    optimizer.load_state_dict(
        torch.load(path / "optimizer.pt", map_location=device, weights_only=True)
    )
    return step
