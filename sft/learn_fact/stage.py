"""Stage `learn_fact`: how long it takes until a policy that is trained on one new fact answers it.

What the next fact costs a policy that keeps its knowledge in its weights. `rag/add_fact/` is the
other way, on questions of the same set.

1. The questions on facts after the cut-off, and of each the demonstrations of the same fact.
2. For each fact that the policy does not answer already: the policy as it was given; then a step on
   all of the fact's demonstrations, and a greedy answer to the question, until it is right. The
   clock runs from the first step to the first right answer; loading the policy, which a server
   would have in memory, does not count.
3. `items/facts.jsonl`: a row for each fact. The seconds of each are in `metrics.jsonl`.

What else the policy forgets with it is not measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plumbrule.data.records import Demonstration, Prompt, read_records
from plumbrule.errors import DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import prepare_training
from plumbrule.lm.config import AdapterConfig
from plumbrule.lm.judges.known_answers import (
    answer_fact,
    fact_of,
    new_fact_prompts,
    spread_over,
    until_answered,
)
from plumbrule.lm.loading import load_policy, resolve_device
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import seed_everything
from plumbrule.lm.response_logprobs import score_batches, token_row
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import ITEMS, MODEL, RECORDS, VALIDATION
from plumbrule.store.json_files import write_jsonl
from sft.learn_fact.config import LearnFactConfig

Fact = tuple[str, str]
"""(entity, relation)."""


def run(
    config: LearnFactConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Return `learn_fact/{facts,answered,steps,until_answered_seconds}`.

    Raises: DataError: no question on a new fact, or no demonstration of any that is asked for.
    """
    # 1
    told = demonstrations_by_fact(inputs)
    prompts = [
        prompt
        for prompt in new_fact_prompts(inputs["questions"].file(RECORDS))
        if fact_of(prompt.meta) in told
    ]
    if not prompts:
        raise DataError(
            "demonstrations must tell a fact that a question asks for (meta.entity and "
            "meta.relation of both); give the node the data of role new_facts.",
            inputs["demonstrations"].file(RECORDS),
        )
    # 2
    rows: list[dict[str, Any]] = []
    seconds: list[float | None] = []
    number = min(config.num_facts, len(prompts))
    with tracker.progress(number, "learn_fact", "facts") as line:
        for prompt in spread_over(prompts, number):
            if len(rows) == number:
                break
            row, taken = learn(prompt, told[fact_of(prompt.meta)], config, inputs, runtime)
            if row["steps"] == 0:
                continue
            rows.append(row)
            seconds.append(taken if row["answered"] else None)
            tracker.log({"time/fact_seconds": taken}, len(rows))
            line.advance()
    # 3
    (out / ITEMS).mkdir(exist_ok=True)
    write_jsonl(out / ITEMS / "facts.jsonl", rows)
    steps = [row["steps"] for row in rows if row["answered"]]
    found = until_answered("learn_fact", seconds)
    return found | ({"learn_fact/steps": sum(steps) / len(steps)} if steps else {})


def demonstrations_by_fact(inputs: Mapping[str, Artifact]) -> dict[Fact, list[Demonstration]]:
    """Return the demonstrations of each fact, held-out ones too: nothing is measured on them."""
    found: dict[Fact, list[Demonstration]] = {}
    for name in (RECORDS, VALIDATION):
        for one in read_records(Demonstration, Inputs(inputs)["demonstrations"].file(name)):
            if all(fact_of(one.meta)):
                found.setdefault(fact_of(one.meta), []).append(one)
    return found


def learn(
    prompt: Prompt,
    told: Sequence[Demonstration],
    config: LearnFactConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
) -> tuple[dict[str, Any], float]:
    """Return the row of one fact, and the seconds until it was answered or given up; with 0 steps
    where the policy answers it already.
    """
    device = resolve_device(runtime)
    policy = load_policy(inputs["policy"].file(MODEL), device=device)
    policy = prepare_training(policy, AdapterConfig(), config.seed, "learn_fact")
    seed_everything(config.seed)
    rows = [token_row(policy, one.messages, one.passages, one.response) for one in told]
    rows = [row for row in rows if row.num_tokens <= policy.spec.context]
    asked = policy.encode(prompt.messages)
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=0.0)
    answer, steps = answer_fact(policy, prompt, asked, (), config.max_new_tokens), 0
    begun = time.perf_counter()
    while steps < config.max_steps and not answer.is_right:
        train_step(policy, rows, optimizer, runtime.micro_batch_size)
        steps += 1
        answer = answer_fact(policy, prompt, asked, (), config.max_new_tokens)
    taken = time.perf_counter() - begun
    return {
        "id": prompt.id,
        "question": prompt.messages[-1].content,
        "demonstrations": len(rows),
        "steps": steps,
        "training_tokens": steps * sum(row.num_tokens for row in rows),
        "answered": answer.is_right,
        "response": answer.response,
    }, taken


def train_step(
    policy: Policy, rows: Sequence[TokenRow], optimizer: torch.optim.Optimizer, size: int
) -> None:
    """Take one step on the mean loss over the response tokens of all rows."""
    optimizer.zero_grad()
    number = sum(len(row.response) for row in rows)
    for _, nats in score_batches(policy, rows, size):
        (-nats.sum() / number).backward()
    optimizer.step()
