"""A ready-made sequence classifier as a reward: any of transformers', from a folder or the hub.

It reads text with its own tokenizer, so it may belong to another family than the policy: the
dialogue and the response through its chat template where it has one, else as lines `role: text`.
Shown passages stand before the last question, as a policy without a retrieval template would see
them. A response that was cut by its limit is shown as one that ended. The score is one of the raw
outputs (`reward.classifier.label`), not normalised: set `normalise: batch` where it stands beside
other terms. Weights are safetensors; remote code never runs.

transformers' decoder heads look for the last id that is not the pad id, and read one token early
where a row ends with that very id. Where a tokenizer's pad is its end-of-text token, or it has
none, each batch is therefore padded with an id that occurs nowhere in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from plumbrule.data.records import Message
from plumbrule.errors import ConfigError, DataError
from plumbrule.lm.chat import render_chat
from plumbrule.lm.loading import disable_dropout, resolve_device, usable_positions
from plumbrule.lm.logprobs import buckets, pad_rows
from plumbrule.lm.weights import POOLER, load_whole
from plumbrule.protocols import Episode
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.packaged_files import located
from rlhf.rewards.config import ClassifierConfig
from rlhf.rewards.options import TermInputs

SPARE = rf"^lm_head\.|{POOLER}"
"""What a classifier's checkpoint may hold that its class does not read: the output layer of the
language model that it was made of, and a pooler in families whose classifier has none."""


class Classifier:
    """A sequence classifier as a Scorer."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, label: int, micro_batch_size: int):
        self.model, self.tokenizer = model, tokenizer
        self.label, self.micro_batch_size = label, micro_batch_size

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        """Return {"score": (n,) float64}, raw outputs, in the order of `episodes`.

        Raises: DataError: an episode is longer than the classifier reads.
        """
        rows = [self._row(episode) for episode in episodes]
        scores = np.zeros(len(rows))
        with torch.no_grad():
            for group in buckets([len(row) for row in rows], self.micro_batch_size):
                self.model.config.pad_token_id = pad = self._pad_id([rows[i] for i in group])
                tokens, real_mask = pad_rows([rows[i] for i in group], pad)
                given = {"input_ids": tokens, "attention_mask": real_mask.long()}
                outputs = self.model(**{k: v.to(self.model.device) for k, v in given.items()})
                scores[group] = outputs.logits[:, self.label].double().cpu().numpy()
        return {"score": scores}

    def text(self, episode: Episode) -> str:
        """Return what is read of an episode."""
        *before, last = ({"role": m.role, "content": m.content} for m in episode.prompt.messages)
        asked = "\n\n".join([*episode.passages, last["content"]])
        chat = [*before, {**last, "content": asked}]
        chat.append({"role": "assistant", "content": episode.response})
        if getattr(self.tokenizer, "chat_template", None):
            messages = [Message(turn["role"], turn["content"]) for turn in chat]
            return render_chat(self.tokenizer, messages, generation_prompt=False)
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in chat)

    def _row(self, episode: Episode) -> list[int]:
        # A template writes its own special tokens; without one the tokenizer adds them.
        plain = not getattr(self.tokenizer, "chat_template", None)
        row = self.tokenizer(self.text(episode), add_special_tokens=plain)["input_ids"]
        limit = self._limit()
        if limit is not None and len(row) > limit:
            raise DataError(
                f"prompt {episode.prompt.id!r} with its response (={len(row)} tokens) must fit the "
                f"classifier's {limit} tokens; lower retrieval.budget_tokens or "
                "sampling.max_new_tokens, or use a classifier that reads more."
            )
        return list(row)

    def _pad_id(self, rows: Sequence[Sequence[int]]) -> int:
        own = self.tokenizer.pad_token_id
        if own is not None and own != self.tokenizer.eos_token_id:
            return int(own)
        used = {token for row in rows for token in row}
        return next(i for i in range(self.model.config.vocab_size) if i not in used)

    def _limit(self) -> int | None:
        longest = usable_positions(self.model)
        stated = self.tokenizer.model_max_length
        known = [x for x in (longest, stated) if x is not None and x < 10**9]
        return min(known, default=None)


def open_term(given: TermInputs) -> Classifier:
    """Return the classifier of `reward.classifier`, as `open_classifier` does."""
    return open_classifier(given.settings, given.runtime)


def open_classifier(config: ClassifierConfig, runtime: RuntimeConfig) -> Classifier:
    """Return the classifier that `config` names, on the runtime's device.

    Raises: ConfigError: it does not load, or has no such output.
    """
    path = located(str(config.name_or_path))
    where = {"revision": config.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **where)
        model = load_whole(
            AutoModelForSequenceClassification,
            path,
            "reward.classifier.name_or_path",
            revision=config.revision,
            spare=SPARE,
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"reward.classifier.name_or_path (={config.name_or_path}) must hold a sequence "
            f"classifier with safetensors weights: {str(error).splitlines()[0]} Check the folder."
        ) from None
    if config.label >= int(model.config.num_labels or 0):
        raise ConfigError(
            f"reward.classifier.label (={config.label}) must be below the classifier's number of "
            f"outputs (={model.config.num_labels}); lower it."
        )
    disable_dropout(model)
    model.to(resolve_device(runtime))
    model.eval()
    return Classifier(model, tokenizer, config.label, runtime.micro_batch_size)
