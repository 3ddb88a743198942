"""Contrastive training through sentence-transformers' trainer: the one module that imports it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbrule.errors import TrainingError
from plumbrule.protocols import Tracker
from rag.encoder.config import EncoderConfig
from rag.encoder.mining import MinedQuestion
from rag.index.encoders import NeuralEncoder

UNFINISHED = "trainer"
"""Folder that the trainer may write to; nothing of it is published."""


def train(
    encoder: NeuralEncoder,
    examples: Sequence[MinedQuestion],
    texts: Sequence[str],
    config: EncoderConfig,
    device: str,
    out: Path,
    tracker: Tracker,
) -> None:
    """Train the encoder in place by multiple negatives ranking (Henderson et al. 2017).

    The loss of a question is -log of its answer's softmax among all answers and negatives of its
    batch, cosines over the temperature (arXiv:1705.00652, section 4). A batch holds no text twice.
    An attempt that was killed begins again.

    Args: texts: of the chunks, as they are encoded. device: `cpu` or `cuda`.
    Raises: TrainingError: a loss is not finite.
    """
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import PrinterCallback, TrainerCallback

    from plumbrule.lm.hf_trainer import ROWS_LOGGED, quiet

    columns: dict[str, list[str]] = {
        "anchor": [one.question for one in examples],
        "positive": [texts[one.answer] for one in examples],
    }
    for place in range(len(examples[0].negatives)):
        columns[f"negative_{place}"] = [texts[one.negatives[place]] for one in examples]

    prompts = {"query": "anchor", "document": "positive"}
    stated = {c: encoder.model.prompts.get(n, "") for n, c in prompts.items()}
    stated |= {name: stated["positive"] for name in columns if name not in stated}
    steps = math.ceil(config.num_train_epochs * math.ceil(len(examples) / config.batch_size))
    log_every = max(1, steps // ROWS_LOGGED)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out / UNFINISHED),
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=round(config.warmup_share * steps),
        seed=config.seed,
        data_seed=config.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts={name: text for name, text in stated.items() if text} or None,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=device != "cpu",
    )
    with quiet(), tracker.progress(steps, "encoder", "steps") as line:

        class Logged(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                if "loss" not in given["logs"]:  # the summary at the end
                    return
                step, loss = state.global_step, float(given["logs"]["loss"])
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"encoder: the loss (={loss}) at step {step} must be finite; lower "
                        "encoder.learning_rate."
                    )
                line.advance(1, loss=loss)
                if step % log_every == 0 or step == state.max_steps:
                    tracker.log({"encoder/train_loss": loss}, step)

        trainer = SentenceTransformerTrainer(
            model=encoder.model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(encoder.model, scale=1.0 / config.temperature),
            callbacks=[Logged()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    encoder.model.eval()
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
