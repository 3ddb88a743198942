"""What a busy neighbour costs a training on several threads, and what watching for one costs.

A small Llama (the shape of the shipped base model) is trained in float32 with plain AdamW in a
process of its own, on as many threads as there are cores here (two, by the aim): alone, and beside
one process that is never idle. Both once with this project's wait policy
(`plumbrule/machine/openmp.py`, `contention.py`) and once with OpenMP's default, in turn,
`--repeats` times; the times are medians.

Aims, on two cores: beside the neighbour at most 2.5 times the idle time (2 would be a core lost and
nothing else), and an idle cost of the policy under 3 %. Run it on a machine that is otherwise idle.

    python scripts/bench_contention.py        # about two minutes on two cores

Last line: one JSON object. idle_seconds, beside_seconds: of the training, with our policy and
(`_default`) with OpenMP's. slowdown: beside / idle. idle_cost: ours / default - 1, idle.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from plumbrule.machine import contention, cpus, openmp

ROOT = Path(__file__).resolve().parents[1]
BATCH, TOKENS = 16, 64
WARM_UP_STEPS = 3
BUSY = "while True: pass"


def main() -> None:
    """Measure both policies idle and beside a neighbour, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps that are timed")
    parser.add_argument("--threads", type=int, default=min(2, cpus.available()))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        if openmp.is_ours(os.environ):
            import torch  # noqa: F401  whose OpenMP library is watched

            contention.watch()
        print(json.dumps(train(given.steps, given.threads)))
        return
    seconds: dict[tuple[str, str], list[float]] = {}
    rate = 0.0
    for repeat in range(given.repeats):
        for beside in ("idle", "beside"):
            for policy in ("ours", "default"):
                with neighbour() if beside == "beside" else contextlib.nullcontext():
                    found = child(policy, given)
                seconds.setdefault((beside, policy), []).append(found["seconds"])
                rate = max(rate, found["float32_gflops"])
                print(
                    f"{repeat + 1}/{given.repeats} {beside:<6} {policy:<7}"
                    f" {found['seconds']:.2f} s",
                    flush=True,
                )
    took = {key: statistics.median(times) for key, times in seconds.items()}
    print(
        json.dumps(
            {
                "slowdown": round(took["beside", "ours"] / took["idle", "ours"], 3),
                "slowdown_default": round(took["beside", "default"] / took["idle", "default"], 3),
                "idle_cost": round(took["idle", "ours"] / took["idle", "default"] - 1, 4),
                "idle_seconds": round(took["idle", "ours"], 3),
                "beside_seconds": round(took["beside", "ours"], 3),
                "idle_seconds_default": round(took["idle", "default"], 3),
                "beside_seconds_default": round(took["beside", "default"], 3),
                "steps": given.steps,
                "repeats": given.repeats,
                "threads": given.threads,
                "cores": cpus.available(),
                "processor": cpus.processor(),
                "fp32_gflops": round(rate, 1),
            }
        )
    )


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """Keep one process busy meanwhile, and end it."""
    with subprocess.Popen([sys.executable, "-c", BUSY]) as process:
        try:
            yield
        finally:
            process.kill()


def child(policy: str, given: argparse.Namespace) -> dict[str, float]:
    """Return what a process with that wait policy measures.

    Raises: SystemExit: it fails.
    """
    silent = {k: v for k, v in os.environ.items() if k not in openmp.SET_BY_USERS}
    told = openmp.POLICY if policy == "ours" else {}
    # OpenMP's own default is what it does with no word: one that says nothing keeps ours away.
    kept = {"KMP_LIBRARY": "throughput"} if policy == "default" else {}
    command = [sys.executable, str(Path(__file__).resolve()), "--child"]
    command += ["--steps", str(given.steps), "--threads", str(given.threads)]
    done = subprocess.run(
        command,
        env={**silent, **told, **kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the training with policy {policy} failed; see its output above.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def train(steps: int, threads: int) -> dict[str, float]:
    """Return the seconds of `steps` optimizer steps and this process's matrix-product rate."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from plumbrule.machine.matmul import measured_gflops

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    begun = 0.0
    for step in range(WARM_UP_STEPS + steps):
        if step == WARM_UP_STEPS:
            begun = time.monotonic()
        tokens = torch.randint(0, 2048, (BATCH, TOKENS))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.monotonic() - begun
    rate = measured_gflops(torch.device("cpu"), torch.float32)
    return {"seconds": seconds, "float32_gflops": rate}


if __name__ == "__main__":
    main()
