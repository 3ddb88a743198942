"""TRL's SFTTrainer, held to what this project promises. The one module here that imports TRL.

TRL trains; everything that decides numbers is set by us and shown in one place, `arguments`. What
its defaults would do, and why they are not used:

- Tokens. TRL would tokenise prompt and completion with templates and end tokens of its own. It is
  given token ids and labels instead: the ids are those that the policy will see when it is sampled,
  and labels are -100 on the prompt and on answers to search calls, so the loss is on what the
  policy writes and its terminal token. Padding
  is masked by length, so a pad token equal to the terminal token does not silence it.
- Loss. TRL pads all rows to the longest and, without Triton, scores every position. `_Trainer`
  takes the project's one log-softmax at response tokens, a few rows of like length at a time: the
  same number (a test compares them) in a third of the time.
- Order, NaN and checkpoints: `plumbrule/lm/hf_trainer.py`.
- Several GPUs in view, bf16 and gradient checkpointing by default, progress bars, usage telemetry:
  off, or set from our config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
import trl
from torch import Tensor, nn
from transformers import PrinterCallback
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

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
from plumbrule.lm.loading import Policy
from plumbrule.lm.randomness import seed_everything
from plumbrule.lm.response_logprobs import PADDED_ROWS, PaddedRows, score_passes
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Tracker
from sft.fine_tune.config import ROWS_KEY, SFTConfig

IGNORED = -100
"""The label of a token that is not to be learned; transformers' and torch's convention."""


def train(
    policy: Policy,
    examples: Sequence[TokenRow],
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
    rows = order(len(examples), config.num_train_epochs, config.seed, ROWS_KEY)
    steps = math.ceil(len(rows) / config.batch_size)
    start, newest = start_from(saves, tracker)
    seed_everything(config.seed)
    with quiet(), tracker.progress(steps, "sft", "steps") as line:
        line.skip(start)
        trainer = _Trainer(
            model=policy.model,
            args=arguments(config, steps, micro_batch_size, device, saves),
            train_dataset=dataset(examples, rows),
            data_collator=DataCollatorForLanguageModeling(pad_token_id=policy.pad_id),
            processing_class=policy.tokenizer,
            callbacks=[Reporter("sft", tracker, line, saves, max(1, steps // ROWS_LOGGED))],
        )
        trainer.remove_callback(PrinterCallback)
        # Or a model whose forward knows no `num_items_in_batch` would get no count of tokens.
        trainer.model_accepts_loss_kwargs = True
        trainer.train(resume_from_checkpoint=newest)
    policy.model.eval()


def dataset(examples: Sequence[TokenRow], rows: Sequence[int]) -> datasets.Dataset:
    """Return `input_ids` and `labels` of the examples, in the order `rows`."""
    columns = {
        "input_ids": [[*example.prompt, *example.response] for example in examples],
        "labels": [[*[IGNORED] * len(e.prompt), *_labels(e)] for e in examples],
    }
    return datasets.Dataset.from_dict(columns).select(rows)


def _labels(example: TokenRow) -> Sequence[int]:
    """Return the response's tokens, `IGNORED` where the policy does not write them itself."""
    if example.action_mask is None:
        return example.response
    pairs = zip(example.response, example.action_mask, strict=True)
    return [token if is_action else IGNORED for token, is_action in pairs]


def arguments(
    config: SFTConfig, steps: int, micro_batch_size: int, device: torch.device, saves: Path
) -> trl.SFTConfig:
    """Return all that TRL and transformers are told."""
    rows = micro_batch(config.batch_size, micro_batch_size)
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
    told = trl.SFTConfig(
        **common_arguments(settings, steps, rows, device, saves),
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=False,
    )
    keep_to(device, told)
    return told


class _Trainer(trl.SFTTrainer):
    """SFTTrainer whose loss is the mean of `plumbrule.lm.logprobs.logprobs` over response
    tokens.
    """

    loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the summed loss of a micro-batch over the tokens of the whole optimizer step."""
        if num_items_in_batch is None or return_outputs:
            raise ValueError(
                "this trainer trains; `plumbrule.lm.response_logprobs.mean_nll` measures."
            )
        batch = PaddedRows(
            inputs["input_ids"], inputs["attention_mask"].bool(), inputs["labels"] != IGNORED
        )
        precision = "bfloat16" if self.args.bf16 else "float32"
        nats = torch.zeros((), device=batch.tokens.device)
        for _, found in score_passes(model, batch, PADDED_ROWS, precision=precision):
            nats = nats - found.sum()
        return nats / num_items_in_batch
