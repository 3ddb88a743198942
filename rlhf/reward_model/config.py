"""Settings of stage rm. No torch here.

Fields keep TRL's spelling where TRL has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    NOT_HASHED,
    PRECISIONS,
    require,
    require_choice,
    require_range,
)
from plumbrule.lm.config import AdapterConfig, SamplingConfig
from plumbrule.stage_kind import POLICIES, Slot, StageKind, own_precision

REWARD_LOSSES = ("all_pairs", "plackett_luce", "best_of_k", "pairs")
TIE_RULES = ("ignore", "rao_kupper", "davidson")


@dataclass
class RMConfig:
    """Stage `rm`: a reward model from preferences, started from the policy it will judge."""

    seed: int = 0
    num_rankings: int | None = None
    """First rankings to train on; None: all. Held-out ones are used in full."""
    num_train_epochs: float = 2.0
    loss: str = "all_pairs"
    """all_pairs: the mean over the pairs of each ranking; plackett_luce: its answers chosen one \
after the other, best first, stated margins unused; best_of_k: the best of them from all, no more; \
pairs: every pair by itself, as if the others were not there."""
    top_k: int | None = None
    """Choices of plackett_luce that count; None: all."""
    ties: str = "ignore"
    """What pairs of equal rank say to losses on pairs: ignore, or by a rule that leaves stated \
margins unused, rao_kupper or davidson."""
    tie_rate: float = 0.3
    """Chance, in (0, 1), with which these two take equally good answers to be ranked as a tie."""
    label_smoothing: float = 0.0
    """Chance, in [0, 0.5), with which a label is taken to be wrong; 0: none is."""
    noise_rate: float = 0.0
    """Share of labels, in [0, 0.5), that is known to be wrong; the loss is corrected for it."""
    centring: float = 0.0
    """Weight of the squared sum of a pair's scores, which holds them around 0."""
    batch_size: int = 32
    """Rankings per optimizer step (with loss=pairs: pairs)."""
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    """Then a cosine to 0."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    precision: str = "float32"
    max_tokens: int | None = None
    """Longest prompt and response together; longer pairs are left out and counted. None: the \
policy's context."""
    frozen_trunk: bool = False
    """Whether the heads alone learn, on the policy's hidden states as they are."""
    unfrozen_layers: int | None = None
    """Top layers of the trunk that learn; None: all. What the frozen ones below make of an answer \
is computed once and kept for all epochs, in a file on the disk."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Low-rank adapters that learn in place of the trunk."""
    uses_token_logprobs: bool = False
    """The score has a second part, which reads how likely the model finds each token of the \
response (rlhf/reward_model/model.py)."""
    append_terminal: bool = True
    """A finished answer is scored with its terminal token behind it, in training and in PPO."""
    num_calibration_prompts: int = 512
    """Prompts whose first sampled answers give the scores' mean and variance."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How those answers are sampled where the preferences are a data set and bring no samples."""
    ensemble: int = field(default=1, metadata=NOT_HASHED)
    """Reward models of the node, alike but for their seeds (seed, seed + 1, ...): nodes rm, rm_1, \
... that every policy method with rm is given too."""
    ensemble_from: str = field(default="head", metadata=NOT_HASHED)
    """head: they start from one policy, with heads and orders of their own. base: each from a \
policy of its own, down to the base model's seed."""
    save_every: int = field(default=50, metadata=NOT_HASHED)
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_range("rm.ensemble", self.ensemble, 1, 64, "reward models")
        require_choice("rm.ensemble_from", self.ensemble_from, ("head", "base"))
        require_range("rm.num_calibration_prompts", self.num_calibration_prompts, 2, unit="prompts")
        if self.num_rankings is not None:
            require_range("rm.num_rankings", self.num_rankings, 1, unit="rankings")
        require_range("rm.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_range("rm.batch_size", self.batch_size, 1, unit="rankings")
        require_choice("rm.loss", self.loss, REWARD_LOSSES)
        require_range("rm.label_smoothing", self.label_smoothing, 0.0, 0.499)
        require_range("rm.noise_rate", self.noise_rate, 0.0, 0.499)
        require_range("rm.centring", self.centring, 0.0)
        require_choice("rm.ties", self.ties, TIE_RULES)
        require_range("rm.tie_rate", self.tie_rate, 1e-6, 1 - 1e-6)
        of_pairs = self.loss in ("all_pairs", "pairs")
        for name in ("label_smoothing", "noise_rate"):
            require(
                not getattr(self, name) or (of_pairs and self.ties == "ignore"),
                f"rm.{name}",
                getattr(self, name),
                f"be 0 with rm.loss={self.loss} and rm.ties={self.ties}",
                "use all_pairs and ignore ties",
            )
        require(
            of_pairs or self.ties == "ignore",
            "rm.ties",
            self.ties,
            f"be ignore with rm.loss={self.loss}, which has a rule of its own for ties",
            "use all_pairs",
        )
        if self.top_k is not None:
            require_range("rm.top_k", self.top_k, 1, unit="choices")
            require(
                self.loss == "plackett_luce",
                "rm.top_k",
                self.top_k,
                f"be null with rm.loss={self.loss}",
                "use plackett_luce",
            )
        require(
            not (self.frozen_trunk and self.adapter.rank),
            "rm.frozen_trunk",
            self.frozen_trunk,
            f"be false with rm.adapter.rank (={self.adapter.rank})",
            "choose one",
        )
        if self.unfrozen_layers is not None:
            require_range("rm.unfrozen_layers", self.unfrozen_layers, 1, unit="layers")
            require(
                not (self.frozen_trunk or self.adapter.rank),
                "rm.unfrozen_layers",
                self.unfrozen_layers,
                "be left out with rm.frozen_trunk or rm.adapter.rank, which freeze all layers",
                "choose one",
            )
        require(
            not (self.label_smoothing and self.noise_rate),
            "rm.noise_rate",
            self.noise_rate,
            f"be 0 with rm.label_smoothing (={self.label_smoothing})",
            "keep one of the two",
        )
        require_range("rm.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("rm.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("rm.adam_epsilon", self.adam_epsilon, 0.0, 1.0)
        require_range("rm.max_grad_norm", self.max_grad_norm, 1e-9)
        require_choice("rm.precision", self.precision, PRECISIONS)
        require_range("rm.save_every", self.save_every, 1, unit="steps")
        if self.max_tokens is not None:
            require_range("rm.max_tokens", self.max_tokens, 8, unit="tokens")


STAGE = StageKind(
    "rm",
    RMConfig,
    "rlhf.reward_model.stage:run",
    {
        "policy": Slot(POLICIES),
        "preferences": Slot(("data", "feedback"), many=True, held_out=True),
        "ood": Slot(("data", "feedback"), required=False, many=True, held_out=True),
    },
    links={"seed": "${seed}"},
    measured=True,
    headline=("rm/accuracy", "rm/accuracy_noise_free"),
    opener="rlhf.reward_model.model:open_reward",
    check="rlhf.preference_checks:require_one_set_of_passages",
    precision=own_precision,
)
