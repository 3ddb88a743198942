"""Models, prompts and a PPO over them: what bench_ppo.py, bench_decode.py and kill_stage.py run.

A Llama with random weights whose end of text is made as likely everywhere as gives responses of a
mean length, a reward model of the same shape, and prompts of 8 to 64 tokens, in one folder that
every side reads. No network, and none of TRL, datasets, W&B or FAISS is needed.
"""

from __future__ import annotations

import plumbrule.machine.openmp  # noqa: F401  before torch is  # isort: skip

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    "1b": {"batch": 256, "mean": 150, "limit": 512, "per_device": 16},
}
"""batch: episodes of an update. mean, limit: tokens of a response. per_device: rows of a pass."""
RATE = 1e-7
"""Learning rate of all, so that responses keep their lengths."""
EPOCHS, MINI_BATCHES = 4, 4
"""Of an update: 16 optimizer steps."""
NUM_CALIBRATING = 256
"""Prompts that are answered, twice, to set how likely the end of text is."""
READY = "ready"
"""Written last."""
CUT = 8
"""Vocabulary entries at the front that no prompt holds."""


def require_workload(folder: Path, shape: str, device: str) -> None:
    """Write the workload unless the folder has it, in a process whose memory ends with it."""
    if not (folder / READY).is_file():
        subprocess.run([sys.executable, __file__, str(folder), shape, device], check=True)


def make_workload(folder: Path, shape: str, device: str) -> None:
    """Write policy, reward model and prompts; on `device` it is seen how long responses are."""
    import torch

    from plumbrule.data.records import Message, Prompt, write_records
    from plumbrule.lm.loading import make_policy, save_policy
    from plumbrule.lm.randomness import generator
    from rlhf.reward_model.model import RewardModel
    from rlhf.reward_model.reward_stats import RewardStats

    size, work = SHAPE[shape], WORKLOAD[shape]
    tokenizer = make_tokenizer(int(size["vocab"]))
    torch.manual_seed(1)
    judge = make_policy(new_lm(size, tokenizer, device), tokenizer, 1024)
    RewardModel(judge, RewardStats(std=1.0, num_samples=1)).save(folder / "rm")
    del judge
    torch.manual_seed(0)
    policy = make_policy(new_lm(size, tokenizer, device), tokenizer, 1024)

    draw = generator("bench ppo", 0)
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
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
    calibrate(policy, rows[:NUM_CALIBRATING], int(work["mean"]), int(work["limit"]))
    save_policy(policy, folder / "policy" / "model")
    (folder / READY).touch()


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


def new_lm(size: dict[str, int], tokenizer: Any, device: str) -> Any:
    """Return an untrained Llama whose first hidden coordinate is the same for every token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
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
    with torch.device(device), torch.no_grad():
        lm = LlamaForCausalLM(config)
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


def mean_prompt_tokens(folder: Path) -> float:
    """Return tokens per prompt."""
    rows = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return statistics.mean(len(row) for row in rows)


def num_weights(size: dict[str, int]) -> int:
    """Return the weights of all layers; embeddings and head aside."""
    per_layer = 4 * size["hidden_size"] ** 2 + 3 * size["hidden_size"] * size["intermediate_size"]
    return size["num_layers"] * per_layer


# PPO over it.


def ppo_config(shape: str, updates: int, precision: str, **changes: Any) -> Any:
    """Return the config of a PPO of so many updates."""
    from plumbrule.lm.config import SamplingConfig
    from rlhf.ppo.config import PPOConfig
    from rlhf.rewards.config import RewardConfig

    work = WORKLOAD[shape]
    settings: dict[str, Any] = {
        "total_episodes": updates * work["batch"],
        "batch_size": work["batch"],
        "num_ppo_epochs": EPOCHS,
        "num_mini_batches": MINI_BATCHES,
        "learning_rate": RATE,
        "value_learning_rate": RATE,
        "precision": precision,
        "reward": RewardConfig(),
        "sampling": SamplingConfig(max_new_tokens=work["limit"], batch_size=work["batch"]),
        "save_every": 10**6,
        "num_samples": 0,
        **changes,
    }
    return PPOConfig(**settings)


def ppo_inputs(folder: Path) -> dict[str, Any]:
    """Return the workload in `folder` as the inputs of the stage."""
    from plumbrule.store.artifacts import Artifact

    return {
        "policy": Artifact.of(folder / "policy", "sft"),
        "prompts": Artifact.of(folder / "prompts", "data"),
        "rm": Artifact.of(folder / "rm", "rm", "rlhf.reward_model.model:open_reward"),
    }


if __name__ == "__main__":
    make_workload(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
