"""The training of a reward model: one loop, exactly resumable.

It is our own and not HF's Trainer, which the architecture had foreseen. What Trainer would bring
here is little (none of its evaluation, callbacks or collators is used) and what it costs is
exactness: it averages losses per micro-batch, so that a step depends on how its rows were split,
and it resumes by replaying a data loader under saved generator states. Here a step is a function
of the weights and of its own number: its rankings are looked up in permutations keyed by (seed,
epoch), its loss is a sum over micro-batches divided by the step's number of rankings, and no random
state exists. So a resumed run is bit-exact on a CPU, and training is one short function. The price:
no FSDP; a trunk that needs several accelerators needs another loop.

What a step counts are rankings. All answers of one go through the model once, whatever the number
of pairs that they make. The C(K, 2) pairs apart would take K - 1 passes of each answer, and see it
K - 1 times in an epoch, of which a reward model overfits (Ouyang et al. 2022, section 3.5). With
`rm.loss=pairs` each pair is a ranking of two.

Adam with epsilon 1e-5 and no weight decay, linear warm-up, cosine to 0, clipped gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from plumbrule.errors import TrainingError
from plumbrule.lm.loading import checkpoint_activations
from plumbrule.lm.randomness import generator
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from rlhf.lr_schedules import cosine, lr_multiplier
from rlhf.reward_model.config import RMConfig
from rlhf.reward_model.losses import (
    bradley_terry,
    centring,
    mean_by_owner,
    paired_with_ties,
    plackett_luce,
    score_gaps,
)
from rlhf.reward_model.model import RewardModel
from rlhf.reward_model.rows import TokenizedAnswer, collate


class Ranking(NamedTuple):
    """Encoded answers and what is known of their order."""

    rows: tuple[TokenizedAnswer, ...]
    ranks: tuple[int, ...]
    """1 = best, equal = tie; all equal only where the loss reads ties."""
    pairs: tuple[tuple[int, int], ...]
    """(better, worse), places in `rows`."""
    margins: tuple[float, ...]
    """By how much, for each pair, where the source states it, else 0."""
    ties: tuple[tuple[int, int], ...] = ()
    """Places in `rows` of equal rank, where the loss reads them."""


class RewardLossSettings(NamedTuple):
    """What the loss of a ranking reads of the config, under the names that it has there."""

    loss: str
    top_k: int | None
    ties: str
    tie_rate: float
    label_smoothing: float
    noise_rate: float
    centring: float

    @classmethod
    def of(cls, config: RMConfig) -> RewardLossSettings:
        """Return those of a config."""
        return cls(
            loss=config.loss,
            top_k=config.top_k,
            ties=config.ties,
            tie_rate=config.tie_rate,
            label_smoothing=config.label_smoothing,
            noise_rate=config.noise_rate,
            centring=config.centring,
        )


def pair(better: TokenizedAnswer, worse: TokenizedAnswer, margin: float = 0.0) -> Ranking:
    """Return a ranking of two."""
    return Ranking((better, worse), (1, 2), ((0, 1),), (margin,))


def train(
    model: RewardModel,
    rankings: Sequence[Ranking],
    config: RMConfig,
    runtime: RuntimeConfig,
    folder: Path,
    tracker: Tracker,
) -> None:
    """Train `model` in place, from the newest complete checkpoint under `folder` if there is one.

    1 the step's rankings; 2 loss and gradients, one micro-batch at a time; 3 clip and step; 4 log;
    5 checkpoint.
    Raises: TrainingError: the loss or its gradient is NaN or Inf.
    """
    if runtime.gradient_checkpointing:
        checkpoint_activations(model.trunk)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(
        weights, lr=config.learning_rate, eps=config.adam_epsilon, fused=True
    )
    steps = num_steps(len(rankings), config.num_train_epochs, config.batch_size)
    batch_at = partial(
        batch_of,
        num_rankings=len(rankings),
        num_train_epochs=config.num_train_epochs,
        batch_size=config.batch_size,
        seed=config.seed,
    )
    loss_settings = RewardLossSettings.of(config)
    first = load_checkpoint(model, optimizer, folder)
    tracker.rewind(first)
    with tracker.progress(steps, "rm", "steps") as line:
        line.skip(first)
        for step in range(first, steps):
            # 1
            batch = [rankings[i] for i in batch_at(step)]
            # 2
            optimizer.zero_grad()
            loss, num_right = 0.0, 0
            size = runtime.micro_batch_size
            for losses, gaps in micro_batches(model, batch, size, loss_settings):
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
            rate = config.learning_rate * lr_multiplier(step, steps, config.warmup_share, cosine)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            # 4
            num_pairs = sum(len(ranking.pairs) for ranking in batch)
            shown = {"loss": loss, "accuracy": num_right / num_pairs if num_pairs else 0.5}
            logged = {"learning_rate": rate, "grad_norm": norm, **shown}
            tracker.log({f"rm/train_{name}": x for name, x in logged.items()}, update=step + 1)
            line.advance(1, **shown)
            # 5
            if (step + 1) % config.save_every == 0 or step + 1 == steps:
                checkpoints.save(folder, step + 1, lambda at: save_checkpoint(model, optimizer, at))


def micro_batches(
    model: RewardModel,
    batch: Sequence[Ranking],
    micro_batch_size: int,
    settings: RewardLossSettings,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (losses (e,), score gaps of all pairs (p,)) of groups of rankings of like length.

    A group has at most `micro_batch_size` rows, or is one ranking.
    """
    device = model.head.weight.device
    for group in grouped(batch, micro_batch_size):
        rows = collate([row for r in group for row in r.rows], model.policy.pad_id)
        scores = model.scores(*rows.to(device))
        pairs, owners = compared([r.pairs for r in group], group, device)
        gaps = score_gaps(scores, pairs)
        if settings.loss in ("plackett_luce", "best_of_k"):
            top = 1 if settings.loss == "best_of_k" else settings.top_k
            lists = scores.split([len(r.rows) for r in group])
            ranks = [torch.tensor(r.ranks, device=device) for r in group]
            each = [plackett_luce(s, r, top) for s, r in zip(lists, ranks, strict=True)]
            losses = torch.stack(each)
        elif settings.ties != "ignore":
            ties, tied = compared([r.ties for r in group], group, device)
            both = paired_with_ties(scores, pairs, ties, settings.ties, settings.tie_rate)
            losses = mean_by_owner(torch.cat(both), torch.cat([owners, tied]), len(group))
        else:
            margins = torch.tensor([m for r in group for m in r.margins], device=device)
            one = bradley_terry(
                scores, pairs, margins, settings.label_smoothing, settings.noise_rate
            )
            losses = mean_by_owner(one, owners, len(group))
        if settings.centring:
            ties, tied = compared([r.ties for r in group], group, device)
            every, whose = torch.cat([pairs, ties]), torch.cat([owners, tied])
            off = mean_by_owner(centring(scores, every), whose, len(group))
            losses = losses + settings.centring * off
        yield losses, gaps.detach()


