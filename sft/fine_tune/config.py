"""Settings of stage sft. No torch here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from plumbrule.config import NOT_HASHED, PRECISIONS, require, require_choice, require_range
from plumbrule.lm.config import AdapterConfig, ModelConfig, RetrievalConfig, SearchFormConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind, own_precision

ROWS_KEY = "sft rows"
"""Of the random numbers that order the rows."""


@dataclass
class SFTConfig:
    """Stage `sft`: supervised fine-tuning on demonstrations, loss on the responses only."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """What to start from where the node has no `base` input; its context limits either way."""
    seed: int = 0
    num_train_epochs: float = 2.0
    train_tokens: int | None = None
    """Tokens to train on, prompts included and each time that a row is seen counted: the last row \
that exceeds them is left out. So trainings on different data can have one budget. None: as \
num_train_epochs says, which is not read otherwise."""
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
    passage_template: str = "{passage}"
    """How each passage is written in it, such as `[{n}] {passage}`, so that answers can cite [1]; \
{n} counts from 1. Stored in policy.json and used ever after."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """Passages for a share of the demonstrations that bring none."""
    search: SearchFormConfig = field(default_factory=SearchFormConfig)
    """How calls of demonstrations with searches are written; stored in policy.json, and what \
samples in turns from it must be set the same. Answers to calls are not learned."""
    num_samples: int = 16
    """Validation prompts whose greedy responses are shown."""
    max_new_tokens: int = 32
    """Longest shown response, tokens."""

    def __post_init__(self) -> None:
        require_range("sft.num_train_epochs", self.num_train_epochs, 0.0, 1000.0, "epochs")
        if self.train_tokens is not None:
            require_range("sft.train_tokens", self.train_tokens, 1, unit="tokens")
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
        require(
            "{passage}" in self.passage_template,
            "sft.passage_template",
            repr(self.passage_template),
            "hold {passage}",
            "add it",
        )


def _model(config: SFTConfig, inputs: Collection[str]) -> ModelConfig | None:
    return None if "base" in inputs else config.model


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless there is a model to start from."""
    require(
        "base" in node.inputs or node.config.model.name_or_path is not None,
        "model.name_or_path",
        None,
        "name a model where sft has no base input",
        "choose model=<file of conf/model> or set model.name_or_path=<folder or hub name>",
    )
    require(
        node.config.retrieval.share == 0.0 or "index" in node.inputs,
        "sft.retrieval.share",
        node.config.retrieval.share,
        f"be 0 where node {node.name} has no index",
        f"set it to 0, or give the node one: +nodes.{node.name}.inputs.index=index",
    )


STAGE = StageKind(
    "sft",
    SFTConfig,
    "sft.fine_tune.stage:run",
    {
        "base": Slot(POLICIES, required=False),
        "demonstrations": Slot(("data", "reject")),
        "index": Slot(
            ("index",), required=False, read_if=lambda config: config.retrieval.share > 0
        ),
    },
    links={"seed": "${seed}", "model": "${model}"},
    makes_policy=True,
    measured=True,
    headline=("sft/loss",),
    check="sft.fine_tune.config:check_inputs",
    model=_model,
    precision=own_precision,
)
