"""Episodes per second and memory of our PPO beside TRL 1.12's, on one workload, in one run.

    python scripts/bench_ppo.py                        # five alternating repeats, about 15 minutes
    python scripts/bench_ppo.py --repeats 1 --only ours
    python scripts/bench_ppo.py --prepare /tmp/trl     # fetch TRL where there is a network

Both sides get the same checkpoint, the same token ids, four models (policy, reference, reward,
value), a response limit of 64 tokens with ends of text after 24 on average, 64 episodes per rollout
and 16 optimizer steps on each, of 16 episodes that go through the models together. `--shape 1b`:
1.2G parameters, a limit of 512, 150 on average, 256 episodes, steps of 64 episodes, of which 16 go
through the models together (for TRL 4 where the device has less than 110 GB). TRL's accumulation is
set so that it takes as many steps; by its own settings it would take fewer. Each measurement is a
process of its own: one rollout warms up, the next are timed. TRL 1.12.0 is the
last release that has a PPOTrainer; it is put in a folder of its own, ahead of the installed one, on
the same torch and transformers.

The columns: episodes per second; seconds of an update by part (ours); the rise of the process's
memory after all models are loaded; useful FLOPs (6 N per token of a trained pass, 2 N of any other,
real tokens only, N without embeddings) over the matmul rate of the same precision, threads and run.

Ours in three forms: `float32`, the same maths; `bfloat16`, the same with bf16 compute; `shared`,
bf16 with the lower layers frozen and shared by policy, reference and value model.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from device_rates import device_name, matmul_rate
from ppo_workload import (
    EPOCHS,
    MINI_BATCHES,
    RATE,
    SHAPE,
    WORKLOAD,
    mean_prompt_tokens,
    num_weights,
    ppo_config,
    ppo_inputs,
    require_workload,
)

TRL = "trl==1.12.0"
OURS = ("float32", "bfloat16", "shared")
ROOM = 110e9
"""Bytes that TRL needs of an accelerator for a pass of 16 rows of the 1b shape, about."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2, help="timed rollouts per measurement")
    parser.add_argument("--shape", choices=SHAPE, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="of: trl ours float32 bfloat16 shared")
    parser.add_argument("--workload", type=Path, help="folder that keeps it; made if it is not")
    parser.add_argument("--trl", type=Path, help="folder that --prepare filled")
    parser.add_argument("--prepare", type=Path, help="put TRL into this folder and stop")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.prepare:
        prepare(given.prepare)
    elif given.child:
        measured = run_trl(given) if given.child == "trl" else run_ours(given)
        print("RESULT " + json.dumps(measured))
    else:
        compare(given)