def compared(
    places: Sequence[Sequence[tuple[int, int]]], group: Sequence[Ranking], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return pairs of rows (p, 2) over the whole group, and whose they are (p,).

    Args: places: of each ranking, pairs of places in its own rows.
    """
    begins = accumulate((len(r.rows) for r in group), initial=0)
    found = [
        (begin + i, begin + j, owner)
        for owner, (begin, own) in enumerate(zip(begins, places, strict=False))
        for i, j in own
    ]
    table = torch.tensor(found, device=device, dtype=torch.int64).reshape(-1, 3)
    return table[:, :2], table[:, 2]


def grouped(batch: Sequence[Ranking], micro_batch_size: int) -> Iterator[list[Ranking]]:
    """Yield the rankings in groups of at most `micro_batch_size` rows, longest first."""
    group: list[Ranking] = []
    num_rows = 0
    for ranking in sorted(batch, key=lambda r: -max(len(row) for row in r.rows)):
        if group and num_rows + len(ranking.rows) > micro_batch_size:
            yield group
            group, num_rows = [], 0
        group.append(ranking)
        num_rows += len(ranking.rows)
    if group:
        yield group


def num_steps(num_rankings: int, num_train_epochs: float, batch_size: int) -> int:
    """Return the number of optimizer steps; the last may hold fewer than batch_size rankings."""
    return math.ceil(round(num_rankings * num_train_epochs) / batch_size)


def batch_of(
    step: int, num_rankings: int, *, num_train_epochs: float, batch_size: int, seed: int
) -> list[int]:
    """Return the indices of the rankings of optimizer step `step` (from 0).

    Rankings form one endless row, epoch after epoch, each epoch shuffled by its own key; a step is
    a stretch of that row.
    """
    end = round(num_rankings * num_train_epochs)
    places = range(step * batch_size, min((step + 1) * batch_size, end))
    orders = {
        epoch: generator("rm order", seed, epoch).permutation(num_rankings)
        for epoch in {place // num_rankings for place in places}
    }
    return [int(orders[place // num_rankings][place % num_rankings]) for place in places]


def save_checkpoint(model: RewardModel, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write all that training needs to go on: weights and the optimizer's state."""
    save_model(model, str(folder / "weights.safetensors"))
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def load_checkpoint(model: RewardModel, optimizer: torch.optim.Optimizer, folder: Path) -> int:
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
