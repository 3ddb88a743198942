"""Settings of stage dpo. No torch here.

Fields keep TRL's spelling where TRL has them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, PRECISIONS, require, require_choice, require_range
from plumbrule.lm.config import AdapterConfig
from plumbrule.stage_kind import POLICIES, Slot, StageKind, own_precision

PREFERENCE_LOSSES = ("sigmoid", "robust", "hinge", "ipo")
PAIRS = ("best_worst", "all")


@dataclass
class DPOConfig:
    """Stage `dpo`: direct preference optimisation of a policy on rankings."""

    seed: int = 0
    num_train_epochs: float = 1.0
    pairs: str = "all"
    """Which pairs of a ranking are trained on: all that it orders strictly, or best_worst, one \
pair of its first and its last rank."""
    loss: str = "sigmoid"
    """sigmoid (DPO; with label_smoothing cDPO), robust (DPO corrected for a known share of wrong \
labels), hinge (SLiC) or ipo (per token, as TRL has it)."""
    beta: float = 0.1
    """The implicit reward of an answer is beta times its log-ratio to the reference; for ipo the \
wanted margin is 1 / (2 beta) nats per token."""
    label_smoothing: float = 0.0
    """Chance, in [0, 0.5), with which a label is taken to be wrong; of sigmoid and robust."""
    batch_size: int = 32
    """Pairs per optimizer step."""
    learning_rate: float = 1e-4
    warmup_share: float = 0.05
    """Then a cosine to 0."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    precision: str = "float32"
    """Compute precision (PRECISIONS in plumbrule/config.py); master weights and what is measured \
are float32 in all."""
    max_tokens: int | None = None
    """Longest prompt and response together; longer pairs are left out and counted. None: the \
policy's context."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Low-rank adapters that learn in place of the weights."""
    num_samples: int = 16
    """Held-out prompts whose greedy responses, before and after, are shown."""
    num_kl_prompts: int = 256
    """Held-out prompts to which one sampled response each measures the KL to the start."""
    max_new_tokens: int = 32
    """Longest response that is shown or measured so, tokens."""
    save_every: int = field(default=50, metadata=NOT_HASHED)
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_range("dpo.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_choice("dpo.pairs", self.pairs, PAIRS)
        require_choice("dpo.loss", self.loss, PREFERENCE_LOSSES)
        require_range("dpo.beta", self.beta, 1e-6, 1e3)
        require_range("dpo.label_smoothing", self.label_smoothing, 0.0, 0.499)
        require(
            not self.label_smoothing or self.loss in ("sigmoid", "robust"),
            "dpo.label_smoothing",
            self.label_smoothing,
            f"be 0 with dpo.loss={self.loss}",
            "use sigmoid or robust",
        )
        require_range("dpo.batch_size", self.batch_size, 1, unit="pairs")
        require_range("dpo.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("dpo.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("dpo.adam_epsilon", self.adam_epsilon, 0.0, 1.0)
        require_range("dpo.max_grad_norm", self.max_grad_norm, 1e-9)
        require_choice("dpo.precision", self.precision, PRECISIONS)
        if self.max_tokens is not None:
            require_range("dpo.max_tokens", self.max_tokens, 8, unit="tokens")
        require_range("dpo.num_samples", self.num_samples, 0, unit="prompts")
        require_range("dpo.num_kl_prompts", self.num_kl_prompts, 0, unit="prompts")
        require_range("dpo.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        require_range("dpo.save_every", self.save_every, 1, unit="steps")


STAGE = StageKind(
    "dpo",
    DPOConfig,
    "rlhf.dpo.stage:run",
    {"policy": Slot(POLICIES), "preferences": Slot(("data", "feedback"), many=True)},
    links={"seed": "${seed}"},
    makes_policy=True,
    measured=True,
    headline=("dpo/accuracy", "dpo/rewards_chosen", "dpo/rewards_rejected", "dpo/kl"),
    check="rlhf.preference_checks:require_one_set_of_passages",
    precision=own_precision,
)
