"""`VLLMSampler`: answers a rollout's queries with vLLM, at the policy's weights of this moment.

What was decided. The engine is a process of another environment and knows token ids alone: no
tokenizer, no chat template, no stop token but those of the policy. Weights are sent before every
rollout, through memory that both processes map, and put into the engine's own in place; what its
prefix cache holds was computed with others and is dropped. Each request has a seed of its own, made
of the key of its response, so copies of one prompt differ, and a response depends on (seed, update,
prompt, sample) and not on what the engine did before: a resumed run goes on with the same tokens,
and so does one whose engine died and was started again.

vLLM's log-probs are by default those of the logits before the temperature. They are asked for
after it (`processed_logprobs`), and each engine that starts is tried: its log-probs of a few
sampled tokens at temperature 0.7 must be ours (`check_probe`).

Tokens are drawn by vLLM's kernels and random numbers, so they are not those of `generate`, and the
log-probs agree up to rounding only. How far they are apart is logged (`val/logprob_gap_*`,
`val/ratio_out_of_band`), and `ppo.importance_cap` weighs it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from plumbrule.errors import ConfigError, PlumbruleError, TrainingError
from plumbrule.lm.config import SamplingConfig
from plumbrule.lm.generation.sampler import Sample, check_lengths
from plumbrule.lm.generation.vllm.engine_process import (
    SCRIPT,
    EngineDied,
    EngineFailed,
    EngineHung,
    EngineProcess,
)
from plumbrule.lm.generation.vllm.framing import (
    LOGPROB,
    TOKEN,
    Frame,
    pack_rows,
    unpack_rows,
)
from plumbrule.lm.generation.vllm.shared_weights import SharedWeights
from plumbrule.lm.logprobs import causal_lm, logprobs, pad_rows
from plumbrule.lm.policy import Policy
from plumbrule.machine.vllm_environment import VERSION, check_version
from plumbrule.runtime_config import RuntimeConfig

log = logging.getLogger(__name__)

SEEDS = 2**63
"""Seeds are below this: vLLM's generators take signed numbers of 64 bits."""
TEMPERED = "processed_logprobs"
PROBE_TEMPERATURE = 0.7
PROBE_ROWS, PROBE_TOKENS = 4, 16
LARGEST_PROBE_GAP = {"float32": 1e-2, "bfloat16": 0.2}
"""Mean |difference| of the probe's log-probs from ours, nats; more than rounding explains. Of
float32 it is the largest difference."""
OF_TORCHRUN = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
)
"""Variables of a stage's own processes, which vLLM would take for its own."""
NOT_KNOWN = (
    "are not supported for now",  # a family
    "Unsupported CPU attention",  # a head size
    "head size",
    "has no vLLM implementation",
)
NO_MEMORY = ("KV cache", "kv cache", "memory for the cache blocks", "out of memory", "t allocate")
TOO_LONG = "derived max_model_len"
"""What vLLM says of each; they are looked for in its message."""


