"""Where the time of an update goes, and how much of the device it uses.

Useful work counts real tokens and the weights that they are multiplied with, embeddings aside: 2
FLOPs per token and weight of a forward pass, 6 where all of a model is trained (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1). Held against a large matrix product on the same device in the same
precision it says what is left to gain; attention, norms and the head are not counted as useful.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from plumbrule.lm.adapters import has_adapter
from plumbrule.lm.cost_metrics import ADAPTED, READ, TRAINED, num_weights
from plumbrule.lm.logprobs import trunk
from plumbrule.lm.policy import Policy
from plumbrule.machine.matmul import measured_gflops
from rlhf.ppo.optimisation.learner import Learner
from rlhf.ppo.shared_trunk import Actors

PARTS = {
    "retrieve": "searches, and passages as tokens",
    "prefill": "reading prompts",
    "decode": "sampling responses",
    "score": "reward terms",
    "policy": "log-probs of the policy",
    "ref": "log-probs of the reference",
    "teacher": "log-probs of the teacher",
    "value": "values",
    "frozen_layers": "frozen layers, for all of these",
    "update": "training",
}
"""Part of an update -> what it is."""
COLUMNS = ("part", "seconds", "share", "tokens per second", "share of matmul rate")


class TokenFlops(NamedTuple):
    """Useful FLOPs of one token in each part; `update`: over all epochs."""

    prefill: float
    decode: float
    policy: float
    ref: float
    value: float
    frozen_layers: float
    update: float
    teacher: float = 0.0


def work_per_token(
    actors: Actors, learner: Learner, num_ppo_epochs: int, teacher: Policy | None = None
) -> TokenFlops:
    """Return what a token costs. Args: teacher: of a distillation; None: there is none."""
    whole = num_weights(trunk(actors.policy.model))
    top = num_weights(trunk(actors.reader.model))
    frozen_layers = num_weights(actors.frozen_layers.trunk) if actors.frozen_layers else 0
    value = value_trained = 0
    if learner.value_model is not None and learner.value_model.trunk is not None:
        value = num_weights(learner.value_model.trunk)
        value_trained = value
    # A backward pass costs one product for the activations and one for the weights; adapters are
    # next to nothing beside the weights that they leave alone.
    trained = ADAPTED if has_adapter(actors.policy) else TRAINED
    update = (trained * top + TRAINED * value_trained) * num_ppo_epochs
    read = READ * whole
    taught = READ * num_weights(trunk(teacher.model)) if teacher is not None else 0.0
    reads = (READ * top, READ * top, READ * value, READ * frozen_layers)
    return TokenFlops(read, read, *reads, update, taught)


def num_actions(rows: Sequence[Mapping[str, Any]], batch_size: int) -> float:
    """Return the tokens that were sampled in the updates in a run's log, trained on or not."""
    trained = sum(float(row["val/response_length_tokens"]) for row in rows) * batch_size
    return trained + sum(left_out(row)[1] for row in rows)


def num_trained(rows: Sequence[Mapping[str, Any]], batch_size: int, num_ppo_epochs: int) -> float:
    """Return the tokens of the rows that a run's log says were trained on, once for each epoch."""
    parts = [
        row["val/prompt_length_tokens"] + result_tokens(row) + row["val/response_length_tokens"]
        for row in rows
    ]
    return float(sum(parts)) * batch_size * num_ppo_epochs


def left_out(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the tokens of prompts and of responses that an update sampled and did not train on."""
    prompt, response = (
        float(row.get(f"rollout/{part}_tokens_left_out", 0.0)) for part in ("prompt", "response")
    )
    return prompt, response


def result_tokens(row: Mapping[str, Any]) -> float:
    """Return the tokens of answers to search calls in an update's responses, per response."""
    return float(row.get("search/result_tokens", 0.0))


def flops_of(
    rows: Sequence[Mapping[str, Any]],
    work: TokenFlops,
    batch_size: int,
    samples_per_prompt: int = 1,
) -> float:
    """Return the useful FLOPs of the updates in a run's log, of all processes.

    The sampler reads a prompt once for all its responses, and an answer to a search call once: what
    later turns read again is not useful work.
    """
    total = 0.0
    for row in rows:
        if "time/update_seconds" in row:
            prompt, response = (row[f"val/{x}_length_tokens"] for x in ("prompt", "response"))
            reads = work.policy + work.ref + work.teacher + work.value + work.frozen_layers
            whole = reads + work.update
            prefill = work.prefill * prompt / samples_per_prompt
            results = result_tokens(row)
            one = (prefill + work.prefill * results) + work.decode * response
            one += whole * (prompt + results + response)
            total += float(one) * batch_size
            prompt, response = left_out(row)
            total += work.prefill * prompt / samples_per_prompt + work.decode * response
    return total


def matmul_rate(device: torch.device, precision: str) -> float:
    """Return FLOPs per second of a large matrix product, the best of a few.

    It is measured once for as many threads as there are now.
    """
    return _matmul_rate(device, precision, torch.get_num_threads())


@cache
def _matmul_rate(device: torch.device, precision: str, num_threads: int) -> float:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return 1e9 * measured_gflops(device, dtype)


def time_table(
    rows: Sequence[Mapping[str, Any]],
    work: TokenFlops,
    batch_size: int,
    rate: float,
    processes: int = 1,
) -> dict[str, Any] | None:
    """Return a table for the report, over the updates in a run's log; None without any.

    Tokens are those of all processes, seconds those of one, and `rate` is one process's, of which
    each runs the frozen layers over all rows.
    """
    rows = [row for row in rows if "time/update_seconds" in row]
    if not rows:
        return None

    def total(name: str) -> float:
        return sum(float(row.get(name, 0.0)) for row in rows)

    prompt = total("val/prompt_length_tokens") * batch_size
    response = total("val/response_length_tokens") * batch_size
    results = sum(map(result_tokens, rows)) * batch_size
    seconds = {part: total(f"time/{part}_seconds") for part in PARTS}
    whole = sum(batch_size / float(row["time/episodes_per_second"]) for row in rows)
    unused = [sum(tokens) for tokens in zip(*map(left_out, rows), strict=True)]
    read, sampled = prompt + results + unused[0], response + unused[1]
    tokens = dict.fromkeys(PARTS, prompt + results + response)
    tokens |= {"prefill": read, "decode": sampled, "score": read + sampled, "retrieve": read}
    table, used = [], 0.0
    for part, meaning in PARTS.items():
        if not seconds[part]:
            continue
        flops = (
            getattr(work, part, 0.0) * tokens[part] / (1 if part == "frozen_layers" else processes)
        )
        used += flops
        share = f"{flops / seconds[part] / rate:.2f}" if flops else ""
        table.append(
            [
                f"{part}: {meaning}",
                f"{seconds[part] / len(rows):.3g}",
                f"{seconds[part] / whole:.0%}",
                f"{tokens[part] / seconds[part]:,.0f}",
                share,
            ]
        )
    table.append(
        [
            "all",
            f"{whole / len(rows):.3g}",
            "100%",
            f"{(prompt + results + response) / whole:,.0f}",
            f"{used / whole / rate:.2f}",
        ]
    )
    title = f"seconds of an update ({batch_size} episodes)"
    return {"title": title, "columns": list(COLUMNS), "rows": table}
