"""Stage `sft`: a base model learns to answer, from demonstrations.

The loss is on responses only, terminal token included: a policy that never learned to end makes
PPO's rewards meaningless (they are given at the end). TRL's SFTTrainer does the training
(`sft/fine_tune/trl_trainer.py`); tokens, the order of rows and measurement are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbrule.data.records import Demonstration, read_records
from plumbrule.errors import ConfigError, DataError
from plumbrule.inputs import Inputs
from plumbrule.lm.adapters import has_adapter, prepare_training
from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.cost_metrics import ADAPTED, TRAINED, cost_metrics, num_weights
from plumbrule.lm.demonstrations import (
    EncodedDemonstrations,
    encode_demonstrations,
    with_retrieved,
)
from plumbrule.lm.generation import generate
from plumbrule.lm.hf_trainer import order
from plumbrule.lm.loading import (
    Policy,
    checkpoint_activations,
    load_policy,
    load_tokenizer,
    resolve_device,
    save_policy,
)
from plumbrule.lm.logprobs import trunk
from plumbrule.lm.policy import PolicySpec, SearchForm
from plumbrule.lm.randomness import row_key
from plumbrule.lm.response_logprobs import mean_nll
from plumbrule.lm.search_calls.calls import CallEnd
from plumbrule.lm.sizes.lengths import describe_lengths
from plumbrule.lm.templates import check_chats, settled_turns
from plumbrule.lm.token_rows import TokenRow
from plumbrule.protocols import Tracker
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from plumbrule.store.file_names import (
    CHECKPOINTS,
    MODEL,
    NOTES,
    POLICY_FILE,
    RECORDS,
    SAMPLES,
    VALIDATION,
)
from plumbrule.store.json_files import write_json, write_jsonl
from plumbrule.store.packaged_files import located
from sft.fine_tune.config import ROWS_KEY, SFTConfig


def run(
    config: SFTConfig,
    inputs: Mapping[str, Artifact],
    runtime: RuntimeConfig,
    out: Path,
    tracker: Tracker,
) -> Mapping[str, float]:
    """Fine-tune the `base` input, or the configured model, and return its held-out metrics.

    Writes `model/`, `samples.jsonl` and `notes.json`.
    Raises: ConfigError: no model to start from. DataError: the chat template refuses a
        demonstration, or none fits the context.
    TrainingError: the loss or gradient is not finite.
    """
    from sft.fine_tune.trl_trainer import train  # TRL takes seconds to import

    # 1. The policy to start from, once its chat template is known to take the chats.
    base = inputs.get("base")
    check_demonstrations(config, base, inputs["demonstrations"])
    device = resolve_device(runtime)
    policy = starting_policy(config, base)
    policy = prepare_training(policy, config.adapter, config.seed, "sft.adapter")
    policy.model.to(device)

    # 2. The demonstrations that fit its context.
    records = inputs["demonstrations"].file(RECORDS)
    every = read_records(Demonstration, records)
    taught_form = policy.spec.search_form
    if taught_form is None or any(demonstration.searches for demonstration in every):
        form = SearchForm(config.search.open, config.search.close, config.search.template)
        policy.spec = dataclasses.replace(policy.spec, search_form=form)
    retriever = None
    if config.retrieval.share > 0:
        retriever = Inputs(inputs).retriever("index", config.retrieval.method, runtime)
    learned, held_out = (
        encode_demonstrations(
            policy,
            with_retrieved(
                policy,
                demonstrations,
                retriever,
                retrieval,
                config.seed,
                lambda told: tracker.say(f"sft  {told}"),
            ),
        )
        for demonstrations, retrieval in (
            (every, config.retrieval),
            (
                read_records(Demonstration, inputs["demonstrations"].file(VALIDATION)),
                config.retrieval.without_chance(),
            ),
        )
    )
    if not learned.rows:
        raise DataError(
            f"none of {learned.num_too_long} demonstrations fits the context "
            f"(={policy.spec.context} tokens); raise model.context or give shorter ones.",
            records,
        )

    config = with_epochs(config, learned.rows, records)
    lengths = [*learned.lengths, *held_out.lengths]
    num_too_long = learned.num_too_long + held_out.num_too_long
    told = describe_lengths("demonstrations", lengths, policy.spec.context, num_too_long)
    tracker.say(f"sft  {told}")
    num_searching = sum(bool(d.searches) for d in learned.demonstrations)
    if not num_searching:
        policy.spec = dataclasses.replace(policy.spec, search_form=taught_form)

    # 3. Training.
    if config.num_train_epochs > 0:
        if runtime.gradient_checkpointing:
            checkpoint_activations(policy.model)
        train(
            policy,
            learned.rows,
            config,
            micro_batch_size=runtime.micro_batch_size,
            device=device,
            saves=out / CHECKPOINTS,
            tracker=tracker,
        )

    # 4. What it came to.
    save_policy(policy, out / MODEL)
    metrics = {
        "sft/rows": float(len(learned.rows)),
        "sft/rows_too_long": float(learned.num_too_long),
        **({"sft/rows_with_searches": float(num_searching)} if num_searching else {}),
        **training_cost(policy, learned.rows, config),
    }
    if held_out.rows:
        loss = mean_nll(policy, held_out.rows, runtime.micro_batch_size)
        metrics |= {"sft/loss": loss, "sft/perplexity": math.exp(loss)}
    samples = sample_responses(policy, held_out, config, runtime.micro_batch_size)
    write_jsonl(out / SAMPLES, samples)
    tracker.table(
        "samples",
        ["prompt", "response", "reference"],
        [[row["prompt"], row["response"], row["reference"]] for row in samples],
    )
    too_long = (learned.num_too_long, held_out.num_too_long)
    said = notes(policy.spec.context, *too_long, bool(held_out.rows))
    write_json(out / NOTES, [*policy.notes, *said])
    return metrics


def check_demonstrations(config: SFTConfig, base: Artifact | None, given: Artifact) -> None:
    """Raise DataError if the chat template refuses a demonstration; no model is loaded."""
    path = base.file(MODEL) if base is not None else config.model.name_or_path
    if path is None:
        return  # `starting_policy` says so
    revision = None if base is not None else config.model.revision
    tokenizer = load_tokenizer(located(path), revision=revision, pad_token=config.model.pad_token)
    saved = Path(path) / POLICY_FILE
    system_turns = config.model.system_turns
    if saved.is_file():
        system_turns = settled_turns(system_turns, PolicySpec.read(saved).system_turns)
    for name in (RECORDS, VALIDATION):
        chats = ((d.id, d.messages) for d in read_records(Demonstration, given.file(name)))
        check_chats(tokenizer, chats, system_turns)


def with_epochs(config: SFTConfig, rows: Sequence[TokenRow], path: Path) -> SFTConfig:
    """Return the config with the epochs that make `train_tokens`, where these are given.

    Raises: DataError: the first row exceeds them.
    """
    if config.train_tokens is None:
        return config
    whole = math.ceil(config.train_tokens / sum(row.num_tokens for row in rows))
    left, number = config.train_tokens, 0
    for place in order(len(rows), whole, config.seed, ROWS_KEY):
        left -= rows[place].num_tokens
        if left < 0:
            break
        number += 1
    if number == 0:
        raise DataError(
            f"sft.train_tokens (={config.train_tokens} tokens) must hold the first row; raise it.",
            path,
        )
    return dataclasses.replace(config, num_train_epochs=number / len(rows))


def training_cost(policy: Policy, rows: Sequence[TokenRow], config: SFTConfig) -> dict[str, float]:
    """Return the tokens and FLOPs of training as headline metrics."""
    seen = order(len(rows), config.num_train_epochs, config.seed, ROWS_KEY)
    tokens = sum(rows[place].num_tokens for place in seen)
    each = ADAPTED if has_adapter(policy) else TRAINED
    flops = each * num_weights(trunk(policy.model)) * tokens
    return cost_metrics(training_tokens=tokens, training_flops=flops)


def starting_policy(config: SFTConfig, base: Artifact | None) -> Policy:
    """Return the policy to train, its spec with what the config says of context and templates.

    Raises: ConfigError: neither a base artifact nor `model.name_or_path` is given.
    """
    if base is not None:
        policy = load_policy(base.file(MODEL))
    elif config.model.name_or_path is not None:
        policy = load_policy(
            config.model.name_or_path,
            revision=config.model.revision,
            pad_token=config.model.pad_token,
        )
    else:
        raise ConfigError(
            "sft.model.name_or_path (=None) must name a model where the sft node has no base "
            "input; set it, or give the node a base."
        )
    policy.spec = dataclasses.replace(
        policy.spec,
        context=min(policy.spec.context, config.model.context),
        retrieval_template=config.retrieval_template,
        passage_template=config.passage_template,
        system_turns=settled_turns(config.model.system_turns, policy.spec.system_turns),
    )
    return policy


def sample_responses(
    policy: Policy, held_out: EncodedDemonstrations, config: SFTConfig, rows_per_pass: int
) -> list[dict[str, Any]]:
    """Return greedy responses to the first prompts that fit with one, beside references.

    Of a policy that learned to search, the first turn alone, which may end with a call.
    """
    until = None
    if (form := policy.spec.search_form) is not None:
        search = SearchConfig(**form._asdict())
        until = CallEnd(policy.tokenizer, search, policy.spec.stop_token_ids)
    longest = policy.spec.context - config.max_new_tokens
    pairs = zip(held_out.demonstrations, held_out.rows, strict=True)
    shown = [(d, row.prompt) for d, row in pairs if len(row.prompt) <= longest][
        : config.num_samples
    ]
    sampling = SamplingConfig(
        temperature=0.0, max_new_tokens=config.max_new_tokens, batch_size=rows_per_pass
    )
    keys = [row_key("sft sample", config.seed, d.id) for d, _ in shown]
    prompts = [prompt for _, prompt in shown]
    samples = generate(policy, prompts, sampling=sampling, keys=keys, until=until)
    return [
        {
            "id": demonstration.id,
            "prompt": "\n".join(f"{m.role}: {m.content}" for m in demonstration.messages),
            "passages": list(demonstration.passages),
            "response": policy.decode(sample.tokens),
            "finished": sample.finished,
            "reference": reference(demonstration),
        }
        for (demonstration, _), sample in zip(shown, samples, strict=True)
    ]


def reference(demonstration: Demonstration) -> str:
    """Return what a demonstration teaches, as the report shows it: its queries, its response."""
    queries = [f"(searches: {search.query})" for search in demonstration.searches]
    return " ".join([*queries, demonstration.response])


def notes(context: int, too_long: int, held_out_too_long: int, measured: bool) -> list[str]:
    """Return what a reader of the report must be told."""
    said = []
    if too_long or held_out_too_long:
        said.append(
            f"{too_long} training and {held_out_too_long} held-out demonstrations did not fit the "
            f"context of {context} tokens and were left out whole."
        )
    if not measured:
        said.append("No held-out demonstration was there to measure, so the loss is not known.")
    return said
