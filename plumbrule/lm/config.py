"""Settings of models, adapters, sampling and retrieval, which several stages share. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_range,
    require_source,
)

SYSTEM_TURNS = ("keep", "fold", "refuse")


@dataclass
class ShapeConfig:
    """What a plan is told of a hub model whose files are not here yet; loading reads none of it.

    A model whose config.json is here is read from that.
    """

    parameters: int | None = None
    """All weights, a tied one once; None: not known before the model is here."""
    layers: int = 0
    hidden_size: int = 0
    intermediate_size: int = 0
    heads: int = 0
    """Attention heads of the queries."""
    kv_heads: int = 0
    """Attention heads of the keys and values."""
    head_size: int = 0
    """Numbers per attention head."""
    vocab_size: int = 0
    """Rows of the embedding."""
    download_gb: float = 0.0
    """Of the weights on the hub, 10^9 bytes, about."""

    def __post_init__(self) -> None:
        sizes = ("layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_size")
        least = 0 if self.parameters is None else 1
        for name in (*sizes, "vocab_size"):
            require_range(f"model.shape.{name}", getattr(self, name), least)
        require_range("model.shape.download_gb", self.download_gb, 0.0, unit="GB")
        if self.parameters is not None:
            require_range("model.shape.parameters", self.parameters, 1)


@dataclass
class ModelConfig:
    """A causal language model: one to load, or the shape of one to make from scratch."""

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder, hub name, or plumbrule/atlas-base, which is shipped; None: a Llama of the shape
    below, made by the base stage."""
    revision: str | None = None
    """Commit of a hub model, 40 hex digits; a branch or tag, such as main, becomes the commit that
    it names while planning. None for a folder."""
    context: int = 512
    """Longest prompt and response together, tokens."""
    vocab_size: int = 2048
    """Tokens of the byte-level BPE that is trained with a model from scratch."""
    hidden_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    intermediate_size: int = 352
    pad_token: str | None = None
    """Pad token to use where the tokenizer names none; None: refuse such a tokenizer."""
    system_turns: str = "keep"
    """keep: as the data has them; fold: put before the next user turn, for chat templates that
    refuse system turns; refuse: an error."""
    shape: ShapeConfig = field(default_factory=ShapeConfig, metadata=NOT_HASHED)
    """Of a hub model: what the plan reckons memory and download by, until its files are here."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size"):
            require_range(f"model.{name}", getattr(self, name), 1)
        require_range("model.context", self.context, 8, unit="tokens")
        require_choice("model.system_turns", self.system_turns, SYSTEM_TURNS)
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            "model.hidden_size",
            self.hidden_size,
            f"divide by 2 * model.num_heads (={2 * self.num_heads})",
            "rotary position codes need an even size per head",
        )
        if self.name_or_path is not None:
            require_source("model.name_or_path", self.name_or_path, "model.revision", self.revision)


INHERITED = ("continue", "merge")


@dataclass
class AdapterConfig:
    """Low-rank adapters that are trained in place of a model's own weights."""

    rank: int = 0
    """Of the update to each weight; 0: no adapters, the weights themselves are trained."""
    alpha: int = 16
    """The update is scaled by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get one; all-linear: every linear layer but the head."""
    inherited: str = "continue"
    """What becomes of the adapter of a policy that has one. continue: it is trained on; merge: it \
becomes part of the weights first, which are then trained, or frozen under an adapter of `rank`."""

    def __post_init__(self) -> None:
        require_choice("adapter.inherited", self.inherited, INHERITED)
        require_range("adapter.rank", self.rank, 0)
        require_range("adapter.alpha", self.alpha, 1)
        require(
            bool(self.targets),
            "adapter.targets",
            self.targets,
            "name layers",
            "use [all-linear]",
        )


