"""TRL's DPOTrainer, held to what this project promises. The one module here that imports TRL.

TRL trains; everything that decides numbers is set by us and shown in one place, `arguments`. What
its defaults would do, and why they are not used:

- Tokens. TRL would tokenise prompts and answers with templates and end tokens of its own, and cut
  what is longer than 1,024 tokens. It is given token ids: those that the policy will see when it is
  sampled. Padding is masked by length, so a pad token equal to the terminal token is learned.
- Reference. TRL would hold a second model, or compute log-probs of its own and cache them beside
  the data set. They are given as columns, computed once before training by the same function and
  in the same precision as in training; so one model is in memory and the first log-ratios are 0.
- Loss. TRL takes the mean over each micro-batch and then the mean of these, so that the last step
  of a training depends on how its pairs were dealt out; it leaves `label_smoothing` out of the
  sigmoid loss, so that cDPO can not be had; it pads all answers to the longest, and computes
  entropies and more at every token. `_Trainer` takes the project's one log-softmax at response
  tokens, a few rows of like length at a time, and the losses of `losses.py`: the same numbers
  (a test compares loss and gradient with TRL's).
- Order, NaN and checkpoints: `plumbrule/lm/hf_trainer.py`.
- Several GPUs in view, bf16 and gradient checkpointing by default, progress bars, usage telemetry:
  off, or set from our config.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import trl
from torch import Tensor, nn
from transformers import PrinterCallback
from trl.trainer.dpo_trainer import DataCollatorForPreference

from plumbrule.lm.hf_trainer import (
    ROWS_LOGGED,
    Reporter,
    UpdateSettings,
    common_arguments,
    keep_to,
    micro_batch,
    order,
    quiet,
    start_from,
)
from plumbrule.lm.policy import Policy
from plumbrule.lm.response_logprobs import PaddedRows, efficient_rows, score_passes, sum_rows
from plumbrule.protocols import Tracker
from rlhf.dpo.config import DPOConfig
from rlhf.dpo.losses import preference_losses
from rlhf.dpo.pairs import PairTokens

LOGGED = ("accuracy", "rewards_chosen", "rewards_rejected")
"""What is logged of each step beside loss, gradient norm and learning rate."""


def train(
    policy: Policy,
    examples: Sequence[PairTokens],
    config: DPOConfig,
    *,
    micro_batch_size: int,
    device: torch.device,
    saves: Path,
    tracker: Tracker,
) -> None:
    """Train `policy` in place on the pairs, going on from the newest checkpoint under `saves`.

    Each optimizer step is the mean over `config.batch_size` pairs (fewer in the last step),
    whatever the micro-batch.
    Args: micro_batch_size: rows per pass; a pair is two.
    Raises: TrainingError: the loss or gradient is not finite.
    """
    rows = order(len(examples), config.num_train_epochs, config.seed, "dpo pairs")
    steps = math.ceil(len(rows) / config.batch_size)
    start, newest = start_from(saves, tracker)
    with quiet(), tracker.progress(steps, "dpo", "steps") as line:
        line.skip(start)
        trainer = make_trainer(
            policy,
            dataset(examples, rows),
            arguments(config, steps, micro_batch_size, device, saves),
            [Reporter("dpo", tracker, line, saves, max(1, steps // ROWS_LOGGED), LOGGED)],
        )
        trainer.train(resume_from_checkpoint=newest)
    policy.model.eval()


def make_trainer(
    policy: Policy, rows: datasets.Dataset, told: trl.DPOConfig, callbacks: Sequence[Any] = ()
) -> _Trainer:
    """Return the trainer of a policy on the rows of `dataset`."""
    trainer = _Trainer(
        model=policy.model,
        args=told,
        train_dataset=rows,
        data_collator=DataCollatorForPreference(pad_token_id=policy.pad_id),
        processing_class=policy.tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    # An older transformers knows no `loss_is_scaled_for_ga`: it would divide by a step's passes
    # once more, so that the step depended on how its pairs are dealt out.
    trainer.model_accepts_loss_kwargs = True
    if "ref" in getattr(policy.model, "peft_config", {}):
        policy.model.delete_adapter("ref")  # TRL's copy of ours for log-probs that we have already
        policy.model.set_adapter("default")  # PEFT before 0.21 froze ours when it made that copy
    return trainer


def dataset(examples: Sequence[PairTokens], rows: Sequence[int]) -> datasets.Dataset:
    """Return the examples in the columns that TRL's collator reads, in the order `rows`."""
    columns = {
        "prompt_ids": [example.prompt for example in examples],
        "chosen_ids": [example.chosen for example in examples],
        "rejected_ids": [example.rejected for example in examples],
        "ref_chosen_logps": [example.ref_chosen for example in examples],
        "ref_rejected_logps": [example.ref_rejected for example in examples],
    }
    return datasets.Dataset.from_dict(columns).select(rows)


def arguments(
    config: DPOConfig, steps: int, micro_batch_size: int, device: torch.device, saves: Path
) -> trl.DPOConfig:
    """Return all that TRL and transformers are told."""
    pairs = micro_batch(config.batch_size, max(1, micro_batch_size // 2))
    settings = UpdateSettings(
        seed=config.seed,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_share=config.warmup_share,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        precision=config.precision,
        save_every=config.save_every,
    )
    told = trl.DPOConfig(
        **common_arguments(settings, steps, pairs, device, saves),
        # The loss.
        beta=config.beta,
        loss_type=[config.loss],
        label_smoothing=config.label_smoothing,
        precompute_ref_log_probs=True,
        disable_dropout=True,
    )
    keep_to(device, told)
    return told


class _Trainer(trl.DPOTrainer):
    """DPOTrainer on the token ids and reference log-probs of `dataset`."""

    loss_is_scaled_for_ga = True

    def _prepare_dataset(self, dataset: datasets.Dataset, *rest: Any) -> datasets.Dataset:
        """Return the rows as they are: they hold token ids."""
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, *rest: Any) -> datasets.Dataset:
        """Return the rows as they are: they hold the reference's log-probs."""
        return dataset

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], int]:
        """Return the micro-batches of one optimizer step, and how many pairs they hold."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(len(batch["ref_chosen_logps"]) for batch in batches)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the summed loss of a micro-batch over the pairs of the whole optimizer step."""
        if num_items_in_batch is None or return_outputs:
            raise ValueError("this trainer trains; `rlhf.dpo.stage` measures.")
        batch = PaddedRows(
            inputs["input_ids"],
            inputs["attention_mask"].bool(),
            inputs["completion_mask"].bool(),
        )
        rows = efficient_rows(model, len(batch.tokens))
        precision = "bfloat16" if self.args.bf16 else "float32"
        nats = sum_rows(score_passes(model, batch, rows, precision=precision))
        reference = torch.stack([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        logratios = nats.view(2, -1) - reference  # rows are the chosen, then the rejected
        lengths = batch.response_mask.sum(1).view(2, -1)
        losses = preference_losses(
            logratios, lengths, self.loss_types[0], self.beta, self.label_smoothing
        )
        # TRL logs the mean of each list: one entry per pair, so that it is the step's.
        chosen, rejected = self.beta * logratios.detach()
        right = (torch.sign(chosen - rejected) + 1) / 2  # equal rewards: a guess by coin
        for name, values in zip(LOGGED, (right, chosen, rejected), strict=True):
            self._metrics["train"][name] += values.tolist()
        return losses.sum() / num_items_in_batch
