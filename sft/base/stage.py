"""Stage `base`: a small causal language model from nothing, or a named one as it is.

From a corpus to a policy folder, read top to bottom: train a tokenizer, pack the documents into
rows (`packing.py`), make a Llama, train it (`packed_rows.py` computes the loss), measure it on
held-out texts (`held_out.py`), save it. The loop is our own because there is nothing in it that a
trainer would shorten: no data to stream, no evaluation to schedule, no pickles to explain.

What was decided:

- The loss is the weighted mean negative log-likelihood of a step's tokens: weights come from the
  corpus (`sft/base/corpus.py`) and are normalised over the whole step, so the gradient does not
  depend on how a step is cut into micro-batches. Logits are made only where a weight is above 0.
- Muon (https://kellerjordan.github.io/posts/muon/) on the matrices of the layers, AdamW on
  embeddings and norms. `match_rms_adamw` scales Muon's updates to the size of AdamW's
  (Liu et al. 2025, arXiv:2502.16982, section 2.2), so both share one learning rate.
- Warm-up, constant, linear decay to 0: the trapezoid of Hägele et al. 2024 (arXiv:2405.18392).
- Everything random is a function of (seed, step), so a checkpoint holds weights and optimizer state
  only, and a run that was killed ends with the same bytes on a CPU as one that was not.
- The weights at step 0 may hold a rough circuit for looking things up (`sft/base/induction.py`).

A model that is named, shipped or from a hub, is not trained here but taken as it is, so that one
graph serves any model. Left out: dropout, label smoothing, weight averaging, continued training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from transformers import LlamaForCausalLM

from plumbrule.errors import DataError, TrainingError
from plumbrule.lm.config import ModelConfig
from plumbrule.lm.loading import (
    load_policy,
    make_policy,
    new_model,
    num_parameters,
    resolve_device,
    save_policy,
    train_tokenizer,
)
from plumbrule.lm.templates import settled_turns
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store import checkpoints
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import CHECKPOINTS, MODEL, NOTES, RECORDS, VALIDATION, WEIGHTS
from plumbrule.store.json_files import write_json
from sft.base.config import BaseConfig
from sft.base.corpus import encode, plain_parts, read_corpus
from sft.base.held_out import HeldOutEvaluation
from sft.base.induction import construct
from sft.base.packed_rows import to_tensors, token_nll
from sft.base.packing import PADDING, Packed, batch, pack

ADAM_BETAS = (0.9, 0.95)
ROWS_LOGGED = 400
"""About as many steps of a run are logged."""
SHORT_ROW = 256
"""Tokens; of longer rows, attention that is written out takes too much memory."""
WINDOW = 2048
"""Texts packed together where they are trained on in the order of their file."""


def run(
    config: BaseConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Train a base model on the corpus, save it as `model/`, and return its held-out metrics.

    A model that `config.model` names is taken as it is: opened, checked and saved the same way.

    Raises: ConfigError: a named model that can't be loaded. DataError: a malformed corpus, or one
    that holds nothing to learn. TrainingError: the loss or gradient is not finite.
    """
    if config.model.name_or_path is not None:
        return take_over(config.model, out)
    # 1. The corpus, and the tokenizer that is trained on it.
    texts = read_corpus(inputs["corpus"].file(RECORDS))
    held_out = read_corpus(inputs["corpus"].file(VALIDATION))
    tokenizer = train_tokenizer(plain_parts(texts), config.model.vocab_size)

    # 2. Rows of tokens.
    in_order = config.order == "file"
    rows = pack(
        encode(tokenizer, texts),
        config.sequence_tokens,
        tokenizer.pad_token_id,
        WINDOW if in_order else None,
    )
    if not rows.weights.any():
        raise DataError(
            "the corpus holds no token with a weight above 0; give it more text.",
            inputs["corpus"].file(RECORDS),
        )

    # 3. A model, trained to the end.
    device = resolve_device(runtime)
    model = new_model(config.model, tokenizer, config.seed)
    if config.start == "induction":
        construct(model, config.seed)
    if device.type == "cpu" and config.sequence_tokens <= SHORT_ROW:
        model.set_attn_implementation("eager")  # a fifth faster there than the fused kernel
    model.to(device)
    evaluation = HeldOutEvaluation(
        tokenizer, held_out, config.sequence_tokens, runtime.micro_batch_size
    )
    train(model, rows, config, runtime.micro_batch_size, out / CHECKPOINTS, tracker, evaluation)

    # 4. The policy, its held-out metrics and notes.
    save_policy(make_policy(model, tokenizer, config.model.context), out / MODEL)
    metrics = {
        "base/documents_split": float(rows.num_split),
        "base/padding_share": float((rows.documents == PADDING).mean()),
        "base/parameters": float(num_parameters(model)),
        "base/epochs": config.steps * config.batch_tokens / rows.tokens.size,
    }
    notes = []
    if rows.num_split:
        notes.append(
            f"{rows.num_split} of {len(texts)} documents were longer than a row of "
            f"{config.sequence_tokens} tokens and were split."
        )
    metrics |= evaluation.run(model)
    if not held_out:
        notes.append("The corpus has no held-out texts, so the base model's loss is not known.")
    write_json(out / NOTES, notes)
    return metrics


