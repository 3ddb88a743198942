"""Seconds of HaluEval's judging by log-probs, ours beside lm-evaluation-harness's, in one run.

    python scripts/bench_eval.py                         # three alternating repeats
    python scripts/bench_eval.py --rows 8 --repeats 1
    python scripts/bench_eval.py --model <folder>        # another model than a random one

Both sides get the same weights, float32, threads and the same prompts as token ids: an instruction
as long as the official one of QA (`--instruction` reads a file), a question and one of two answers,
both sides of each row, and score " Yes" and " No" behind each. lm-evaluation-harness's `HFLM` gets
them through `_loglikelihood_tokens`, behind its own tokenisation, with its cache of logits on, so
that it reads each prompt once for both words; its batch size is that of `--batch-size` which is the
faster. Each measurement is a process of its own, after one prompt warms up.

lm-evaluation-harness is put into an environment of its own, made here, which sees this one's torch
and transformers. The last line is one JSON object: `halueval_speed`, the median ratio of its
seconds to ours over the repeats, and `max_score_diff`, the largest difference of log-odds, nats.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import argparse
import json
import os
import platform
import random
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

PEER = "lm-eval[hf]==0.4.13"
WORDS = 420
"""Of the generated instruction: as many as the official one of QA has."""
SHAPE = {"hidden_size": 256, "num_layers": 8, "num_heads": 4, "intermediate_size": 1024}
VOCABULARY = 16384
BATCHES = (1, 8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=24, help="rows, of two sides each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="folder; None: random weights")
    parser.add_argument("--instruction", type=Path, help="file; None: generated words")
    parser.add_argument("--batch-size", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--environment", type=Path, help="where it is kept for later runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        side, _, size = given.child.partition(":")
        measured = run_ours(given.folder) if side == "ours" else run_peer(given.folder, int(size))
        print("RESULT " + json.dumps(measured))
    else:
        compare(given)


def compare(given: argparse.Namespace) -> None:
    """Measure every side in turn, `repeats` times, and print seconds and ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = environment(given.environment or folder / "lm-eval")
        make_workload(folder, given)
        sides = ["ours", *(f"peer:{size}" for size in given.batch_size)]
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for repeat in range(given.repeats):
            for side in sides:
                found[side].append(child(python, side, folder))
                took = found[side][-1]["seconds"]
                print(f"{repeat + 1} {side} {took:.2f} s", file=sys.stderr, flush=True)
        rate = matmul_rate()
    ours = found["ours"]
    best = min(sides[1:], key=lambda s: statistics.median(r["seconds"] for r in found[s]))
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(ours, found[best], strict=True)]
    differences = [abs(a - b) for a, b in zip(ours[0]["odds"], found[best][0]["odds"], strict=True)]
    for side, runs in found.items():
        took = [run["seconds"] for run in runs]
        print(f"{side}: median {statistics.median(took):.2f} s, {min(took):.2f}-{max(took):.2f}")
    print(f"{2 * given.rows} texts, {ours[0]['tokens']} tokens, {given.repeats} repeats")
    summary = {
        "halueval_speed": round(statistics.median(ratios), 2),
        "halueval_speed_range": [round(min(ratios), 2), round(max(ratios), 2)],
        "max_score_diff": max(differences),
        "peer": PEER,
        "peer_batch_size": int(best.partition(":")[2]),
        "repeats": given.repeats,
        "fp32_gflops": round(rate, 1),
        "device": f"cpu, {platform.processor() or platform.machine()}",
    }
    print(json.dumps(summary))


