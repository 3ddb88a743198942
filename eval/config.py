"""Settings of stage eval. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.atlas.config import GoldConfig
from plumbrule.config import (
    CONTENT,
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_range,
    require_source,
)
from plumbrule.lm.config import RetrievalConfig, SamplingConfig, SearchConfig
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind

CONDITIONS = ("closed", "rag", "search")
PROTOCOLS = ("two_sided", "official")
"""Of HaluEval."""
FORMS = ("auto", "chat", "completion")
SCORED = ("text", "continuation")
"""Of BOLD."""
LEXICON = "lexicon"
KNOWLEDGE = ("given", "hidden", "retrieved")
CHOICE_PROMPTS = ("chat", "plain")
FILES = (
    "truthfulqa",
    "multiple_choice",
    "bbq",
    "open_qa",
    "simpleqa",
    "classification",
    "perplexity",
)
"""Benchmarks that have `BenchmarkFiles`."""


@dataclass
class HaluEvalConfig:
    """HaluEval-shaped items: who judges them how, and what is shown."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """Folder of the official files, read by the data node `halueval`; None: Atlas's own."""
    per_task: int | None = field(default=100, metadata=NOT_HASHED)
    """Rows per task; None: all."""
    protocol: str = "two_sided"
    """two_sided: both sides of each row are judged, by the log-probs of Yes and No. official: one \
side of each row, drawn from (seed, row), by a greedy answer that the official parser reads."""
    instructions: str | None = field(default=None, metadata=CONTENT)
    """Folder of the official instruction files, and system_messages.json beside them; None: a \
short question in our words."""
    knowledge: str | None = None
    """What stands beside a text: given, the row's own; retrieved, what the node's index finds for \
its query; hidden. None: given in our words, hidden in the official ones."""
    form: str = "auto"
    """How the judge is asked: chat, through the template; completion, as plain text. auto: \
official words go to a base model, or one without a chat template, as plain text, all others as a \
chat."""
    max_new_tokens: int = 32
    """Of protocol official: longest judgement, tokens."""
    generate: bool = False
    """Whether the policy also answers the rows itself, and its answers are judged."""

    def __post_init__(self) -> None:
        if self.per_task is not None:
            require_range("eval.halueval.per_task", self.per_task, 1, unit="rows")
        require_choice("eval.halueval.protocol", self.protocol, PROTOCOLS)
        require_choice("eval.halueval.form", self.form, FORMS)
        if self.knowledge is not None:
            require_choice("eval.halueval.knowledge", self.knowledge, KNOWLEDGE)
        require_range("eval.halueval.max_new_tokens", self.max_new_tokens, 1, unit="tokens")
        require(
            self.protocol != "official" or self.instructions is not None,
            "eval.halueval.instructions",
            self.instructions,
            "be a folder under eval.halueval.protocol=official",
            "name the folder evaluation/ of the official files",
        )

    @property
    def chosen_knowledge(self) -> str:
        """Return given, retrieved or hidden."""
        default = "given" if self.instructions is None else "hidden"
        return default if self.knowledge is None else self.knowledge

    @property
    def shows_knowledge(self) -> bool:
        """Return whether a text stands beside the row's own knowledge."""
        return self.chosen_knowledge == "given"


@dataclass
class BoldConfig:
    """BOLD-shaped prompts: what is measured of continuations, by group."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """Folder of the official files, read by the data node `bold`; None: Atlas's own."""
    per_group: int | None = field(default=None, metadata=NOT_HASHED)
    """Prompts per group; None: all."""
    max_new_tokens: int = 24
    """Longest continuation, tokens."""
    scored: str = "text"
    """text: prompt and continuation together; continuation: what the policy said alone."""
    wikipedia: str | None = field(default=None, metadata=CONTENT)
    """Folder of the released texts, to which each group's shares are then compared; None: none."""
    vectors: str | None = field(default=None, metadata=CONTENT)
    """Text file of word vectors, for gender polarity by embeddings; None: by words alone."""
    norms: str | None = field(default=None, metadata=CONTENT)
    """CSV or TSV file of psycholinguistic norms by word; None: not measured."""
    toxicity: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a sequence classifier; lexicon: words that VADER rates -3 or lower, \
which is no classifier and is named so; None: not measured."""
    toxicity_revision: str | None = None
    """Commit of a classifier of the hub, 40 hex digits."""
    regard: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a sequence classifier with labels positive and negative; None: not \
measured."""
    regard_revision: str | None = None
    """Commit of a classifier of the hub, 40 hex digits."""

    def __post_init__(self) -> None:
        require_choice("eval.bold.scored", self.scored, SCORED)
        for name in ("toxicity", "regard"):
            given, revision = getattr(self, name), getattr(self, f"{name}_revision")
            if given not in (None, LEXICON):
                require_source(f"eval.bold.{name}", given, f"eval.bold.{name}_revision", revision)
        if self.per_group is not None:
            require_range("eval.bold.per_group", self.per_group, 1, unit="prompts")
        require_range("eval.bold.max_new_tokens", self.max_new_tokens, 1, unit="tokens")


@dataclass
class BenchmarkFiles:
    """A benchmark of files that the user names; the path adds it to each evaluation."""

    path: str | None = field(default=None, metadata=NOT_HASHED)
    """File or folder, in the format of the benchmark's name; None: it is not measured."""
    per_group: int | None = field(default=None, metadata=NOT_HASHED)
    """Items per group, spread evenly; None: all."""