def take_over(model: ModelConfig, out: Path) -> Mapping[str, float]:
    """Save a named model as `model/` and return its number of parameters."""
    assert model.name_or_path is not None
    policy = load_policy(
        model.name_or_path,
        revision=model.revision,
        context=model.context,
        pad_token=model.pad_token,
    )
    turns = settled_turns(model.system_turns, policy.spec.system_turns)
    policy.spec = dataclasses.replace(policy.spec, system_turns=turns)
    save_policy(policy, out / MODEL)
    if policy.notes:
        write_json(out / NOTES, list(policy.notes))
    return {"base/parameters": float(num_parameters(policy.model))}


def train(
    model: LlamaForCausalLM,
    rows: Packed,
    config: BaseConfig,
    micro_batch_size: int,
    saves: Path,
    tracker: Tracker,
    evaluation: HeldOutEvaluation | None = None,
) -> None:
    """Train `model` in place on packed rows, going on from the newest checkpoint under `saves`.

    Raises: TrainingError: the loss or gradient is not finite.
    """
    optimizers = make_optimizers(model, config)
    start = _resume(model, optimizers, saves)
    tracker.rewind(start)
    rows_per_batch = config.batch_tokens // config.sequence_tokens
    log_every = max(1, config.steps // ROWS_LOGGED)
    model.train()
    with tracker.progress(config.steps, "base", "steps") as line:
        line.skip(start)
        for step in range(start, config.steps):
            # 1. The learning rate and the rows of this step.
            scale = trapezoid(step, config.steps, config.warmup_share, config.decay_share)
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * scale
            in_order = config.order == "file"
            chosen = batch(config.seed, step, len(rows.tokens), rows_per_batch, in_order)

            # 2. The gradient of the weighted mean, micro-batch by micro-batch.
            total = float(rows.weights[chosen].sum(dtype=np.float64)) or 1.0
            loss = torch.zeros((), device=model.device)
            for micro in to_tensors(rows, chosen, micro_batch_size, model.device):
                with torch.autocast(
                    model.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
                ):
                    nll = token_nll(model, micro.tokens, micro.documents, micro.weights > 0)
                share = (nll * micro.weights[micro.weights > 0]).sum() / total
                share.backward()
                loss += share.detach()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            if not math.isfinite(loss.item() + norm.item()):
                raise TrainingError(
                    f"base: loss {loss.item()} and gradient norm {norm.item()} at step {step} must "
                    "be finite; lower base.learning_rate or use base.precision=float32."
                )

            # 3. The update, and what is kept of it.
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done = step + 1
            line.advance(1, loss=loss.item())
            if done % log_every == 0 or done == config.steps:
                logged = {"base/train_loss": loss.item(), "base/grad_norm": norm.item()}
                tracker.log({**logged, "base/learning_rate": config.learning_rate * scale}, done)
            if evaluation is not None and config.measure_every and done % config.measure_every == 0:
                tracker.log(evaluation.run(model), done)
            if done % config.save_every == 0 and done < config.steps:
                checkpoints.save(saves, done, lambda folder: _save(model, optimizers, folder))
    if start < config.steps:
        checkpoints.save(saves, config.steps, lambda folder: _save(model, optimizers, folder))
    model.eval()


def make_optimizers(
    model: LlamaForCausalLM, config: BaseConfig
) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers by name; weight decay touches the layers' matrices only."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    theirs = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in theirs]
    decay = config.weight_decay
    if config.optimizer == "muon":
        return {
            "muon": torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
            "adamw": torch.optim.AdamW(others, betas=ADAM_BETAS, weight_decay=0.0),
        }
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return {"adamw": torch.optim.AdamW(groups, betas=ADAM_BETAS)}


def trapezoid(step: int, steps: int, warmup_share: float, decay_share: float) -> float:
    """Return the factor on the learning rate at `step`, counted from 0.

    Rises linearly over the first share of steps, is 1, and falls linearly over the last share; the
    step after the last would have 0. Where the shares overlap, the smaller factor holds.
    """
    rising = (step + 1) / max(1.0, warmup_share * steps)
    falling = (steps - step) / max(1.0, decay_share * steps)
    return min(1.0, rising, falling)


def _save(
    model: LlamaForCausalLM, optimizers: dict[str, torch.optim.Optimizer], folder: Path
) -> None:
    save_model(model, str(folder / WEIGHTS))
    state = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    torch.save(state, folder / "optimizers.pt")


def _resume(
    model: LlamaForCausalLM, optimizers: dict[str, torch.optim.Optimizer], saves: Path
) -> int:
    """Load the newest complete checkpoint, if any, and return how many steps it has behind it."""
    found = checkpoints.newest(saves)
    if found is None:
        return 0
    step, folder = found
    load_model(model, str(folder / WEIGHTS))
    state = torch.load(folder / "optimizers.pt", map_location=model.device, weights_only=True)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state[name])
    return step