def environment(folder: Path) -> Path:
    """Return the Python of an environment with lm-evaluation-harness, made where there is none.

    It sees the packages of this environment behind its own, so that both use the same torch.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        print(f"installing {PEER} into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True)
        inside = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
        packages = Path(
            subprocess.run(inside, check=True, capture_output=True, encoding="utf-8").stdout.strip()
        )
        ours = [path for path in [*site.getsitepackages(), *sys.path] if "site-packages" in path]
        (packages / "ours.pth").write_text("\n".join(dict.fromkeys(ours)) + "\n", encoding="utf-8")
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER], check=True)
    return python


def make_workload(folder: Path, given: argparse.Namespace) -> None:
    """Write the model, and the prompts as token ids."""
    from plumbrule.lm.config import ModelConfig
    from plumbrule.lm.loading import (
        load_policy,
        make_policy,
        new_model,
        save_policy,
        train_tokenizer,
    )

    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(4000)]
    if given.model is None:
        tokenizer = train_tokenizer([" ".join(words), "Yes No Yes No"] * 8, VOCABULARY)
        shape = ModelConfig(context=4096, vocab_size=VOCABULARY, **SHAPE)
        save_policy(make_policy(new_model(shape, tokenizer, 0), tokenizer, 4096), folder / "model")
    else:
        (folder / "model").symlink_to(given.model.resolve())
    policy = load_policy(folder / "model")
    encode = policy.tokenizer.encode
    instruction = " ".join(draw.choices(words, k=WORDS))
    if given.instruction is not None:
        instruction = given.instruction.read_bytes().decode("utf-8")
    prompts = []
    for _ in range(given.rows):
        question = " ".join(draw.choices(words, k=18))
        for length in (2, 11):  # words of a right and of a hallucinated answer of the official file
            answer = " ".join(draw.choices(words, k=length))
            lines = f"#Question#: {question}\n#Answer#: {answer}\n#Your Judgement#:"
            prompts.append(encode(f"{instruction}\n\n{lines}", add_special_tokens=False))
    verdicts = [encode(word, add_special_tokens=False) for word in (" Yes", " No")]
    workload = {"prompts": prompts, "verdicts": verdicts}
    (folder / "workload.json").write_text(json.dumps(workload), encoding="utf-8")


def child(python: Path, side: str, folder: Path) -> dict[str, Any]:
    """Return what a process of its own measures. Raises: SystemExit: it fails."""
    own = Path(sys.executable) if side == "ours" else python
    root = str(Path(__file__).resolve().parents[1])
    command = [str(own), __file__, "--child", side, "--folder", str(folder)]
    surroundings = {
        **os.environ,
        "PYTHONPATH": root,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", env=surroundings, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def run_ours(folder: Path) -> dict[str, Any]:
    """Return seconds and log-odds of our scoring."""
    from plumbrule.lm.generation.shared_prefixes import log_odds
    from plumbrule.lm.loading import load_policy

    workload = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    policy, prompts = load_policy(folder / "model"), workload["prompts"]
    yes, no = workload["verdicts"]

    def score(some: list[list[int]]) -> list[float]:
        return log_odds(policy, some, yes, no, max_rows=8, advance=lambda n: None).tolist()

    score(prompts[:2])
    begun = time.perf_counter()
    odds = score(prompts)
    took = time.perf_counter() - begun
    return {"seconds": took, "odds": odds, "tokens": sum(map(len, prompts))}


def run_peer(folder: Path, batch_size: int) -> dict[str, Any]:
    """Return seconds and log-odds of lm-evaluation-harness's scoring."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    workload = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(folder / "model").float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    peer = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=4096, device="cpu"
    )
    prompts = workload["prompts"]

    def requests(some: list[list[int]]) -> list[Any]:
        words = [(" Yes", workload["verdicts"][0]), (" No", workload["verdicts"][1])]
        return [((str(p), word), p, ids) for p in some for word, ids in words]

    peer._loglikelihood_tokens(requests(prompts[:2]), disable_tqdm=True)
    begun = time.perf_counter()
    found = peer._loglikelihood_tokens(requests(prompts), disable_tqdm=True)
    took = time.perf_counter() - begun
    odds = [yes[0] - no[0] for yes, no in zip(found[::2], found[1::2], strict=True)]
    return {"seconds": took, "odds": odds}


def matmul_rate() -> float:
    """Return this machine's float32 matrix products, Gflop/s, at their fastest of five."""
    import torch

    a = torch.randn(1024, 1024)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - begun)
    return 2 * 1024**3 / best / 1e9


if __name__ == "__main__":
    main()
