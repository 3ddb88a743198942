"""Tokens per second of ways to sample responses, in one process, in turn, on one workload.

    python scripts/bench_decode.py                                 # a CPU, about four minutes
    python scripts/bench_decode.py --shape 1b --device cuda        # an accelerator
    python scripts/bench_decode.py --only shrinking vllm           # after make install-vllm

Sides: `generate`, transformers' own on padded batches; `continuous`, its continuous batching;
`shrinking`, our batch that ended rows leave; `slots`, ours at fixed addresses, replayed as a graph
on an accelerator; where it is named, `vllm`, as `ppo.sampler=vllm` uses it, its weights sent before
each answer (its start falls into the repeat that warms up). All answer the same prompts, of 8 to 64
tokens, from the same weights, in the same precision, with temperature 1 and nothing truncated;
transformers and vLLM draw random numbers of their own. The model and its lengths are those of
`bench_ppo.py`. Printed are sampled tokens per second, median and range over alternating repeats,
after one that warms up, the ratio to `generate` (else to the first side), and the share of what the
device's memory allows: a step that reads all weights and the keys and values of a full batch once,
at the rate of a large copy.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from device_rates import copy_rate, device_name, wait
from ppo_workload import SHAPE, WORKLOAD, mean_prompt_tokens, num_weights, require_workload

SIDES = ("generate", "continuous", "shrinking", "slots")
ENGINE = "vllm"
"""A side that is asked for by name: it needs an environment of its own."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", choices=SHAPE, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--only", nargs="*", choices=(*SIDES, ENGINE), default=SIDES)
    parser.add_argument("--prompts", type=int, help="default: two full batches")
    parser.add_argument("--workload", type=Path, help="folder that keeps it; made if it is not")
    given = parser.parse_args()
    given.dtype = given.dtype or ("float32" if given.device == "cpu" else "bfloat16")
    given.prompts = given.prompts or 2 * WORKLOAD[given.shape]["batch"]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = given.workload or Path(scratch)
        require_workload(folder, given.shape, given.device)
        sides = prepared(folder, given, stack)
        bandwidth = copy_rate(given.device)
        most = most_tokens(folder, given, bandwidth)
        speeds: dict[str, list[float]] = {side: [] for side in given.only}
        for repeat in range(given.repeats + 1):
            for side in given.only:
                began = time.perf_counter()
                number = sides[side]()
                took = time.perf_counter() - began
                print(f"{repeat} {side} {number} tokens, {took:.2f} s", file=sys.stderr, flush=True)
                if repeat:
                    speeds[side].append(number / took)
                    print(json.dumps(summary(given, speeds, bandwidth, most)), flush=True)
    first = "generate" if "generate" in speeds else given.only[0]
    for side, found in speeds.items():
        line = f"{side:11} {statistics.median(found):8.0f} tokens/s"
        line += f" ({min(found):.0f}-{max(found):.0f})"
        ratio = statistics.median(found) / statistics.median(speeds[first])
        line += f", {ratio:.2f} of {first}, {statistics.median(found) / most:.2f} of the memory's"
        print(line)
    print(json.dumps(summary(given, speeds, bandwidth, most)))


def summary(
    given: argparse.Namespace, speeds: dict[str, list[float]], bandwidth: float, most: float
) -> dict[str, Any]:
    """Return what other tools read: of each side measured so far, tokens a second and shares.

    Args: bandwidth: bytes a second of a copy. most: tokens a second that it allows.
    """
    medians = {side: statistics.median(found) for side, found in speeds.items() if found}
    return {
        "device": device_name(given.device),
        "dtype": given.dtype,
        "prompts": given.prompts,
        "tokens_per_second": {side: round(median, 1) for side, median in medians.items()},
        "bandwidth_share": {side: round(median / most, 4) for side, median in medians.items()},
        "bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
        "repeats": given.repeats,
    }


