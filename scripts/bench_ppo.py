"""Episodes per second and memory of our PPO beside TRL 1.12's, on one workload, in one run.

    python scripts/bench_ppo.py                        # five alternating repeats, about 15 minutes
    python scripts/bench_ppo.py --repeats 1 --only ours
    python scripts/bench_ppo.py --prepare /tmp/trl     # fetch TRL where there is a network

Both sides get the same checkpoint, the same token ids, four models (policy, reference, reward,
value), a response limit of 64 tokens with ends of text after 24 on average, 64 episodes per rollout
and 16 optimizer steps on each, of 16 episodes that go through the models together (TRL: per-device
batch 64, accumulation 1, 4 mini-batches; under any accumulation it takes fewer steps). Each
measurement is a process of its own: one rollout warms up, the next are timed. TRL 1.12.0 is the
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
import math
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

TRL = "trl==1.12.0"
SHAPE = {
    "small": {
        "hidden_size": 256,
        "num_layers": 6,
        "num_heads": 4,
        "intermediate_size": 1024,
        "vocab": 2048,
    },
    "1b": {
        "hidden_size": 2048,
        "num_layers": 16,
        "num_heads": 32,
        "intermediate_size": 8192,
        "vocab": 32000,
    },
}
"""small: 7.3M parameters, for a CPU. 1b: 1.2G, for a GPU."""
PROMPT_TOKENS, NUM_PROMPTS = (8, 64), 512
WORKLOAD = {
    "small": {"batch": 64, "mean": 24, "limit": 64, "per_device": 16},
    "1b": {"batch": 256, "mean": 150, "limit": 512, "per_device": 64},
}
OURS = ("float32", "bfloat16", "shared")
RATE = 1e-7
"""Learning rate of both, so that responses keep their lengths."""
NUM_CALIBRATING = 256
"""Prompts that are answered, twice, to set how likely the end of text is."""
CUT = 8
"""Vocabulary entries at the front that no prompt holds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--updates", type=int, default=2, help="timed rollouts per measurement")
    parser.add_argument("--shape", choices=SHAPE, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="of: trl ours float32 bfloat16 shared")
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
    """Run every side in turn, `repeats` times, and print medians, ranges and ratios."""
    sides = ["trl", *OURS]
    if given.only:
        named = [*given.only, *(OURS if "ours" in given.only else ())]
        sides = [side for side in sides if side in named]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "trl" in sides and given.trl is None:
            given.trl = folder / "trl"
            prepare(given.trl)
        make_workload(folder, given.shape, given.device)
        results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for repeat in range(given.repeats):
            for side in sides:
                results[side].append(child(side, folder, given))
                print(f"{repeat + 1} {side} {results[side][-1]}", file=sys.stderr, flush=True)
    print(f"{platform.processor() or platform.machine()}, {given.device}, {given.shape}")
    for side, found in results.items():
        print(describe(side, found))
    if "trl" in results:
        for side in sides[1:]:
            print(ratios(side, results))
    print(json.dumps(summary(given, results)))


