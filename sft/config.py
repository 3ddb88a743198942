"""Settings of the stages data, base and sft. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    CONTENT,
    NOT_HASHED,
    PRECISIONS,
    AdapterConfig,
    AtlasConfig,
    ModelConfig,
    require,
    require_choice,
    require_range,
)
from plumbrule.data.annotators import MERGES
from plumbrule.data.benchmark_items import BENCHMARK, ItemFormat
from plumbrule.data.readers import READERS, has_reader, source_digest

ROLES = ("corpus", "demonstrations", "preferences", "prompts", "documents")
"""Beside which each benchmark is a role of its own (`eval/benchmarks/registry.py`)."""
OPTIMIZERS = ("muon", "adamw")
STARTS = ("random", "induction")
ORDERS = ("shuffled", "file")


@dataclass
class DatasetConfig:
    """One source of records."""

    format: str = "atlas"
    """atlas (generated), hh_rlhf, jsonl (ours, chat, TRL's and others, told apart by their \
columns), halueval or bold."""
    path: str | None = field(default=None, metadata=CONTENT)
    """File or folder; None only for atlas. Hashed by the content of the files, not by name."""
    validation_share: float = 0.1
    """Share of conversations held out, by a hash of their first user turn; 0: none. A source with \
its own held-out rows keeps them."""
    split_seed: int = 0
    """Enters that hash."""
    max_rows: int | None = None
    """Keep the first rows only, of each side where the source brings its own split; None: all. \
Rankings of several annotators count one by one."""
    annotators: str = "majority"
    """Preferences that several named annotators judged: majority (one ranking, by Borda's count), \
soft (the same, with the mean utility of each answer as its score) or separate (a row for each)."""
    source: str = ""
    """Digest of the plug-in's file that reads the format; filled in, whatever is given."""

    def __post_init__(self) -> None:
        require_choice("dataset.format", self.format, {"atlas", *(name for name, _ in READERS)})
        require_choice("dataset.annotators", self.annotators, MERGES)
        self.source = source_digest(self.format)
        require_range("dataset.validation_share", self.validation_share, 0.0, 0.9)
        if self.max_rows is not None:
            require_range("dataset.max_rows", self.max_rows, 2, unit="rows")


@dataclass
class DataConfig:
    """Stage `data`: one node per role, each a cleaned, split set of records and a data card."""

    role: str = "demonstrations"
    """What the records are for; it fixes their type."""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    atlas: AtlasConfig | None = None
    """The world, for format atlas; None for any other, so that they never depend on it."""
    items: ItemFormat | None = None
    """Benchmarks: what each row must hold, as the benchmark of that name declares it; None: the
    role is none."""
    per_group: int | None = None
    """Benchmarks: rows kept per group (BOLD) or per task (HaluEval), spread evenly; None: all."""

    @property
    def is_split(self) -> bool:
        """Whether a share of the rows is held out; documents and benchmarks are used whole."""
        return self.items is None and self.role != "documents"

    def __post_init__(self) -> None:
        if self.items is None:
            require_choice("data.role", self.role, ROLES)
        if self.dataset.format == "atlas":
            require(
                self.atlas is not None, "data.atlas", None, "be given for format atlas", "set it"
            )
        else:
            require(
                self.dataset.path is not None,
                f"{self.role}: dataset.path",
                None,
                f"name a file or folder of format {self.dataset.format}",
                "pass dataset.path=<folder>",
            )
            own = (self.role, BENCHMARK) if self.items is not None else (self.role,)
            require(
                has_reader(self.dataset.format, self.role, self.items),
                f"{self.role}: dataset.format",
                self.dataset.format,
                f"be one that feeds role {self.role} "
                f"({', '.join(dict.fromkeys(f for f, role in READERS if role in own))})",
                f"give that role a data set of its own with dataset@data.{self.role}=<name>",
            )
        if self.per_group is not None:
            require_range("data.per_group", self.per_group, 1, unit="rows")
            require(
                self.items is not None,
                "data.per_group",
                self.per_group,
                f"be None for role {self.role}",
                "it thins benchmarks; use dataset.max_rows",
            )


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


@dataclass
class SFTConfig:
    """Stage `sft`: supervised fine-tuning on demonstrations, loss on the responses only."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """What to start from where the node has no `base` input; its context limits either way."""
    seed: int = 0
    num_train_epochs: float = 2.0
    batch_size: int = 32
    """Demonstrations per optimizer step."""
    learning_rate: float = 1e-3
    warmup_share: float = 0.05
    """Then a cosine to 0."""
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    precision: str = "float32"
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Low-rank adapters that learn in place of the weights."""
    save_every: int = field(default=50, metadata=NOT_HASHED)
    """Steps between checkpoints."""
    retrieval_template: str = "{passages}\n{question}"
    """How passages enter the last user turn; stored in policy.json and used ever after."""
    num_samples: int = 16
    """Validation prompts whose greedy responses are shown."""
    max_new_tokens: int = 32
    """Longest shown response, tokens."""

    def __post_init__(self) -> None:
        require_range("sft.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        require_range("sft.batch_size", self.batch_size, 1, unit="rows")
        require_range("sft.learning_rate", self.learning_rate, 0.0, 10.0)
        require_range("sft.warmup_share", self.warmup_share, 0.0, 1.0)
        require_range("sft.adam_epsilon", self.adam_epsilon, 0.0, 1.0)
        require_range("sft.max_grad_norm", self.max_grad_norm, 1e-9)
        require_choice("sft.precision", self.precision, PRECISIONS)
        require_range("sft.save_every", self.save_every, 1, unit="steps")
        require_range("sft.num_samples", self.num_samples, 0, unit="prompts")
        require_range("sft.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        holds = "{passages}" in self.retrieval_template and "{question}" in self.retrieval_template
        require(
            holds,
            "sft.retrieval_template",
            repr(self.retrieval_template),
            "hold {passages} and {question}",
            "add what is missing",
        )