@dataclass
class SamplingConfig:
    """How responses are sampled. top_k and top_p are off: a truncated distribution has no KL."""

    temperature: float = 1.0
    """Divides logits in sampling and in every log-prob; 0 is greedy (not for PPO)."""
    max_new_tokens: int = 32
    """Longest response, tokens, its terminal token counted."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Responses decoded together; changes numbers by rounding only."""

    def __post_init__(self) -> None:
        require_range("sampling.temperature", self.temperature, 0.0, 10.0)
        require_range("sampling.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        require_range("sampling.batch_size", self.batch_size, 1, unit="rows")


RETRIEVAL_METHODS = ("bm25", "dense", "hybrid")
PASSAGE_ORDERS = ("best_first", "best_last", "shuffled")


@dataclass
class RetrievalConfig:
    """Which passages a policy is shown, and how many tokens they may take."""

    share: float = 0.0
    """Share of prompts that are given passages, in [0, 1]; needs an `index` input above 0."""
    num_passages: int = 3
    """Passages asked for per prompt."""
    budget_tokens: int = 160
    """Most tokens that passages may add to a prompt; passages that don't fit are left out whole."""
    method: str = "hybrid"
    """bm25, dense or hybrid (convex sum of min-max scaled scores)."""
    order: str = "best_first"
    """best_first, best_last, or shuffled, anew for each (seed, update, prompt). What fits the \
budget is chosen best first in all."""
    dropout: float = 0.0
    """Chance that a passage is left out, in [0, 1], each by itself, anew for each (seed, update, \
prompt): so a policy in training learns not to count on the right one, and to abstain."""
    num_distractors: int = 0
    """Passages more that were ranked behind those asked for, of the next ten times as many, drawn \
anew for each (seed, update, prompt): near misses that a policy in training learns to ignore. They \
rank last and are never dropped."""

    def __post_init__(self) -> None:
        require_range("retrieval.share", self.share, 0.0, 1.0)
        require_range("retrieval.num_passages", self.num_passages, 1)
        require_range("retrieval.budget_tokens", self.budget_tokens, 1, unit="tokens")
        require_choice("retrieval.method", self.method, RETRIEVAL_METHODS)
        require_choice("retrieval.order", self.order, PASSAGE_ORDERS)
        require_range("retrieval.dropout", self.dropout, 0.0, 1.0)
        require_range("retrieval.num_distractors", self.num_distractors, 0, unit="passages")

    def without_chance(self) -> RetrievalConfig:
        """Return the settings for prompts that nothing is learnt from."""
        return replace(self, dropout=0.0, num_distractors=0)


RESULTS_TEMPLATE = "\n<information>\n{passages}</information>\n"


@dataclass
class SearchFormConfig:
    """How the search calls of demonstrations and the answers to them are written."""

    open: str = "<search>"
    """Text that begins a call, as `ppo.search.open`."""
    close: str = "</search>"
    """Text that ends a call, as `ppo.search.close`."""
    template: str = RESULTS_TEMPLATE
    """How passages stand in the answer, as `ppo.search.template`."""

    def __post_init__(self) -> None:
        require_search_form(self.open, self.close, self.template)


def require_search_form(open: str, close: str, template: str) -> None:
    """Raise ConfigError unless calls can be told from text, and passages stand in their answer."""
    for name, marker in (("open", open), ("close", close)):
        require(
            bool(marker) and marker == marker.strip() and marker.isascii() and marker.isprintable(),
            f"search.{name}",
            repr(marker),
            "be printable ASCII text without blanks at its ends: one token then holds its last "
            "letter",
            "use one such as <search>",
        )
    require(
        open not in close and close not in open,
        "search.close",
        close,
        f"not hold search.open (={open}), nor stand in it",
        "use two that differ, such as <search> and </search>",
    )
    require(
        template.count("{passages}") == 1,
        "search.template",
        repr(template),
        "hold {passages} once",
        "add it",
    )


@dataclass
class SearchConfig:
    """Search calls that a policy writes itself, in an episode of several turns. Off by default."""

    max_turns: int = 1
    """Turns that the policy may write in an episode; between two stands the answer to a search \
call. 1: it makes none. Above 1 the node needs an `index` input."""
    num_passages: int = 3
    """Passages asked for per call."""
    budget_tokens: int = 160
    """Most tokens of the answer to a call, template included; passages that don't fit are left \
out whole. An episode is at most sampling.max_new_tokens, which count over all turns, and \
(max_turns - 1) times this."""
    method: str = "hybrid"
    """bm25, dense or hybrid (convex sum of min-max scaled scores)."""
    open: str = "<search>"
    """Text that begins a call; printable ASCII, no blank at an end. The query stands behind it."""
    close: str = "</search>"
    """Text that ends a call, and with it the turn; printable ASCII, no blank at an end."""
    template: str = RESULTS_TEMPLATE
    """How passages stand in the answer: {passages} are lines `[n] text`, n counting the passages \
of the episode from 1."""
    cache_megabytes: int = field(default=64, metadata=NOT_HASHED)
    """Of passages that are remembered by query, in each process; those used longest ago are \
forgotten first. 0: none."""

    def __post_init__(self) -> None:
        require_range("search.max_turns", self.max_turns, 1, unit="turns")
        require_range("search.num_passages", self.num_passages, 1)
        require_range("search.budget_tokens", self.budget_tokens, 1, unit="tokens")
        require_range("search.cache_megabytes", self.cache_megabytes, 0, unit="MB")
        require_choice("search.method", self.method, RETRIEVAL_METHODS)
        require_search_form(self.open, self.close, self.template)

    @property
    def is_on(self) -> bool:
        """Whether a policy may search."""
        return self.max_turns > 1

    @property
    def most_result_tokens(self) -> int:
        """Tokens of all answers to calls in an episode, at most."""
        return (self.max_turns - 1) * self.budget_tokens