def prepare(folder: Path) -> None:
    """Install TRL, and nothing that it needs, into `folder`."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, TRL], check=True)


def compare(given: argparse.Namespace) -> None:
    """Run every side in turn, `repeats` times, and print medians, ranges and ratios.

    What is known so far is printed as JSON after each measurement, for a run that is cut off.
    Raises: SystemExit: a side failed; the others are measured all the same.
    """
    sides = ["trl", *OURS]
    if given.only:
        named = [side for name in given.only for side in (OURS if name == "ours" else (name,))]
        sides = [side for side in named if side in sides]
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.workload or Path(scratch)
        if "trl" in sides and given.trl is None:
            given.trl = Path(scratch) / "trl"
            prepare(given.trl)
        require_workload(folder, given.shape, given.device)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for repeat in range(given.repeats):
            for side in [side for side in sides if side not in failed]:
                try:
                    results[side].append(child(side, folder, given))
                except SystemExit as error:
                    print(error, file=sys.stderr, flush=True)
                    failed[side] = str(error).strip().splitlines()[-1][:200]
                else:
                    print(f"{repeat + 1} {side} {results[side][-1]}", file=sys.stderr, flush=True)
                print(json.dumps(summary(given, results, failed)), flush=True)
    print(f"{platform.processor() or platform.machine()}, {given.device}, {given.shape}")
    for side, found in results.items():
        if found:
            print(describe(side, found))
    for side in sides:
        if side != "trl" and results.get("trl") and results[side]:
            print(ratios(side, results))
    print(json.dumps(summary(given, results, failed)))
    if failed:
        raise SystemExit(1)


def summary(
    given: argparse.Namespace, results: dict[str, list[dict[str, Any]]], failed: dict[str, str]
) -> dict[str, Any]:
    """Return the medians that other tools read: of each side, ratios to TRL, shares of matmul.

    Args: failed: side -> why.
    """
    names = {"float32": "fp32", "bfloat16": "bf16", "shared": "shared_trunk"}
    found: dict[str, Any] = {"device": device_name(given.device), "repeats": given.repeats}
    theirs = results.get("trl", [])
    for side, rows in results.items():
        for key, of in (("episodes_per_second", 2), ("memory_mib", 0)):
            if rows:
                median = round(statistics.median(row[key] for row in rows), of)
                found.setdefault(key, {})[side] = median
    for side, name in names.items():
        rows = results.get(side, [])
        if rows:
            share = statistics.median(row["useful_share"] for row in rows)
            found[f"update_flops_share_{name}"] = round(share, 3)
        for key, of in (("speed", "episodes_per_second"), ("peak_memory", "memory_mib")):
            pairs = list(zip(rows, theirs, strict=False))  # of a run that is cut off, those so far
            if pairs:
                ratio = statistics.median(a[of] / b[of] for a, b in pairs)
                found[f"{key}_{name}"] = round(ratio, 3)
    return {**found, "failed": failed} if failed else found


def child(side: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return what a process of its own measures of one side.

    Raises: SystemExit: it fails.
    """
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    if side == "trl":
        paths.insert(0, str(given.trl))
    settings = ["--folder", str(folder), "--shape", given.shape, "--device", given.device]
    settings += ["--updates", str(given.updates)]
    done = subprocess.run(
        [sys.executable, __file__, "--child", side, *settings],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{side}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def describe(side: str, found: list[dict[str, Any]]) -> str:
    """Return one line on a side."""
    text = f"{side:9} {spread([f['episodes_per_second'] for f in found], '.2f')} episodes/s"
    text += f", memory +{statistics.median(f['memory_mib'] for f in found):.0f} MiB"
    if "tokens_per_episode" in found[0]:
        tokens = statistics.median(f["tokens_per_episode"] for f in found)
        text += f", {tokens:.0f} tokens/episode"
    if "useful_share" in found[0]:
        text += f", useful {statistics.median(f['useful_share'] for f in found):.2f} of matmul rate"
    if "parts" in found[0]:
        text += "\n          " + ", ".join(
            f"{part} {statistics.median(f['parts'][part] for f in found):.2f} s"
            for part in found[0]["parts"]
        )
    return text


def ratios(side: str, results: dict[str, list[dict[str, Any]]]) -> str:
    """Return one line on how a side compares with TRL, repeat by repeat."""
    pairs = list(zip(results[side], results["trl"], strict=False))  # one may have failed later
    speed = [a["episodes_per_second"] / b["episodes_per_second"] for a, b in pairs]
    memory = [a["memory_mib"] / b["memory_mib"] for a, b in pairs]
    return f"{side:9} {spread(speed, '.2f')} times TRL's speed, {spread(memory, '.2f')} its memory"


def spread(numbers: list[float], form: str) -> str:
    """Return the median and the range."""
    return f"{statistics.median(numbers):{form}} ({min(numbers):{form}}-{max(numbers):{form}})"


# The two sides.


class Memory(threading.Thread):
    """The most memory that this process had since `begin`, above what it had then."""

    def __init__(self, device: str):
        super().__init__(daemon=True)
        self.device, self.base, self.peak = device, 0, 0

    def begin(self) -> None:
        """Take this moment as the base."""
        if self.device == "cpu":
            self.base = self.peak = self.now()
            self.start()
        else:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()

    def now(self) -> int:
        """Return bytes resident."""
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def run(self) -> None:
        """Look every hundredth of a second."""
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.01)

    def mib(self) -> float:
        """Return the rise in MiB."""
        if self.device != "cpu":
            import torch

            self.peak = torch.cuda.max_memory_allocated()
        return (self.peak - self.base) / 2**20


