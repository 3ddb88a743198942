"""Settings of the stages feedback, rm and ppo. No torch here.

Fields keep TRL's spelling where TRL has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    NOT_HASHED,
    GoldConfig,
    RetrievalConfig,
    SamplingConfig,
    require,
    require_choice,
    require_range,
)

LABELLERS = ("gold",)
REWARD_TERMS = ("rm", "gold", "constant")


@dataclass
class FeedbackConfig:
    """Stage `feedback`: K answers per prompt from the policy, ranked by a labeller."""

    seed: int = 0
    labeller: str = "gold"
    """Who ranks: gold, the known utility with noise and biases."""
    gold: GoldConfig = field(default_factory=GoldConfig)
    num_prompts: int | None = None
    """First prompts used; None: all."""
    num_held_out: int | None = None
    """First held-out prompts used; None: as large a share as of the others."""
    num_responses: int = 4
    """Answers sampled per prompt (K); equal ones are ranked once."""
    noise: float = 0.1
    """Standard deviation of normal noise added to the utility before ranking."""
    length_taste: float = 0.0
    """Planted bias: utility added per ten words."""
    tie_width: float = 0.0
    """Answers closer than this in noisy utility are ties."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)

    def __post_init__(self) -> None:
        require_choice("feedback.labeller", self.labeller, LABELLERS)
        require_range("feedback.num_responses", self.num_responses, 2, 64, "answers")
        require_range("feedback.noise", self.noise, 0.0)
        require_range("feedback.tie_width", self.tie_width, 0.0)
        require_range("feedback.length_taste", self.length_taste, -1e3, 1e3)
        require(
            self.sampling.temperature > 0,
            "feedback.sampling.temperature",
            self.sampling.temperature,
            "be above 0",
            "greedy answers to one prompt are all equal and can't be ranked",
        )
        if self.num_prompts is not None:
            require_range("feedback.num_prompts", self.num_prompts, 4, unit="prompts")
        if self.num_held_out is not None:
            require_range("feedback.num_held_out", self.num_held_out, 1, unit="prompts")


@dataclass
class RMConfig:
    """Stage `rm`: a reward model from preferences, started from the policy it will judge."""

    seed: int = 0
    num_train_epochs: float = 2.0
    batch_size: int = 32
    """Pairs per optimizer step."""
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    """Then a cosine to 0."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    precision: str = "float32"
    max_tokens: int | None = None
    """Longest prompt and response together; longer pairs are left out and counted. None: the \
