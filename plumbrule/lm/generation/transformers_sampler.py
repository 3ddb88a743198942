"""Rollouts by transformers' continuous batching: a second engine, in this process.

It runs on a copy of the policy's modules that shares its weights (in bfloat16 on a copy of the
weights), since it exchanges the attention function for its own. Its log-probs are those of the
tempered distribution. Tokens are drawn from one stream of random numbers for the whole batch, which
is seeded by the keys of its responses: the same batch gets the same responses, but which tokens a
response has depends on the others in it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
import transformers
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.utils import WorkloadHints

from plumbrule.errors import ConfigError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation.sampler import Sample, check_lengths
from plumbrule.lm.logprobs import causal_lm
from plumbrule.lm.policy import Policy
from plumbrule.lm.randomness import row_key
from plumbrule.lm.unpadded.attention import PLAIN

WAIT_SECONDS = 1.0
"""Between two looks at whether its thread still runs."""
STOP_SECONDS = 60.0
PAGE_TOKENS = 256
"""Of a page of its cache: what its kernels on accelerators take."""
MOST_TOKENS = 512
"""That are read together; longer prompts are read in parts."""
SEEDS = 2**32
NEEDED = ("page_size", "return_logprobs", "seed")
"""Settings of continuous batching that older versions of transformers do not have."""


def require_engine() -> None:
    """Raise ConfigError unless this transformers has a continuous batching that can be used."""
    lacking = set(NEEDED) - set(inspect.signature(ContinuousBatchingConfig).parameters)
    if lacking:
        raise ConfigError(
            f"ppo.sampler (=transformers) must have continuous batching with {', '.join(NEEDED)}, "
            f"and transformers {transformers.__version__} has no {', '.join(sorted(lacking))}; "
            "install a newer one (constraints.txt), or choose ppo.sampler=own."
        )


class TransformersSampler:
    """See `Sampler`. Args: precision: float32 or bfloat16, of weights and activations."""

    def __init__(self, precision: str):
        self.precision = precision

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        """Return one sample per prompt, in the order of the prompts.

        Raises: ConfigError: a prompt that is too long. TrainingError: a response that did not
            come, or whose log-probs are NaN.
        """
        if len(keys) != len(prompts):
            raise ValueError(
                f"keys (={len(keys)}) must number as many as prompts (={len(prompts)})."
            )
        check_lengths(policy, prompts, sampling.max_new_tokens)
        if not prompts:
            return []
        cuda = [policy.model.device] if policy.model.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=cuda),
            torch.autocast(policy.model.device.type, enabled=False),
        ):
            found = _answers(
                sharing_copy(policy, self.precision),
                [list(prompt) for prompt in prompts],
                sampling,
                policy,
                row_key("transformers", *keys) % SEEDS,
            )
        stops = policy.spec.stop_token_ids
        samples = [
            Sample(o.generated_tokens, o.logprobs, o.generated_tokens[-1] in stops) for o in found
        ]
        if any(value != value for sample in samples for value in sample.logprobs):
            raise TrainingError(
                "the policy's log-probs must be numbers; its weights or logits are NaN."
            )
        return samples


def sharing_copy(policy: Policy, precision: str) -> PreTrainedModel:
    """Return a copy of the policy's modules on the policy's own weights, with plain attention."""
    lm = causal_lm(policy.model)
    shared: dict[int, Any] = {id(x): x for x in [*lm.parameters(), *lm.buffers()]}
    if precision == "bfloat16":
        shared = {}
    model: Any = copy.deepcopy(lm, shared)
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    model.set_attn_implementation(PLAIN)
    return cast(PreTrainedModel, model.eval())


@torch.no_grad()
def _answers(
    model: Any, prompts: list[list[int]], sampling: SamplingConfig, policy: Policy, seed: int
) -> list[Any]:
    """Return transformers' outputs, one for each prompt, in order.

    Its cache has room for `sampling.batch_size` rows; by itself it would take most of the memory.
    """
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    rows = min(sampling.batch_size, len(prompts))
    manager = model.init_continuous_batching(
        generation_config=GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(policy.spec.stop_token_ids),
            pad_token_id=policy.pad_id,
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            return_logprobs=True,
            seed=seed,
            page_size=PAGE_TOKENS,
            num_blocks=rows * -(-longest // PAGE_TOKENS) + 1,
            max_batch_tokens=max(MOST_TOKENS, rows),
            max_requests_per_batch=rows,
        ),
        workload_hints=WorkloadHints(max(map(len, prompts)), sampling.max_new_tokens, len(prompts)),
    )
    try:
        # All are there before its thread looks, or which of them share a batch would be a race.
        names = manager.add_requests(prompts, max_new_tokens=sampling.max_new_tokens)
        manager.warmup()
        manager.start()
        outputs: dict[str, Any] = {}
        while len(outputs) < len(prompts):
            found = manager.get_result(timeout=WAIT_SECONDS)
            if found is not None and found.is_finished():
                outputs[found.request_id] = found
            elif found is None and not manager.is_running():
                break
    finally:
        manager.stop(block=True, timeout=STOP_SECONDS)
        manager.destroy()
    for name in names:
        found = outputs.get(name)
        if found is None or found.error is not None or not found.generated_tokens:
            said = "no answer" if found is None else found.error
            raise TrainingError(
                f"transformers' continuous batching must answer each of {len(prompts)} prompts "
                f"({said}); use ppo.sampler=own."
            )
    return [outputs[name] for name in names]
