"""A world small enough for PPO to run in seconds: 16 tokens, one layer, a word that pays.

The reward stands in for a reward model: an `rm` artifact whose opener is `open_word_reward` below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from plumbrule.data.records import Demonstration, Message, Prompt, write_records
from plumbrule.lm.config import SamplingConfig, SearchConfig
from plumbrule.lm.loading import Policy, make_policy, save_policy
from plumbrule.protocols import Episode, Passage
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.store.artifacts import Artifact
from rlhf.ppo import shared_trunk, step
from rlhf.ppo.config import KLConfig, PPOConfig
from rlhf.ppo.optimisation import learner as learners
from rlhf.ppo.optimisation.learner import Learner, trainable
from rlhf.ppo.ptx import PTX
from rlhf.ppo.rollout.evaluation import Evaluation, evaluate
from rlhf.ppo.rollout.parquet import Rollout
from rlhf.ppo.rollout.trajectory import Trajectory, padded
from rlhf.ppo.shared_trunk import Actors
from rlhf.ppo.update_settings import loss_settings, step_settings
from rlhf.ppo.value_model import ValueModel, value_from_policy
from rlhf.rewards.config import RewardConfig

WORDS = ["red", "blue", "green", "black", "white", "grey", "pink", "gold"]
WORDS += ["rain", "snow", "wind", "sun"]
TOKENS = ["<pad>", "<eos>", "<user>", "<assistant>", *WORDS]
GOOD = "gold"
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}<assistant>"


def tokenizer(pad_token: str = "<pad>") -> PreTrainedTokenizerFast:
    """One token per word, split at spaces."""
    words = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad_token, eos_token="<eos>", chat_template=TEMPLATE
    )


def tiny_policy(
    seed: int = 0,
    pad_token: str = "<pad>",
    spread: float = 0.02,
    layers: int = 1,
    tied: bool = True,
    width: int = 16,
) -> Policy:
    """An untrained policy whose tokens are nearly equally likely; `spread` makes them less so."""
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=spread,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    return make_policy(LlamaForCausalLM(shape), tokenizer(pad_token))


def prompts(number: int = 12) -> list[Prompt]:
    """Prompts of one to four words."""
    texts = [" ".join(WORDS[(i * k) % 12] for k in range(1, 2 + i % 4)) for i in range(number)]
    return [Prompt(f"p{i}", (Message("user", text),)) for i, text in enumerate(texts)]


def demonstrations() -> list[Demonstration]:
    """One or two words for each word."""
    return [
        Demonstration(f"d{i}", (Message("user", word),), " ".join(["rain", "sun"][: 1 + i % 2]))
        for i, word in enumerate(WORDS)
    ]


class WordReward:
    """A fifth for each GOOD in the response."""

    def score(self, episodes: Sequence[Episode]) -> Mapping[str, np.ndarray]:
        return {"score": np.array([e.response.split().count(GOOD) / 5 for e in episodes])}


def open_word_reward(artifact: Artifact, runtime: RuntimeConfig) -> WordReward:
    return WordReward()


def build(
    folder: Path, seed: int = 0, exact: bool = False, **policy: object
) -> dict[str, Artifact]:
    """Write a policy, prompts, demonstrations and a reward; return them as a stage's inputs."""
    make = exact_policy if exact else tiny_policy
    start = make(seed, **policy)  # type: ignore[operator]
    save_policy(start, folder / "sft" / "model")
    (folder / "prompts").mkdir()
    write_records(prompts(), folder / "prompts" / "records.jsonl")
    write_records(prompts(4), folder / "prompts" / "validation.jsonl")
    (folder / "demonstrations").mkdir()
    write_records(demonstrations(), folder / "demonstrations" / "records.jsonl")
    (folder / "rm").mkdir()
    (folder / "rm" / "reward_stats.json").write_text(json.dumps({"append_terminal": True}))
    return inputs_in(folder)


