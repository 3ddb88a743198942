"""Settings of stage base. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, PRECISIONS, require, require_choice, require_range
from plumbrule.lm.config import ModelConfig
from plumbrule.stage_kind import Slot, StageKind, own_precision

OPTIMIZERS = ("muon", "adamw")
STARTS = ("random", "induction")


ORDERS = ("shuffled", "file")


@dataclass
class BaseConfig:
    """Stage `base`: a causal language model from scratch on the corpus role's texts."""

    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    start: str = "random"
    """Weights at step 0: random, or induction (`sft/base/induction.py`): a small model that can
    look things up from the first step."""
    order: str = "shuffled"
    """Order of the texts in the first epoch: shuffled, or that of the file, for a corpus that is a
    curriculum. Later epochs are shuffled."""
    steps: int = 400
    """Optimizer steps."""
    batch_tokens: int = 4096
    """Tokens per optimizer step, documents packed to rows of `sequence_tokens`."""
    sequence_tokens: int = 256
    learning_rate: float = 3e-3
    optimizer: str = "muon"
    """muon (layer matrices; AdamW on the rest) or adamw."""
    warmup_share: float = 0.05
    decay_share: float = 0.5
    """Last share of steps with a linear decay to 0."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    precision: str = "float32"
    """Compute precision (PRECISIONS in plumbrule/config.py); master weights are float32 in all."""
    measure_every: int | None = field(default=None, metadata=NOT_HASHED)
    """Steps between measurements on the held-out texts, logged; None: only at the end."""
    save_every: int = field(default=100, metadata=NOT_HASHED)
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        require_range("base.steps", self.steps, 1, unit="steps")
        require_range("base.sequence_tokens", self.sequence_tokens, 8, unit="tokens")
        require(
            self.batch_tokens % self.sequence_tokens == 0,
            "base.batch_tokens",
            f"{self.batch_tokens} tokens",
            f"divide by base.sequence_tokens (={self.sequence_tokens})",
            "use a multiple of it",
        )
        require_range("base.learning_rate", self.learning_rate, 0.0, 10.0)
        require_choice("base.optimizer", self.optimizer, OPTIMIZERS)
        require_choice("base.start", self.start, STARTS)
        if self.model.name_or_path is None:
            self._check_shape()
        require_choice("base.order", self.order, ORDERS)
        require_choice("base.precision", self.precision, PRECISIONS)
        require_range("base.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("base.decay_share", self.decay_share, 0.0, 1.0)
        require_range("base.weight_decay", self.weight_decay, 0.0, 10.0)
        require_range("base.max_grad_norm", self.max_grad_norm, 1e-9)
        if self.measure_every is not None:
            require_range("base.measure_every", self.measure_every, 1, unit="steps")
        require_range("base.save_every", self.save_every, 1, unit="steps")

    def _check_shape(self) -> None:
        """Raise ConfigError unless a model from scratch can be trained as configured."""
        require(
            self.sequence_tokens <= self.model.context,
            "base.sequence_tokens",
            f"{self.sequence_tokens} tokens",
            f"fit model.context (={self.model.context})",
            "shorten it or choose a model with a longer context",
        )
        shape = self.model
        require(
            self.start != "induction"
            or (
                shape.num_layers >= 2
                and shape.num_heads >= 2
                and shape.hidden_size >= 4 * shape.num_heads
            ),
            "base.start",
            self.start,
            f"be random for {shape.num_layers} layers of {shape.num_heads} heads in "
            f"{shape.hidden_size} dimensions; the circuit needs two layers, and two heads of four",
            "change it or the model's shape",
        )


def _from_scratch(config: BaseConfig) -> bool:
    return config.model.name_or_path is None


STAGE = StageKind(
    "base",
    BaseConfig,
    "sft.base.stage:run",
    {"corpus": Slot(("data",), read_if=_from_scratch)},
    links={"model": "${model}"},  # its seed is its own: varying `seed` keeps the base model
    makes_policy=True,
    headline=(
        "base/perplexity",
        "base/read_accuracy",
        "base/closed_book_accuracy",
        "base/abstain_accuracy",
    ),
    model=lambda config, inputs: config.model,
    precision=lambda config: own_precision(config) if _from_scratch(config) else None,
)