policy's context."""
    append_terminal: bool = True
    """A finished answer is scored with its terminal token behind it, in training and in PPO."""
    num_calibration_prompts: int = 512
    """Prompts whose first sampled answers give the scores' mean and variance."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How those answers are sampled where the preferences are a data set and bring no samples."""
    save_every: int = field(default=50, metadata=NOT_HASHED)
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_range("rm.num_calibration_prompts", self.num_calibration_prompts, 2, unit="prompts")
        require_range("rm.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_range("rm.batch_size", self.batch_size, 1, unit="pairs")
        require_range("rm.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("rm.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("rm.adam_epsilon", self.adam_epsilon, 0.0, 1.0)
        require_range("rm.max_grad_norm", self.max_grad_norm, 1e-9)
        require_choice("rm.precision", self.precision, ("float32", "bfloat16"))
        require_range("rm.save_every", self.save_every, 1, unit="steps")
        if self.max_tokens is not None:
            require_range("rm.max_tokens", self.max_tokens, 8, unit="tokens")


@dataclass
class RewardTermConfig:
    """One term of a reward."""

    name: str = "rm"
    """rm (the mean of the node's `rm` inputs), gold, or constant (always 1)."""
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_choice("reward.terms.name", self.name, REWARD_TERMS)
        require_range(f"reward.terms.{self.name}.weight", self.weight, -1e6, 1e6)


@dataclass
class RewardConfig:
    """What PPO maximises: a weighted sum of named terms.

    A list, since a mapping that is overridden keeps its old entries beside the new ones.
    """

    terms: list[RewardTermConfig] = field(default_factory=lambda: [RewardTermConfig()])
    gold: GoldConfig = field(default_factory=GoldConfig)

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        require(bool(names), "reward.terms", names, "name at least one term", "add one")
        require(
            len(set(names)) == len(names),
            "reward.terms",
            names,
            "name each term once",
            "add up the weights",
        )

    @property
    def weights(self) -> dict[str, float]:
        """Term name -> weight."""
        return {term.name: term.weight for term in self.terms}


@dataclass
class KLConfig:
    """The penalty that keeps the policy near its reference (k1 estimator, in the reward)."""

    coef: float = 0.05
    """Fixed coefficient, reward per nat."""

    def __post_init__(self) -> None:
        require_range("ppo.kl.coef", self.coef, 0.0, unit="per nat")


@dataclass
class PPOConfig:
    """Stage `ppo`: clipped-objective PPO from the SFT policy against a reward."""

    seed: int = 0
    total_episodes: int = 4096
    """Prompts sampled over the whole run; the last rollout is whole, so this is rounded up."""
    batch_size: int = 256
    """Episodes per rollout (update)."""
    num_ppo_epochs: int = 4
    num_mini_batches: int = 4
    """Optimizer steps per rollout = num_ppo_epochs * num_mini_batches, always."""
    learning_rate: float = 3e-4
    """Of the policy; falls linearly to 0 over the run."""
    value_learning_rate: float = 1e-3
    """Of the value model; falls linearly to 0 over the run."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    """Longest gradient of the policy, and of the value model; they are clipped apart."""
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.5
    """Weight of the value loss; 0 leaves the value model as it began."""
    whiten_rewards: bool = False
    missing_eos_penalty: float = 1.0
    """Subtracted once from the score of a response that never gave its terminal token."""
    value_init: str = "policy"
    """policy: trunk of the SFT policy and a zero head; rm: trunk and head of the reward model."""
    precision: str = "float32"
    """float32 or bfloat16, of forward and backward passes and of sampling; weights, the value \
head and the log-softmax are float32 in both."""
    kl: KLConfig = field(default_factory=KLConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    save_every: int = field(default=2, metadata=NOT_HASHED)
    """Updates between checkpoints."""
    num_samples: int = 16
    """Validation prompts whose greedy responses are written before and after training."""

    def __post_init__(self) -> None:
        require_range("ppo.total_episodes", self.total_episodes, 1, unit="episodes")
        require_range("ppo.batch_size", self.batch_size, 2, unit="episodes")
        require_range("ppo.num_ppo_epochs", self.num_ppo_epochs, 1)
        require_range("ppo.num_mini_batches", self.num_mini_batches, 1)
        require(
            self.batch_size % self.num_mini_batches == 0,
            "ppo.batch_size",
            f"{self.batch_size} episodes",
            f"divide by ppo.num_mini_batches (={self.num_mini_batches})",
            "use a multiple of it",
        )
        for name in ("learning_rate", "value_learning_rate", "adam_epsilon", "vf_coef"):
            require_range(f"ppo.{name}", getattr(self, name), 0.0, 100.0)
        require_range("ppo.max_grad_norm", self.max_grad_norm, 1e-9)
        for name in ("gamma", "lam"):
            require_range(f"ppo.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("cliprange", "cliprange_value"):
            require_range(f"ppo.{name}", getattr(self, name), 1e-6, 1e6)
        require_range("ppo.missing_eos_penalty", self.missing_eos_penalty, 0.0)
        require_choice("ppo.value_init", self.value_init, ("policy", "rm"))
        require_choice("ppo.precision", self.precision, ("float32", "bfloat16"))
        require_range("ppo.save_every", self.save_every, 1, unit="updates")
        require_range("ppo.num_samples", self.num_samples, 0, unit="prompts")
        require(
            self.sampling.temperature > 0,
            "ppo.sampling.temperature",
            self.sampling.temperature,
            "be above 0",
            "greedy decoding has no log-probs to take a ratio of",
        )

    @property
    def num_updates(self) -> int:
        """Rollouts in the run."""
        return -(-self.total_episodes // self.batch_size)