class VLLMSampler:
    """One engine, started when it is first asked; use it in a `with`.

    Args:
        python: of vLLM's environment (`vllm_python`).
        precision: float32 or bfloat16, of the engine's weights and activations.
        runtime: says where it runs, with how much memory, and for how long it may be silent.
        logprobs_mode: vLLM's name for which log-probs are returned.
        script: what the process runs.
    """

    def __init__(
        self,
        python: Path,
        precision: str,
        runtime: RuntimeConfig,
        logprobs_mode: str = TEMPERED,
        script: Path = SCRIPT,
    ):
        self.python, self.precision, self.runtime = python, precision, runtime
        self.logprobs_mode, self.script = logprobs_mode, script
        self.weights = SharedWeights()
        self.process: EngineProcess | None = None

    def __enter__(self) -> VLLMSampler:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and give the weights' memory back."""
        if self.process is not None:
            self.process.close()
            self.process = None
        self.weights.close()

    @property
    def name(self) -> str:
        """What a rollout's file says of who sampled it."""
        return f"vllm {VERSION} {self.precision}"

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        """Return one sample per prompt, in the order of the prompts; see `Sampler`.

        A process that dies is started again once for each call.

        Raises: ConfigError: a prompt that is too long; a model that vLLM has not, too little
            memory, log-probs that are not ours. TrainingError: the engine died twice, did not
            answer in time, failed, or gave NaN.
        """
        if len(keys) != len(prompts):
            raise ValueError(
                f"keys (={len(keys)}) must number as many as prompts (={len(prompts)})."
            )
        check_lengths(policy, prompts, sampling.max_new_tokens)
        if not prompts:
            return []
        try:
            try:
                return self._answer(policy, prompts, sampling, keys)
            except EngineDied as died:
                log.warning("%s\nIt is started again, and asked the same.", died)
                self.process = None
                return self._answer(policy, prompts, sampling, keys)
        except EngineFailed as error:
            raise refusal(error, policy, self.runtime.sampler_cache_gib) from None
        except (EngineDied, EngineHung) as error:
            self.process = None
            raise TrainingError(
                f"{error}\nThe run ends; the same command goes on at its last checkpoint."
            ) from None

    def _answer(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        keys: Sequence[int],
    ) -> list[Sample]:
        process = self.process
        if process is None:
            process = self.process = self._start(policy, sampling.batch_size)
            self._load_weights(process, policy)
            self._probe(process, policy, prompts[0])
        elif policy.model.device.type == "cuda":
            torch.cuda.empty_cache()  # room for the engine, which wakes up
        self._load_weights(process, policy)
        found = process.ask(
            *_request(
                prompts,
                [key % SEEDS for key in keys],
                sampling.temperature,
                sampling.max_new_tokens,
                policy.spec.stop_token_ids,
            )
        )
        return _samples(found, policy.spec.stop_token_ids, len(prompts))

    def _start(self, policy: Policy, num_rows: int) -> EngineProcess:
        """Return a process whose engine is built for the policy's kind of model."""
        device, trained = self._device(policy), policy.model.device
        where, unset = environment(device)
        process = EngineProcess(
            self.python,
            self.weights.file,
            where,
            self.runtime.sampler_timeout_seconds,
            unset=unset,
            script=self.script,
        )
        try:
            check_version(process.answer().body["version"], self.python)
            began = time.monotonic()
            process.ask(
                {
                    "op": "start",
                    "config": config_text(policy),
                    "sleep": device.type == "cuda" and device == trained,
                    "dtype": self.precision,
                    "max_model_len": policy.spec.context,
                    "kv_cache_memory_bytes": int(self.runtime.sampler_cache_gib * 2**30),
                    "max_num_seqs": num_rows,
                    "enforce_eager": device.type == "cpu",
                    "logprobs_mode": self.logprobs_mode,
                }
            )
            log.info("vLLM %s started in %.0f seconds.", VERSION, time.monotonic() - began)
        except BaseException:
            process.kill()
            raise
        return process

    def _device(self, policy: Policy) -> torch.device:
        """Return the device that the engine runs on, with its number."""
        given = self.runtime.sampler_device
        device = policy.model.device if given is None else torch.device(given)
        if device.type == "cuda" and device.index is None:
            return torch.device("cuda", torch.cuda.current_device())
        return device

    def _load_weights(self, process: EngineProcess, policy: Policy) -> None:
        dtype = getattr(torch, self.precision)
        process.ask({"op": "weights", "entries": self.weights.write(policy.model, dtype)})

    @torch.no_grad()
    def _probe(self, process: EngineProcess, policy: Policy, prompt: Sequence[int]) -> None:
        """Raise ConfigError unless the engine's log-probs of what it samples are ours."""
        limit = min(PROBE_TOKENS, policy.spec.context - len(prompt))
        prompts, seeds = [prompt] * PROBE_ROWS, list(range(PROBE_ROWS))
        found = process.ask(*_request(prompts, seeds, PROBE_TEMPERATURE, limit, ()))
        samples = _samples(found, (), PROBE_ROWS)
        rows = [[*prompt, *sample.tokens] for sample in samples]
        tokens, real = (x.to(policy.model.device) for x in pad_rows(rows, policy.pad_id))
        target = real.clone()
        target[:, : len(prompt)] = False
        tempered, plain = (
            logprobs(policy.model, tokens, real, target, temperature).logprobs[target].cpu()
            for temperature in (PROBE_TEMPERATURE, 1.0)
        )
        theirs = torch.tensor([value for sample in samples for value in sample.logprobs])
        check_probe(tempered, plain, theirs, self.precision)


