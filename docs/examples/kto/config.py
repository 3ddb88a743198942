"""Settings of stage kto. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, require_range
from plumbrule.stage_kind import POLICIES, Slot, StageKind


@dataclass
class KTOConfig:
    """Stage `kto`: a policy learns from answers that are each desirable or not."""

    seed: int = 0
    num_train_epochs: float = 1.0
    beta: float = 0.1
    """The implicit reward of an answer is beta times its log-ratio to the reference."""
    desirable_weight: float = 1.0
    """lambda_D of the paper: what a desirable answer counts."""
    undesirable_weight: float = 1.0
    """lambda_U."""
    batch_size: int = 32
    """Answers per optimizer step; the mean over them is also the step's estimate of the KL."""
    learning_rate: float = 1e-4
    warmup_share: float = 0.05
    """Then a cosine to 0."""
    max_grad_norm: float = 1.0
    save_every: int = field(default=50, metadata=NOT_HASHED)
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_range("kto.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_range("kto.beta", self.beta, 1e-6, 1e3)
        require_range("kto.desirable_weight", self.desirable_weight, 0.0, 1e3)
        require_range("kto.undesirable_weight", self.undesirable_weight, 0.0, 1e3)
        require_range("kto.batch_size", self.batch_size, 2, unit="answers")
        require_range("kto.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("kto.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("kto.max_grad_norm", self.max_grad_norm, 1e-9)
        require_range("kto.save_every", self.save_every, 1, unit="steps")


STAGE = StageKind(
    "kto",
    KTOConfig,
    "rlhf.kto.stage:run",
    {"policy": Slot(POLICIES), "preferences": Slot(("data", "feedback"), many=True)},
    links={"seed": "${seed}"},
    makes_policy=True,
    measured=True,
    headline=("kto/accuracy", "kto/rewards_desirable", "kto/rewards_undesirable"),
)