def most_tokens(folder: Path, given: argparse.Namespace, bandwidth: float) -> float:
    """Return the tokens per second of steps that read weights, keys and values once, no more.

    All rows of a batch are taken to be live in each step, at the mean of their lengths.
    """
    size, work = SHAPE[given.shape], WORKLOAD[given.shape]
    bytes_of_number = 4 if given.dtype == "float32" else 2
    rows = min(work["batch"], given.prompts)
    context = mean_prompt_tokens(folder) + work["mean"] / 2
    numbers = num_weights(size) + size["vocab"] * size["hidden_size"]  # the output layer's too
    numbers += round(rows * context * 2 * size["num_layers"] * size["hidden_size"])
    return rows * bandwidth / (bytes_of_number * numbers)


def prepared(
    folder: Path, given: argparse.Namespace, stack: contextlib.ExitStack
) -> dict[str, Callable[[], int]]:
    """Return what each side runs; it returns how many tokens it sampled.

    Args: stack: ends what a side has started.
    """
    import torch
    from transformers import GenerationConfig

    from plumbrule.data.records import Prompt, read_records
    from plumbrule.lm.config import SamplingConfig
    from plumbrule.lm.generation import generate
    from plumbrule.lm.generation.sampler import decode_in_slots
    from plumbrule.lm.loading import load_policy
    from plumbrule.lm.logprobs import pad_rows
    from plumbrule.machine import environment as machine
    from plumbrule.runtime_config import RuntimeConfig

    machine.prepare(RuntimeConfig())
    work = WORKLOAD[given.shape]
    policy = load_policy(folder / "policy" / "model", device=given.device)
    policy.model.to(getattr(torch, given.dtype))
    prompts = read_records(Prompt, folder / "prompts" / "records.jsonl")[: given.prompts]
    rows = [policy.encode(prompt.messages) for prompt in prompts]
    keys = list(range(len(rows)))
    sampling = SamplingConfig(max_new_tokens=work["limit"], batch_size=work["batch"])
    settings: dict[str, Any] = {
        "max_new_tokens": work["limit"],
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": policy.terminal_id,
        "pad_token_id": policy.pad_id,
    }

    def ours(decode: Callable[..., Any]) -> int:
        found = decode(policy, rows, sampling=sampling, keys=keys)
        return sum(len(sample.tokens) for sample in found)

    def theirs() -> int:
        total = 0
        by_length = sorted(rows, key=len)
        for first in range(0, len(rows), work["batch"]):
            tokens, mask = pad_rows(by_length[first : first + work["batch"]], policy.pad_id, "left")
            found = policy.model.generate(
                tokens.to(given.device), attention_mask=mask.to(given.device), **settings
            )[:, tokens.shape[1] :]
            total += sampled(found.tolist(), policy.terminal_id)
        return total

    plain = load_policy(folder / "policy" / "model", device=given.device).model
    plain.to(getattr(torch, given.dtype))
    plain.set_attn_implementation("sdpa")

    def continuous() -> int:
        found = plain.generate_batch(rows, generation_config=GenerationConfig(**settings))
        return sum(len(one.generated_tokens) for one in found.values())

    engine: list[Callable[..., Any]] = []

    def vllm() -> int:
        from rlhf.ppo.rollout.samplers import open_sampler

        if not engine:
            runtime = RuntimeConfig(device=given.device)
            engine.append(stack.enter_context(open_sampler(ENGINE, given.dtype, runtime)).answer)
        return ours(engine[0])

    def in_turn(side: str) -> Callable[[], int]:
        def run() -> int:
            number = {
                "generate": theirs,
                "continuous": continuous,
                "shrinking": lambda: ours(shrinking),
                "slots": lambda: ours(decode_in_slots),
                ENGINE: vllm,
            }[side]()
            if number == 0:
                raise SystemExit(f"{side} sampled nothing; see what it printed.")
            wait(given.device)
            return number

        return run

    def shrinking(*arguments: Any, **named: Any) -> Any:
        from plumbrule.lm.generation import continuous_batching

        kept = continuous_batching.can_decode
        continuous_batching.can_decode = lambda _: False  # type: ignore[assignment]
        try:
            return generate(*arguments, **named)
        finally:
            continuous_batching.can_decode = kept

    return {side: in_turn(side) for side in (*SIDES, ENGINE)}


def sampled(rows: Sequence[Sequence[int]], terminal: int) -> int:
    """Return the tokens of all rows up to and with their terminal one."""
    return sum(row.index(terminal) + 1 if terminal in row else len(row) for row in map(list, rows))


if __name__ == "__main__":
    main()