def summary(given: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the medians that other tools read: ratios to TRL, and shares of the matmul rate."""
    names = {"float32": "fp32", "bfloat16": "bf16", "shared": "shared_trunk"}
    found: dict[str, Any] = {"device": given.device, "repeats": given.repeats}
    for side, name in names.items():
        rows = results.get(side, [])
        if rows:
            share = statistics.median(row["useful_share"] for row in rows)
            found[f"update_flops_share_{name}"] = round(share, 3)
        if rows and "trl" in results:
            pairs = list(zip(rows, results["trl"], strict=True))
            for key, of in (("speed", "episodes_per_second"), ("peak_memory", "memory_mib")):
                ratio = statistics.median(a[of] / b[of] for a, b in pairs)
                found[f"{key}_{name}"] = round(ratio, 3)
    return found


def child(side: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return what a process of its own measures of one side.

    Raises: SystemExit: it fails.
    """
    paths = [str(Path(__file__).resolve().parents[1])]
    if side == "trl":
        paths.insert(0, str(given.trl))
    settings = ["--folder", str(folder), "--shape", given.shape, "--device", given.device]
    settings += ["--updates", str(given.updates)]
    done = subprocess.run(
        [sys.executable, __file__, "--child", side, *settings],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
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
    pairs = list(zip(results[side], results["trl"], strict=True))
    speed = [a["episodes_per_second"] / b["episodes_per_second"] for a, b in pairs]
    memory = [a["memory_mib"] / b["memory_mib"] for a, b in pairs]
    return f"{side:9} {spread(speed, '.2f')} times TRL's speed, {spread(memory, '.2f')} its memory"


def spread(numbers: list[float], form: str) -> str:
    """Return the median and the range."""
    return f"{statistics.median(numbers):{form}} ({min(numbers):{form}}-{max(numbers):{form}})"


# The workload: one folder that both sides read.


def make_workload(folder: Path, shape: str, device: str) -> None:
    """Write policy, reward model and prompts; on `device` it is seen how long responses are."""
    import torch

    from plumbrule.data.records import Message, Prompt, write_records
    from plumbrule.lm.loading import make_policy, save_policy
    from plumbrule.lm.randomness import generator
    from rlhf.reward_model.model import RewardModel, RewardStats

    size, work = SHAPE[shape], WORKLOAD[shape]
    tokenizer = make_tokenizer(int(size["vocab"]))
    torch.manual_seed(0)
    policy = make_policy(new_lm(size, tokenizer), tokenizer, 1024)
    torch.manual_seed(1)
    judge = make_policy(new_lm(size, tokenizer), tokenizer, 1024)
    RewardModel(judge, RewardStats(std=1.0, num_samples=1)).save(folder / "rm")

    draw = generator("bench ppo", 0)
    (folder / "prompts").mkdir()
    overhead = len(policy.encode([Message("user", "w9")])) - 1
    prompts, rows = [], []
    for number in range(NUM_PROMPTS):
        length = int(draw.integers(PROMPT_TOKENS[0], PROMPT_TOKENS[1] + 1)) - overhead
        words = draw.integers(CUT, int(size["vocab"]) // 2, size=length)
        messages = (Message("user", " ".join(f"w{word}" for word in words)),)
        prompts.append(Prompt(f"prompt-{number:05d}", messages, {}))
        rows.append(policy.encode(messages))
    write_records(prompts, folder / "prompts" / "records.jsonl")
    write_records(prompts[:2], folder / "prompts" / "validation.jsonl")
    (folder / "ids.json").write_text(json.dumps(rows), encoding="utf-8")
    policy.model.to(device)
    calibrate(policy, rows[:NUM_CALIBRATING], int(work["mean"]), int(work["limit"]))
    policy.model.to("cpu")
    save_policy(policy, folder / "policy" / "model")


def make_tokenizer(size: int) -> Any:
    """Return a tokenizer of which every word `w<number>` is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from plumbrule.lm.chat import SPECIAL_TOKENS, TEMPLATE

    words = [*SPECIAL_TOKENS, "<unk>"]
    words += [f"w{number}" for number in range(size - len(words))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def new_lm(size: dict[str, int], tokenizer: Any) -> Any:
    """Return an untrained Llama whose first hidden coordinate is the same for every token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size["vocab"],
            hidden_size=size["hidden_size"],
            intermediate_size=size["intermediate_size"],
            num_hidden_layers=size["num_layers"],
            num_attention_heads=size["num_heads"],
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        lm.model.embed_tokens.weight[:, 0] = 0.1
        for layer in lm.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        lm.lm_head.weight[:, 0] = 0.0
    return lm.eval()


def calibrate(policy: Any, prompts: list[list[int]], mean: int, limit: int) -> None:
    """Make the end of text as likely everywhere as gives responses of `mean` tokens up to `limit`.

    With chance p at each token, responses have (1 - (1 - p)^limit) / p tokens on average. Two looks
    at what is sampled correct for what it is likely after.
    """
    import torch

    from plumbrule.lm.config import SamplingConfig
    from plumbrule.lm.generation import generate

    low, high = 1e-6, 1.0
    for _ in range(60):
        p = math.sqrt(low * high)
        low, high = (p, high) if (1 - (1 - p) ** limit) / p > mean else (low, p)
    wanted = math.log(p / (1 - p))
    lm, eos = policy.model, policy.tokenizer.eos_token_id
    tokens = torch.randint(CUT, lm.config.vocab_size, (8, 64), generator=torch.Generator())
    tokens = tokens.to(lm.device)
    with torch.no_grad():
        hidden = lm.model(input_ids=tokens).last_hidden_state
        first, others = hidden[..., 0].mean(), lm.lm_head(hidden).logsumexp(-1).mean()
        lm.lm_head.weight[eos] = 0.0
        lm.lm_head.weight[eos, 0] = (others + wanted) / first
    sampling = SamplingConfig(max_new_tokens=limit, batch_size=64)
    for _ in range(2):
        found = generate(policy, prompts, sampling=sampling, keys=range(len(prompts)))
        ends = sum(sample.finished for sample in found)
        odds = ends / (sum(len(sample.tokens) for sample in found) - ends)
        with torch.no_grad():
            lm.lm_head.weight[eos, 0] += (wanted - math.log(odds)) / first


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
    from plumbrule.lm.config import SamplingConfig
    from plumbrule.runtime_config import RuntimeConfig
    from plumbrule.store.artifacts import Artifact
    from plumbrule.tracking.stage_tracker import NullTracker
    from rlhf.ppo.config import PPOConfig
    from rlhf.rewards.config import RewardConfig

    work, size = WORKLOAD[given.shape], SHAPE[given.shape]
    updates = given.updates + 1
    shared: dict[str, Any] = {}
    if given.child == "shared":
        shared = {"unfrozen_layers": 2, "value_trunk": "branch"}
    precision = "float32" if given.child == "float32" else "bfloat16"
    config = PPOConfig(
        total_episodes=updates * work["batch"],
        batch_size=work["batch"],
        num_ppo_epochs=4,
        num_mini_batches=4,
        learning_rate=RATE,
        value_learning_rate=RATE,
        precision=precision,
        reward=RewardConfig(),
        sampling=SamplingConfig(max_new_tokens=work["limit"], batch_size=work["batch"]),
        save_every=10**6,
        num_samples=0,
        **shared,
    )
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
    inputs = {
        "policy": Artifact.of(given.folder / "policy", "sft"),
        "prompts": Artifact.of(given.folder / "prompts", "data"),
        "rm": Artifact.of(given.folder / "rm", "rm", "rlhf.reward_model.model:open_reward"),
    }
    with tempfile.TemporaryDirectory() as out:
        stage.run(config, inputs, runtime, Path(out), Tracker())
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
        per_device_train_batch_size=work["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=4,
        num_ppo_epochs=4,
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
    steps, moments = 0, []
    plain = trainer.optimizer.step

    def step(*arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        return plain(*arguments, **named)

    trainer.optimizer.step = step
    trainer.log = lambda *arguments, **named: moments.append(time.monotonic())
    memory = Memory(given.device)
    memory.begin()
    trainer.train()
    if steps != 16 * updates:
        raise SystemExit(f"optimizer steps (={steps}) must be 16 for each of {updates} rollouts.")
    seconds = [after - before for before, after in pairwise(moments)]
    return {
        "episodes_per_second": work["batch"] / statistics.mean(seconds),
        "memory_mib": memory.mib(),
    }


def mean_prompt_tokens(folder: Path) -> float:
    """Return tokens per prompt."""
    rows = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return statistics.mean(len(row) for row in rows)


def num_weights(size: dict[str, int]) -> int:
    """Return the weights of all layers; embeddings and head aside."""
    per_layer = 4 * size["hidden_size"] ** 2 + 3 * size["hidden_size"] * size["intermediate_size"]
    return size["num_layers"] * per_layer


def matmul_rate(dtype: Any, device: str) -> float:
    """Return FLOPs per second of a large matrix product, the best of ten."""
    import torch

    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(10):
        if device != "cpu":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2.0 * n**3 / best


if __name__ == "__main__":
    main()