@dataclass
class EvalConfig:
    """Stage `eval`: everything that is measured of one policy."""

    seed: int = 0
    conditions: list[str] = field(default_factory=lambda: ["closed", "rag"])
    """closed: closed book; rag: with passages; search: the policy searches itself. A node without \
an `index` input skips the last two."""
    gold: GoldConfig = field(default_factory=GoldConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Of the responses to held-out prompts, which gold and reward model score."""
    max_prompts: int | None = 256
    """Held-out prompts scored; None: all."""
    retrieval: RetrievalConfig = field(default_factory=lambda: RetrievalConfig(share=1.0))
    search: SearchConfig = field(default_factory=SearchConfig)
    """How the policy searches under `search`, as it was trained to."""
    leave_one_out: bool = False
    """Whether each answer under `rag` is scored again without each of its passages, which says \
what the policy used; a forward pass for each."""
    halueval: HaluEvalConfig = field(default_factory=HaluEvalConfig)
    bold: BoldConfig = field(default_factory=BoldConfig)
    truthfulqa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """TruthfulQA: its `mc_task.json`."""
    multiple_choice: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Any questions with given answers: a table with question, choices and answer."""
    bbq: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """BBQ: its files, one for each category; a group is a category and kind of context."""
    classification: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Any texts with a label each: a table with text and label."""
    open_qa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Any questions with reference answers: a table with question and answers."""
    simpleqa: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """SimpleQA: its CSV."""
    perplexity: BenchmarkFiles = field(default_factory=BenchmarkFiles)
    """Perplexity and bits per byte of any texts: a table with text."""
    perplexity_stride: int | None = None
    """Tokens between the windows in which a text longer than the context is read; None: half the
    context."""
    choice_prompt: str = "chat"
    """How a question whose answers are given is put: chat, through the policy's template, or \
plain, as text behind `Q:` with the answer behind `A:`, for a model that knows no chat."""
    confidence: float = 0.95
    """Of every interval."""
    num_resamples: int = 2000
    """Bootstrap resamples, of the gap between BOLD's groups."""
    num_samples: int = 16
    """Responses shown in `samples.jsonl`, per benchmark and condition."""

    def __post_init__(self) -> None:
        require(bool(self.conditions), "eval.conditions", self.conditions, "name one", "add closed")
        for condition in self.conditions:
            require_choice("eval.conditions", condition, CONDITIONS)
        require(
            self.search.is_on == ("search" in self.conditions),
            "eval.search.max_turns",
            self.search.max_turns,
            "be above 1 if and only if eval.conditions names search",
            "set it as ppo.search.max_turns, or take search out",
        )
        if self.perplexity_stride is not None:
            require_range("eval.perplexity_stride", self.perplexity_stride, 1, unit="tokens")
        require_choice("eval.choice_prompt", self.choice_prompt, CHOICE_PROMPTS)
        for name in FILES:
            if getattr(self, name).per_group is not None:
                most = getattr(self, name).per_group
                require_range(f"eval.{name}.per_group", most, 1, unit="items")
        require_range("eval.confidence", self.confidence, 0.5, 0.9999)
        require_range("eval.num_resamples", self.num_resamples, 100)
        require_range("eval.num_samples", self.num_samples, 0, unit="responses")
        if self.max_prompts is not None:
            require_range("eval.max_prompts", self.max_prompts, 2, unit="prompts")


def _lacks_gold(node: PlacedNode) -> tuple[str, str] | None:
    if {"reference", "prompts"} <= set(node.inputs):
        return None
    return (
        "have inputs prompts and reference, for gold and KL",
        "give it the policy that the baseline evaluates as reference",
    )


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for a KL of greedy answers, and knowledge to be retrieved from no index."""
    judged = node.config.halueval
    require(
        "halueval" not in node.inputs
        or judged.chosen_knowledge != "retrieved"
        or ("index" in node.inputs and "rag" in node.config.conditions),
        "eval.halueval.knowledge",
        judged.knowledge,
        f"be given or hidden where node {node.name} has no index, or eval.conditions no rag",
        "give the node an index",
    )
    require(
        "reference" not in node.inputs or node.config.sampling.temperature > 0,
        "eval.sampling.temperature",
        node.config.sampling.temperature,
        f"be above 0 where node {node.name} has an input reference",
        "greedy answers have no KL; raise it or leave the reference out",
    )


def _result_tokens(config: EvalConfig) -> int:
    """Return what `search` takes beyond the passages of `rag`: no answer has both."""
    passages = config.retrieval.budget_tokens if "rag" in config.conditions else 0
    return max(0, config.search.most_result_tokens - passages)


STAGE = StageKind(
    "eval",
    EvalConfig,
    "eval.stage:run",
    {
        "policy": Slot(POLICIES),
        "index": Slot(("index",), required=False),
        "rm": Slot(("rm",), required=False),
        "reward": Slot(("reward",), required=False),
        "reference": Slot(POLICIES, required=False),
    },
    links={"seed": "${seed}", "gold": "${gold}"},
    measured=True,
    shows_passages=lambda config: "rag" in config.conditions,
    passages_optional=True,
    result_tokens=_result_tokens,
    lacks_gold=_lacks_gold,
    check="eval.config:check_inputs",
    headline=(
        "eval/known_accuracy_{policy}",
        "eval/accuracy_{policy}_rag",
        "eval/confident_wrong_{policy}_closed",
        "eval/confident_wrong_{policy}_rag",
    ),
)
"""Of whose slots and `needs_one_of`, `plumbrule/pipeline/stages.py` makes the benchmarks a part."""
