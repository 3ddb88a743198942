"""Loss, perplexity, bits per byte and exact matches of a base model on held-out texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from sft.base.corpus import CorpusText, encode
from sft.base.packed_rows import to_tensors, token_logits
from sft.base.packing import PADDING, Packed, pack


class HeldOutEvaluation:
    """Held-out texts, ready to be measured as often as one likes."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[CorpusText],
        row_tokens: int,
        micro_batch_size: int,
    ) -> None:
        """Pack the texts of each kind into rows of their own."""
        self.num_bytes = sum(len(text.text.encode()) for text in texts)
        self.micro_batch_size = micro_batch_size
        self.rows: dict[str, Packed] = {}
        for kind in sorted({text.kind for text in texts}):
            encoded = encode(tokenizer, [text for text in texts if text.kind == kind])
            self.rows[kind] = pack(encoded, row_tokens, tokenizer.pad_token_id)

    @torch.no_grad()
    def run(self, model: LlamaForCausalLM) -> dict[str, float]:
        """Return loss, perplexity, bits per byte and, per kind, exact matches, in float32.

        loss: nats per token, weighted as in training; perplexity: its exponential. bits_per_byte:
        over all tokens, whatever their weight, per UTF-8 byte of text, so it compares tokenizers. A
        token sees at most its own row. exact_<kind>: share of texts of which each token with a
        weight of 1 or more is the likeliest one, given those before it; texts without such a token
        do not count, and one longer than a row counts piece by piece. No texts: no metrics.
        """
        if not self.rows:
            return {}
        nats = weighted = weight = 0.0
        exact: dict[str, float] = {}
        for kind, rows in self.rows.items():
            right = total = 0
            for micro in to_tensors(
                rows, np.arange(len(rows.tokens)), self.micro_batch_size, model.device
            ):
                wanted = torch.zeros_like(micro.documents, dtype=torch.bool)
                wanted[:, 1:] = micro.documents[:, 1:] == micro.documents[:, :-1]
                wanted &= micro.documents != PADDING
                logits = token_logits(model, micro.tokens, micro.documents, wanted).float()
                targets = micro.tokens[wanted]
                nll = F.cross_entropy(logits, targets, reduction="none").double()
                nats += nll.sum().item()
                weighted += (nll * micro.weights[wanted]).sum().item()
                weight += micro.weights.sum().item()
                asked = wanted & (micro.weights >= 1)
                missed = torch.zeros_like(wanted)
                missed[wanted] = logits.argmax(-1) != targets
                for row, documents in enumerate(micro.documents):
                    for number in documents[asked[row]].unique():
                        mine = asked[row] & (documents == number)
                        right += not bool(missed[row][mine].any())
                        total += 1
            if kind and total:
                exact[f"base/exact_{kind}"] = right / total
        loss = weighted / weight if weight else math.nan
        return {
            "base/loss": loss,
            "base/perplexity": math.exp(loss),
            "base/bits_per_byte": nats / math.log(2) / self.num_bytes,
            **exact,
        }