def inputs_in(folder: Path) -> dict[str, Artifact]:
    return {
        "policy": Artifact.of(folder / "sft", "sft"),
        "prompts": Artifact.of(folder / "prompts", "data"),
        "demonstrations": Artifact.of(folder / "demonstrations", "data"),
        "rm": Artifact.of(folder / "rm", "rm", opener="worlds.ppo:open_word_reward"),
        "index": Artifact.of(folder / "rm", "index", opener="worlds.ppo:open_word_index"),
    }


def config(**changes: object) -> PPOConfig:
    """A PPO of a few tiny updates."""
    settings = {
        "total_episodes": 16 * 6,
        "batch_size": 16,
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "learning_rate": 3e-3,
        "value_learning_rate": 3e-3,
        "missing_eos_penalty": 0.1,
        "kl": KLConfig(coef=0.02),
        "reward": RewardConfig(),
        "sampling": SamplingConfig(max_new_tokens=5, batch_size=16),
        "save_every": 2,
        "num_samples": 2,
        **changes,
    }
    return PPOConfig(**settings)  # type: ignore[arg-type]


OPTIONS = {
    "ema_decay": 0.8,
    "value_warmup_updates": 1,
    "value_trunk": "policy",
    "adam": "tf",
    "kl": KLConfig(coef=0.02, target=0.1),
}
"""Settings whose state a checkpoint must hold."""


DRAWN_AHEAD = {
    "advantage": "rloo",
    "samples_per_prompt": 2,
    "dynamic_sampling_max_draws": 3,
    "missing_eos_penalty": 0.0,
    "staleness": 1,
    "importance_cap": 2.0,
}
"""Batches that are drawn one update ahead and filled by further draws."""


SEARCHES = {
    "search": SearchConfig(
        max_turns=3,
        num_passages=2,
        budget_tokens=8,
        open="w",
        close="k",
        template="rain {passages} wind",
    ),
    "sampling": SamplingConfig(max_new_tokens=12, batch_size=16),
}
"""Two letters are the markers of a search call, so an untrained policy calls now and then."""


class WordIndex:
    """Two passages for each word of a query that is whole; one without such finds nothing."""

    def retriever(self, method: str) -> WordIndex:
        return self

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [
            [
                Passage(f"{word}{i}", " ".join([word, *WORDS[i : i + 2]]), 1.0, word, 0, 1)
                for word in query.split()
                if word in WORDS
                for i in range(2)
            ][:k]
            for query in queries
        ]


def open_word_index(artifact: Artifact, runtime: RuntimeConfig) -> WordIndex:
    return WordIndex()


def runtime(**changes: object) -> RuntimeConfig:
    return RuntimeConfig(**{"device": "cpu", "micro_batch_size": 8, **changes})  # type: ignore[arg-type]


def recorded(learner: Learner, seed: int = 0, rows: int = 16, gaps: bool = True) -> Rollout:
    """A rollout of random tokens with foreign segments, old log-probs near the policy's own, and
    random values, advantages and returns: everything that a ratio or a clip can meet.
    """
    draw = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=draw))
        return torch.randint(4, len(TOKENS), (length,), generator=draw).tolist()

    def noise(scale: float) -> torch.Tensor:
        return scale * torch.randn(mask.shape, generator=draw, dtype=torch.float64)

    queries, responses = [ids(3, 9) for _ in range(rows)], [ids(4, 9) for _ in range(rows)]
    mask = padded([[True] * len(r) for r in responses], torch.bool)
    if gaps:  # two foreign segments: slot 1, and slots 3 and 4
        mask[:, [1, 3, 4]] = False
    trajectory = Trajectory(
        prompt_ids=[f"p{i}" for i in range(rows)],
        passages=[()] * rows,
        queries=queries,
        responses=responses,
        texts=[""] * rows,
        action_mask=mask,
        step_mask=mask,
        finished=torch.ones(rows, dtype=torch.bool),
        rollout_logprobs=torch.zeros(mask.shape),
    )
    seen = evaluate(
        trajectory,
        learner.policy,
        learner.policy,
        learner.value_model,
        temperature=1.0,
        precision="float32",
        micro_batch_size=4,
    )
    dtype = seen.logprobs.dtype
    scores = torch.randn(rows, generator=draw, dtype=torch.float64)
    old, kl = seen.logprobs + noise(0.3).to(dtype), noise(0.1).to(dtype)
    values, targets = (seen.values + noise(0.3).to(dtype) for _ in range(2))
    return Rollout(
        trajectory=trajectory,
        logprobs=old,
        ref_logprobs=old - kl,
        values=values,
        entropy=seen.entropy,
        kl=kl,
        penalties=0.1 * kl,
        terms={"rm": scores},
        raw_scores=scores,
        scores=scores,
        rewards=noise(1.0).to(dtype),
        advantages=noise(1.0).to(dtype),
        returns=targets,
    )


