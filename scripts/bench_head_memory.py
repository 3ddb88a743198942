"""Memory of log-probs and their backward pass at a large vocabulary: our slices against the whole.

    python scripts/bench_head_memory.py                        # 4 x 512 tokens, vocabulary 151,936
    python scripts/bench_head_memory.py --rows 1 --tokens 256

Each way runs in a process of its own, on one thread, from the same random hidden states through an
output layer of width 256 in float32: `plumbrule/lm/logprobs.py`, and a plain log-softmax over
(rows, tokens, vocabulary) of which the targets are gathered. Its peak is the kernel's high-water
mark of resident memory (VmHWM, reset before the pass) less what was resident then; the gradient of
the output layer, which both must make, is in both. Log-probs and gradients are then compared.

A slice holds 2^25 logits, so the slices' peak is the same for any number of tokens; at few tokens
the plain way needs less. It prints one JSON object: `peak_mib` and `seconds` of each way, `ratio`
of the peaks, and the largest differences. Memory does not depend on what else the machine does;
seconds do.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from plumbrule.lm.logprobs import logprobs, output_logits

WAYS = ("chunked", "plain")
VOCABULARY, WIDTH = 151_936, 256
SHOWN_ROWS = 4096
"""Of the output layer's gradient that are compared."""


def build(rows: int, tokens: int, vocabulary: int) -> tuple[LlamaForCausalLM, Tensor, Tensor]:
    """Return a model of one narrow layer, ids (rows, tokens + 1) and hidden states before each."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=tokens + 1,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape)
    ids = torch.randint(vocabulary, (rows, tokens + 1))
    return model, ids, torch.randn(rows, tokens + 1, WIDTH).requires_grad_()


def chunked(model: LlamaForCausalLM, ids: Tensor, hidden: Tensor) -> Tensor:
    """Return the log-probs (rows, tokens) as every stage takes them."""
    real = torch.ones_like(ids, dtype=torch.bool)
    target = real.clone()
    target[:, 0] = False
    return logprobs(model, ids, real, target, hidden=hidden).logprobs[:, 1:]


def plain(model: LlamaForCausalLM, ids: Tensor, hidden: Tensor) -> Tensor:
    """Return the same from all logits at once."""
    every = output_logits(model, hidden[:, :-1]).log_softmax(-1)
    return every.gather(-1, ids[:, 1:, None])[..., 0]


FUNCTIONS: dict[str, Callable[[LlamaForCausalLM, Tensor, Tensor], Tensor]] = {
    "chunked": chunked,
    "plain": plain,
}


def resident(field: str) -> int:
    """Return a size of this process in bytes: VmRSS, or its high-water mark VmHWM."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status must hold {field}; this needs Linux.")


def measure(way: str, rows: int, tokens: int, vocabulary: int, out: Path) -> dict[str, float]:
    """Return peak and seconds of one way; write what it computed to `out`."""
    torch.set_num_threads(1)
    model, ids, hidden = build(rows, tokens, vocabulary)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # VmHWM begins anew
    before, begun = resident("VmRSS"), time.perf_counter()
    found = FUNCTIONS[way](model, ids, hidden)
    (found * torch.linspace(0.5, 1.5, found.numel()).view_as(found)).mean().backward()
    seconds, peak = time.perf_counter() - begun, resident("VmHWM") - before
    head, slope = model.get_output_embeddings().weight.grad, hidden.grad
    assert head is not None
    assert slope is not None
    kept = {"logprobs": found.detach(), "hidden": slope, "head": head[:SHOWN_ROWS].clone()}
    save_file({name: x.contiguous() for name, x in kept.items()}, out)
    return {"peak_mib": peak / 2**20, "seconds": seconds}


def compare(rows: int, tokens: int, vocabulary: int) -> dict[str, object]:
    """Return peaks, seconds and the largest differences of the two ways."""
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            sizes = [f"--rows={rows}", f"--tokens={tokens}", f"--vocabulary={vocabulary}"]
            command = [sys.executable, __file__, *sizes, "--only", way, "--out", f"{folder}/{way}"]
            done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
            measured[way] = json.loads(done.stdout.splitlines()[-1])
        one, other = (load_file(f"{folder}/{way}") for way in WAYS)
    apart = {name: float((one[name] - other[name]).abs().max()) for name in one}
    largest = {name: float(other[name].abs().max()) for name in other}
    return {
        "rows": rows,
        "tokens": tokens,
        "vocabulary": vocabulary,
        **{f"{key}_{way}": round(v, 1) for way, m in measured.items() for key, v in m.items()},
        "ratio": round(measured["chunked"]["peak_mib"] / measured["plain"]["peak_mib"], 3),
        "largest_difference": apart,
        "largest_value": largest,
    }


def main() -> None:
    """Measure both ways, or `--only` one, and print the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--only", choices=WAYS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = (given.rows, given.tokens, given.vocabulary)
    if given.only is not None:
        print(json.dumps(measure(given.only, *sizes, given.out)))
    else:
        print(json.dumps(compare(*sizes)))


if __name__ == "__main__":
    main()