def check_probe(tempered: Tensor, plain: Tensor, theirs: Tensor, precision: str) -> None:
    """Raise ConfigError unless an engine's log-probs are those of the tempered distribution.

    Args: tempered, plain: (n,), ours of the sampled tokens at `PROBE_TEMPERATURE` and at 1.
        theirs: (n,), the engine's.
    """
    gaps = (theirs - tempered).abs()
    gap = float(gaps.mean() if precision == "bfloat16" else gaps.max())
    bound = LARGEST_PROBE_GAP[precision]
    if gap <= bound:
        return
    reason = "its weights or its model are not the policy's"
    if float((theirs - plain).abs().mean()) < float(gaps.mean()):
        reason = "they are of the unscaled distribution, before the temperature divides the logits"
    raise ConfigError(
        f"vLLM's log-probs of sampled tokens at temperature {PROBE_TEMPERATURE} must be the "
        f"policy's to {bound:g} nats, and differ by {gap:.3g}: {reason}; use ppo.sampler=own."
    )


def refusal(error: EngineFailed, policy: Policy, cache_gib: float) -> PlumbruleError:
    """Return what an error of vLLM's means for the person who runs this."""
    kind = type(causal_lm(policy.model)).__name__
    said = " ".join(error.said.split())[:400]
    if any(part in error.said for part in NOT_KNOWN):
        return ConfigError(
            f"ppo.sampler (=vllm) must be own for this {kind}, which vLLM {VERSION} does not run "
            f"({said}); change it."
        )
    if TOO_LONG in error.said:
        return ConfigError(
            f"model.context (={policy.spec.context} tokens) must be at most the positions of the "
            f"model's config.json with ppo.sampler=vllm ({said}); lower it, or use ppo.sampler=own."
        )
    if "OutOfMemory" in error.kind or any(part in error.said for part in NO_MEMORY):
        return ConfigError(
            f"runtime.sampler_cache_gib (={cache_gib:g} GiB) must hold a row of the context (="
            f"{policy.spec.context} tokens) and fit the memory beside the weights; vLLM says: "
            f"{said}. Change it, or use runtime.sampler_device or ppo.sampler=own."
        )
    return TrainingError(
        f"vLLM failed ({error.kind}: {said}). It last printed:\n{error.last_lines}"
    )


def config_text(policy: Policy) -> str:
    """Return the config.json of the policy's model, which names its class."""
    lm = causal_lm(policy.model)
    config = type(lm.config).from_dict(lm.config.to_dict())
    config.architectures = [type(lm).__name__]
    return str(config.to_json_string())


def environment(device: torch.device) -> tuple[dict[str, str], list[str]]:
    """Return variables of the engine's process: those that are set, and names that are not.

    Args: device: cpu, or cuda with its number among those that this process sees.
    """
    given = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which our pipe's end ends
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_HOST_IP": "127.0.0.1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "CUDA_VISIBLE_DEVICES": "",
    }
    if device.type == "cuda":
        seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = device.index or 0
        with suppress(IndexError):
            given["CUDA_VISIBLE_DEVICES"] = seen[index].strip() if seen else str(index)
    unset = [name for name in os.environ if OF_TORCHRUN.fullmatch(name)]
    return given, [*unset, "VLLM_CPU_KVCACHE_SPACE"]  # which would win over the cache asked for


def _request(
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    stop_token_ids: Sequence[int],
) -> tuple[dict[str, Any], list[bytes]]:
    """Return the request for one response to each prompt."""
    lengths, packed = pack_rows(prompts, TOKEN)
    body = {
        "op": "generate",
        "lengths": lengths,
        "seeds": list(seeds),
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "stop_token_ids": list(stop_token_ids),
    }
    return body, [packed]


def _samples(answer: Frame, stops: Sequence[int], number: int) -> list[Sample]:
    """Return the samples of an answer. Raises: TrainingError: not so many, empty ones, or NaN."""
    lengths = answer.body["lengths"]
    tokens = unpack_rows(lengths, answer.blobs[0], TOKEN)
    scores = unpack_rows(lengths, answer.blobs[1], LOGPROB)
    if len(tokens) != number or not all(tokens):
        raise TrainingError(
            f"vLLM must answer each of {number} prompts with a token at least, and gave "
            f"{len(tokens)} answers."
        )
    if any(value != value for row in scores for value in row):
        raise TrainingError(
            "the policy's log-probs must be numbers; its weights or logits are NaN."
        )
    return [Sample(row, found, row[-1] in stops) for row, found in zip(tokens, scores, strict=True)]