def make_learner(
    policy: Policy,
    value_model: ValueModel | None,
    settings: PPOConfig,
    reader: Policy | None = None,
) -> Learner:
    """A learner with the optimizer that the settings choose."""
    return learners.make_learner(
        policy,
        value_model,
        reader,
        learning_rate=settings.learning_rate,
        value_learning_rate=settings.value_learning_rate,
        adam=settings.adam,
        adam_epsilon=settings.adam_epsilon,
    )


def make_actors(policy: Policy, settings: PPOConfig, load: Callable[[], Policy]) -> Actors:
    """Policy and reference as the settings share them."""
    return shared_trunk.make_actors(
        policy,
        load,
        adapter=settings.adapter,
        unfrozen_layers=settings.unfrozen_layers,
        seed=settings.seed,
    )


def learning_rates(settings: PPOConfig, update: int) -> tuple[float, float]:
    """The rates of one update of the run that the settings describe."""
    return learners.learning_rates(
        update,
        settings.num_updates,
        learning_rate=settings.learning_rate,
        value_learning_rate=settings.value_learning_rate,
        warmup_share=settings.warmup_share,
        schedule=settings.lr_scheduler_type,
    )


def ppo_step(
    learner: Learner,
    rollout: Rollout,
    settings: PPOConfig,
    update: int,
    micro_batch_size: int,
    ptx: PTX | None = None,
) -> step.PPOStats:
    """One update by the settings, whose KL is in the reward."""
    loss = loss_settings(settings, 0.0)
    return step.ppo_step(
        learner, rollout, update, step_settings(settings), loss, micro_batch_size, ptx
    )


def add_gradients(
    learner: Learner,
    rollout: Rollout,
    rows: Sequence[int],
    settings: PPOConfig,
    micro_batch_size: int,
    kl_coef: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """One mini-batch's gradient by the settings."""
    loss = loss_settings(settings, kl_coef)
    return step.add_gradients(learner, rollout, rows, loss, micro_batch_size)


def learner_of(settings: PPOConfig, seed: int = 0) -> Learner:
    """A learner in float64 over `exact_policy`.

    The value head is not 0, so that gradients reach the value model's trunk.
    """
    policy = exact_policy(seed)
    if not settings.has_value_model:
        return make_learner(policy, None, settings)
    value_model = value_from_policy(policy)
    torch.nn.init.normal_(value_model.head.weight, std=0.3)
    return make_learner(policy, value_model, settings)


def exact_policy(seed: int = 0, tied: bool = True) -> Policy:
    """A fresh tiny GPT-2 in float64 (a Llama norms in float32 whatever it is)."""
    torch.manual_seed(seed)
    shape = GPT2Config(
        vocab_size=len(TOKENS),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=32,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    return make_policy(GPT2LMHeadModel(shape).double(), tokenizer())


def evaluated(learner: Learner, trajectory: Trajectory, micro_batch_size: int) -> Evaluation:
    """Evaluate a trajectory with the learner's models, the policy as its own reference."""
    return evaluate(
        trajectory,
        learner.policy,
        learner.policy,
        learner.value_model,
        temperature=1.0,
        precision="float32",
        micro_batch_size=micro_batch_size,
    )


def weights(learner: Learner) -> torch.Tensor:
    """All trained weights in one vector."""
    every = [p for model in learner.models.values() for p in trainable(model)]
    return torch.cat([p.detach().flatten() for p in every])
