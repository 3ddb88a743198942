"""TRL's SFTTrainer, held to what this project promises. The one module here that imports TRL.

TRL trains; everything that decides numbers is set by us and shown in one place, `arguments`. What
its defaults would do, and why they are not used:

- Tokens. TRL would tokenise prompt and completion with templates and end tokens of its own. It is
  given token ids and labels instead: the ids are those that the policy will see when it is sampled,
  and labels are -100 on the prompt, so the loss is on the response and its terminal token. Padding
  is masked by length, so a pad token equal to the terminal token does not silence it.
- Loss. TRL pads all rows to the longest and, without Triton, scores every position. `_Trainer`
  takes the project's one log-softmax at response tokens, a few rows of like length at a time: the
  same number (a test compares them) in a third of the time.
- Order. The rows of all epochs are laid out in our order, as one long epoch that TRL reads front to
  back. So the order is a function of the seed alone, a batch may reach over an epoch's end, and
  skipping to where a checkpoint stands is exact.
- NaN. transformers leaves a loss that is not finite out of its logs and trains on; here it stops.
- Checkpoints. HF's are not atomic, and its rotation deletes an old one before the new one is known
  to be whole. `_Reporter` seals each, then prunes.
- Several GPUs in view, bf16 and gradient checkpointing by default, progress bars, usage telemetry:
  off, or set from our config.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import torch
import trl
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from plumbrule import checkpoints
from plumbrule.errors import TrainingError
from plumbrule.models import Policy
from plumbrule.progress import Progress
from plumbrule.randomness import generator, seed_everything
from plumbrule.scoring import buckets, logprobs
from plumbrule.tracking import Tracker
from sft.config import SFTConfig
from sft.demonstrations import Example

IGNORED = -100
"""The label of a token that is not to be learned; transformers' and torch's convention."""
ROWS_PER_PASS = 8
"""Rows of like length that go through the model together: few, so that little is padding."""
ROWS_LOGGED = 400
"""About as many steps of a run are logged."""


def train(
    policy: Policy,
    examples: Sequence[Example],
    config: SFTConfig,
    *,
    micro_batch_size: int,
    device: torch.device,
    saves: Path,
    tracker: Tracker,
) -> None:
    """Train `policy` in place on the examples, going on from the newest checkpoint under `saves`.

    Each optimizer step is the mean over the response tokens of `config.batch_size` rows (of fewer
    in the last step), whatever the micro-batch.
    Raises: TrainingError: the loss or gradient is not finite.
    """
    rows = order(len(examples), config.num_train_epochs, config.seed)
    steps = math.ceil(len(rows) / config.batch_size)
    if saves.is_dir():
        checkpoints.prune(saves, keep=2)
    found = checkpoints.newest(saves)
    start = found[0] if found else 0
    tracker.rewind(start)
    seed_everything(config.seed)
    with quiet(), tracker.progress(steps, "sft", "steps") as line:
        line.skip(start)
        trainer = _Trainer(
            model=policy.model,
            args=arguments(config, steps, micro_batch_size, device, saves),
            train_dataset=dataset(examples, rows),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=policy.pad_id),
            processing_class=policy.tokenizer,
            callbacks=[_Reporter(tracker, line, saves, log_every=max(1, steps // ROWS_LOGGED))],
        )
        trainer.remove_callback(PrinterCallback)
        # Or a model whose forward knows no `num_items_in_batch` would get no count of tokens.
        trainer.model_accepts_loss_kwargs = True
        trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    policy.model.eval()


def order(num_rows: int, epochs: float, seed: int) -> list[int]:
    """Return the rows in the order of training: each epoch in an order of its own.

    A fraction of an epoch is that fraction of its rows, rounded up.
    """
    whole = [
        row
        for epoch in range(math.ceil(epochs))
        for row in generator("sft rows", seed, epoch).permutation(num_rows).tolist()
    ]
    return whole[: math.ceil(round(epochs * num_rows, 6))]


def dataset(examples: Sequence[Example], rows: Sequence[int]) -> datasets.Dataset:
    """Return `input_ids` and `labels` of the examples, in the order `rows`."""
    columns = {
        "input_ids": [[*example.prompt, *example.response] for example in examples],
        "labels": [[*[IGNORED] * len(e.prompt), *e.response] for e in examples],
    }
    return datasets.Dataset.from_dict(columns).select(rows)


def micro_batch(batch_size: int, most: int) -> int:
    """Return the largest divisor of `batch_size` that is at most `most`."""
    return next(n for n in range(min(batch_size, most), 0, -1) if batch_size % n == 0)


def arguments(
    config: SFTConfig, steps: int, micro_batch_size: int, device: torch.device, saves: Path
) -> trl.SFTConfig:
    """Return all that TRL and transformers are told."""
    rows = micro_batch(config.batch_size, micro_batch_size)
    told = trl.SFTConfig(
        output_dir=str(saves),
        seed=config.seed,
        # The rows: tokenised, ordered and short enough already.
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=config.batch_size // rows,
        # The update.
        optim="adamw_torch",
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(config.warmup_share * steps),
        adam_epsilon=config.adam_epsilon,
        weight_decay=0.0,
        max_grad_norm=config.max_grad_norm,
        # The machine.
        use_cpu=device.type == "cpu",
        bf16=config.precision == "bfloat16",
        gradient_checkpointing=False,  # `checkpoint_activations` does it, where asked to
        dataloader_pin_memory=device.type == "cuda",
        # What is shown and kept.
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=None,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    if device.type == "cuda":
        # By itself it would take cuda:0 and, with more in view, spread the model over all of them.
        told.__dict__["_setup_devices"] = device
        told._n_gpu = 1
        torch.cuda.set_device(device)
    return told


class _Trainer(trl.SFTTrainer):
    """SFTTrainer whose loss is the mean of `plumbrule.scoring.logprobs` over response tokens."""

    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the summed loss of a micro-batch over the tokens of the whole optimizer step."""
        if num_items_in_batch is None or return_outputs:
            raise ValueError("this trainer trains; `sft.demonstrations.mean_nll` measures.")
        tokens, target_mask = inputs["input_ids"], inputs["labels"] != IGNORED
        lengths = inputs["attention_mask"].sum(1).tolist()
        nats = torch.zeros((), device=tokens.device)
        for chosen in buckets(lengths, ROWS_PER_PASS):
            rows, width = torch.tensor(chosen, device=tokens.device), lengths[chosen[0]]
            real_mask = inputs["attention_mask"][rows, :width].bool()
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.args.bf16):
                scores = logprobs(model, tokens[rows, :width], real_mask, target_mask[rows, :width])
            nats = nats - scores.logprobs.sum()
        return nats / num_items_in_batch


class _Reporter(TrainerCallback):
    """Passes numbers to the tracker, refuses those that are not finite, completes checkpoints."""

    def __init__(self, tracker: Tracker, line: Progress, saves: Path, log_every: int):
        self.tracker, self.line, self.saves, self.log_every = tracker, line, saves, log_every

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
                f"sft: loss {loss} and gradient norm {norm} at step {step} must be finite; lower "
                "sft.learning_rate or use sft.precision=float32."
            )
        self.line.advance(1, loss=loss)
        if step % self.log_every == 0 or step == state.max_steps:
            row = {"sft/train_loss": loss, "sft/grad_norm": norm}
            self.tracker.log({**row, "sft/learning_rate": float(logs["learning_rate"])}, step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        checkpoints.seal(self.saves / f"checkpoint-{state.global_step}")
        checkpoints.prune(self.saves, keep=2)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep TRL and what it stands on from warning, and from reporting its use to anyone.

    transformers itself is quiet already: see `plumbrule.machine.prepare`.
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