def run_ours(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the stage `ppo` needs."""
    import torch

    import rlhf.ppo.stage as stage
    from plumbrule.machine import environment
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.tracking.stage_tracker import NullTracker

    work, size = WORKLOAD[given.shape], SHAPE[given.shape]
    updates = given.updates + 1
    shared: dict[str, Any] = {}
    if given.child == "shared":
        shared = {"unfrozen_layers": 2, "value_trunk": "branch"}
    precision = "float32" if given.child == "float32" else "bfloat16"
    config = ppo_config(given.shape, updates, precision, **shared)
    memory = Memory(given.device)
    logged: list[dict[str, float]] = []

    class Tracker(NullTracker):
        def log(self, metrics: Any, step: int) -> None:
            logged.append(dict(metrics))

    plain = stage.resume

    def resume(*arguments: Any) -> Any:  # the last thing before the first update
        memory.begin()
        return plain(*arguments)

    stage.resume = resume  # type: ignore[assignment]
    expected: list[Any] = []
    measure = stage.estimate_memory

    def estimate_memory(*arguments: Any, **settings: Any) -> Any:
        expected.append(measure(*arguments, **settings))
        return expected[0]

    stage.estimate_memory = estimate_memory  # type: ignore[assignment]
    runtime = RuntimeConfig(device=given.device, micro_batch_size=work["per_device"])
    if given.device != "cpu":  # there TRL has the threads that torch chooses, and so have we
        environment.prepare(runtime)  # the kernels of a real run
    with tempfile.TemporaryDirectory() as out:
        stage.run(config, ppo_inputs(given.folder), runtime, Path(out), Tracker())
    timed = logged[1:]
    seconds = [work["batch"] / m["time/episodes_per_second"] for m in timed]
    names = ("generate", "score", "forward", "update")
    parts = {n: statistics.mean(m[f"time/{n}_seconds"] for m in timed) for n in names}
    response = statistics.mean(m["val/response_length_tokens"] for m in timed)
    prompt = mean_prompt_tokens(given.folder)
    numbers = num_weights(size)
    trained = numbers if given.child != "shared" else numbers * 2 // size["num_layers"]
    per_token = 2 * numbers * 4 + 2 * 4 * 6 * trained  # sampling, rm, policy, ref; 4 epochs of two
    if given.child == "shared":
        read = 2 * (numbers - trained) + 2 * 3 * trained  # the stem once, three tops
        per_token = 2 * numbers * 2 + read + 2 * 4 * 6 * trained
    else:
        per_token += 2 * numbers  # values
    flops = work["batch"] * (prompt + response) * per_token
    rate = matmul_rate(torch.float32 if precision == "float32" else torch.bfloat16, given.device)
    return {
        "episodes_per_second": work["batch"] / statistics.mean(seconds),
        "memory_mib": memory.mib(),
        "tokens_per_episode": prompt + response,
        "parts": parts,
        "useful_share": flops / statistics.mean(seconds) / rate,
        "matmul_gflops": rate / 1e9,
        "expected": str(expected[0]),
    }


def run_trl(given: argparse.Namespace) -> dict[str, Any]:
    """Return what TRL's PPOTrainer needs."""
    import torch
    import trl
    from datasets import Dataset
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    if trl.__version__ != TRL.split("==")[1]:
        raise SystemExit(f"TRL (={trl.__version__}) must be {TRL}; use --prepare and --trl.")
    work, folder = WORKLOAD[given.shape], given.folder
    together = rows_together(given)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy" / "model", padding_side="left")
    dtype = torch.float32

    def classifier(path: Path, head: torch.Tensor | None) -> Any:
        model = LlamaForSequenceClassification.from_pretrained(path, num_labels=1, dtype=dtype)
        with torch.no_grad():
            model.score.weight.zero_() if head is None else model.score.weight.copy_(head)
        return model

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(folder / "policy" / "model", dtype=dtype)

    head = load_file(folder / "rm" / "head.safetensors")["score.weight"]
    rows = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    data = Dataset.from_dict({"input_ids": rows})
    updates = given.updates + 1
    config = PPOConfig(
        output_dir=str(folder / "trl_out"),
        use_cpu=given.device == "cpu",
        bf16=given.device != "cpu",
        report_to=[],
        per_device_train_batch_size=together,
        gradient_accumulation_steps=work["batch"] // together,
        num_mini_batches=MINI_BATCHES,
        num_ppo_epochs=EPOCHS,
        total_episodes=updates * work["batch"],
        response_length=work["limit"],
        local_rollout_forward_batch_size=work["batch"],
        stop_token="eos",
        temperature=1.0,
        missing_eos_penalty=1.0,
        kl_coef=0.05,
        num_sample_generations=0,
        learning_rate=RATE,
        save_strategy="no",
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=0,
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=classifier(folder / "rm" / "model", head),
        value_model=classifier(folder / "policy" / "model", None),
        train_dataset=data,
        eval_dataset=data.select(range(2)),
    )
    # It would count the passes of all mini-batches towards one optimizer step.
    trainer.accelerator.gradient_accumulation_steps = work["batch"] // MINI_BATCHES // together
    steps, moments = 0, []
    plain = trainer.optimizer.step

    def step(*arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += trainer.accelerator.sync_gradients
        return plain(*arguments, **named)

    trainer.optimizer.step = step
    trainer.log = lambda *arguments, **named: moments.append(time.monotonic())
    memory = Memory(given.device)
    memory.begin()
    trainer.train()
    expected = EPOCHS * MINI_BATCHES
    if steps != expected * updates:
        raise SystemExit(
            f"optimizer steps (={steps}) must be {expected} for each of {updates} rollouts."
        )
    seconds = [after - before for before, after in pairwise(moments)]
    return {
        "episodes_per_second": work["batch"] / statistics.mean(seconds),
        "memory_mib": memory.mib(),
        "rows_together": together,
    }


def rows_together(given: argparse.Namespace) -> int:
    """Return how many padded rows TRL's two models take at a time; a small device holds fewer."""
    most = WORKLOAD[given.shape]["per_device"]
    if given.device == "cpu":
        return most
    import torch

    room = torch.cuda.get_device_properties(0).total_memory
    return most if room > ROOM else max(1, most // 4)


if __name__ == "__main__":
    main()
