"""What every stage that trains with TRL's trainers shares: order, checkpoints, progress, silence.

The rows of all epochs are laid out in our order, as one long epoch that a trainer reads front to
back: so the order is a function of the seed alone, and skipping to where a checkpoint stands is
exact. transformers leaves a loss that is not finite out of its logs and trains on; here it stops.
Its checkpoints are not atomic, and its rotation deletes an old one before the new one is known to
be whole; `Reporter` seals each, then prunes.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from plumbrule.errors import TrainingError
from plumbrule.lm.randomness import generator
from plumbrule.protocols import ProgressLine, Tracker
from plumbrule.store import checkpoints

ROWS_LOGGED = 400
"""About as many steps of a run are logged."""


def order(num_rows: int, epochs: float, seed: int, what: str) -> list[int]:
    """Return the rows in the order of training: each epoch in an order of its own.

    A fraction of an epoch is that fraction of its rows, rounded up.
    Args: what: key of the random numbers beside the seed and the epoch.
    """
    whole = [
        row
        for epoch in range(math.ceil(epochs))
        for row in generator(what, seed, epoch).permutation(num_rows).tolist()
    ]
    return whole[: math.ceil(round(epochs * num_rows, 6))]


def micro_batch(batch_size: int, most: int) -> int:
    """Return the largest divisor of `batch_size` that is at most `most`."""
    return next(n for n in range(min(batch_size, most), 0, -1) if batch_size % n == 0)


class UpdateSettings(NamedTuple):
    """What every stage that trains here says of its optimizer steps."""

    seed: int
    batch_size: int
    learning_rate: float
    warmup_share: float
    adam_epsilon: float
    max_grad_norm: float
    precision: str
    save_every: int


def start_from(saves: Path, tracker: Tracker) -> tuple[int, str | None]:
    """Return how many steps the newest checkpoint under `saves` has behind it, and its folder.

    0 and None without one. What the tracker has of later steps is forgotten.
    """
    if saves.is_dir():
        checkpoints.prune(saves, keep=2)
    found = checkpoints.newest(saves)
    start = found[0] if found else 0
    tracker.rewind(start)
    return start, str(found[1]) if found else None


def common_arguments(
    settings: UpdateSettings, steps: int, rows_per_pass: int, device: torch.device, saves: Path
) -> dict[str, Any]:
    """Return the arguments of a trainer that are the same in every stage.

    Args: steps: optimizer steps of the whole training. rows_per_pass: a divisor of
    `settings.batch_size`.
    """
    return {
        "output_dir": str(saves),
        "seed": settings.seed,
        # The rows: tokenised, ordered and short enough already.
        "max_length": None,
        "per_device_train_batch_size": rows_per_pass,
        "gradient_accumulation_steps": settings.batch_size // rows_per_pass,
        # The update.
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(settings.warmup_share * steps),
        "adam_epsilon": settings.adam_epsilon,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.precision == "bfloat16",
        "save_steps": settings.save_every,
        "num_train_epochs": 1,  # all epochs are laid out as one
        "train_sampling_strategy": "sequential",
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        # The machine.
        "use_cpu": device.type == "cpu",
        "gradient_checkpointing": False,  # `checkpoint_activations` does it, where asked to
        "dataloader_pin_memory": device.type == "cuda",
        # What is shown and kept.
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_total_limit": None,
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
    }


def keep_to(device: torch.device, told: TrainingArguments) -> None:
    """Hold a trainer to one GPU: by itself it would spread a model over all that are in view."""
    if device.type == "cuda":
        told.__dict__["_setup_devices"] = device
        told._n_gpu = 1
        torch.cuda.set_device(device)


class Reporter(TrainerCallback):
    """Passes numbers to the tracker, refuses those that are not finite, completes checkpoints.

    Args: prefix: start of metrics and settings, as `sft`. more: other logged names to pass on.
    """

    def __init__(
        self,
        prefix: str,
        tracker: Tracker,
        line: ProgressLine,
        saves: Path,
        log_every: int,
        more: tuple[str, ...] = (),
    ):
        self.prefix, self.tracker, self.line, self.saves = prefix, tracker, line, saves
        self.log_every, self.more = log_every, more

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        logs = kwargs["logs"]
        if "loss" not in logs:  # the summary at the end
            return
        step, loss, norm = state.global_step, float(logs["loss"]), float(logs["grad_norm"])
        if not math.isfinite(loss + norm):
            raise TrainingError(
                f"{self.prefix}: loss {loss} and gradient norm {norm} at step {step} must be "
                f"finite; lower {self.prefix}.learning_rate or use {self.prefix}.precision=float32."
            )
        self.line.advance(1, loss=loss)
        if step % self.log_every == 0 or step == state.max_steps:
            row = {"train_loss": loss, "grad_norm": norm}
            row["learning_rate"] = float(logs["learning_rate"])
            row |= {f"train_{name}": float(logs[key]) for name, key in self._found(logs)}
            self.tracker.log({f"{self.prefix}/{name}": x for name, x in row.items()}, step)

    def _found(self, logs: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for key in self.more:
            if key in logs:
                yield key.replace("rewards/", ""), key

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        checkpoints.seal(self.saves / f"checkpoint-{state.global_step}")
        checkpoints.prune(self.saves, keep=2)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TRL and what it stands on from warning, and from reporting its use to anyone.

    transformers itself is quiet already: see `plumbrule.machine.environment.prepare`.
    """
    loggers = [logging.getLogger(name) for name in ("trl", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    telemetry = huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = telemetry
