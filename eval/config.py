"""Settings of stage eval. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.few_shot import SHOTS
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
    shots: str | None = field(default=None, metadata=NOT_HASHED)
    """File or folder of a train split in the same format, of which `eval.num_shots` examples are \
shown with each question; None: none are."""


@dataclass
class LmEvalConfig:
    """Tasks of lm-evaluation-harness, of the extra `lm-eval`."""

    tasks: list[str] = field(default_factory=list)
    """Names of its tasks or groups of tasks; none: it is not asked."""
    include_path: str | None = field(default=None, metadata=CONTENT)
    """Folder of further task files, which may name no code; None: its own tasks alone."""
    num_fewshot: int | None = None
    """Examples in front of each question; None: as many as each task says."""
    limit: int | None = None
    """Documents of each task, the first ones; None: all."""
    chat: bool = False
    """Whether prompts go through the policy's chat template; else they are plain text."""

    def __post_init__(self) -> None:
        require(
            len(set(self.tasks)) == len(self.tasks),
            "eval.lm_eval.tasks",
            self.tasks,
            "name each task once",
            "take one out",
        )
        if self.num_fewshot is not None:
            require_range("eval.lm_eval.num_fewshot", self.num_fewshot, 0, 64, "examples")
        if self.limit is not None:
            require_range("eval.lm_eval.limit", self.limit, 1, unit="documents")
        require(
            bool(self.tasks) or self.include_path is None,
            "eval.lm_eval.include_path",
            self.include_path,
            "be null without eval.lm_eval.tasks",
            "name a task of it, or leave it out",
        )


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
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    perplexity_stride: int | None = None
    """Tokens between the windows in which a text longer than the context is read; None: half the
    context."""
    choice_prompt: str = "chat"
    """How a question whose answers are given is put: chat, through the policy's template, or \
plain, as text behind `Q:` with the answer behind `A:`, for a model that knows no chat."""
    num_shots: int = 0
    """Answered examples in front of each question of the benchmarks whose `shots` name a train \
split, drawn with `seed`; 0: none."""
    num_votes: int = 0
    """Of open questions: answers sampled to each at `sampling.temperature`; the commonest \
is scored beside the greedy one (self-consistency); 0: none."""
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
        require_range("eval.num_shots", self.num_shots, 0, 64, "examples")
        self._check_shots()
        require_range("eval.num_votes", self.num_votes, 0, 1024, "answers")
        require(
            self.num_votes != 1,
            "eval.num_votes",
            self.num_votes,
            "be 0 or at least 2 answers, of which one can be the commonest",
            "raise it, or set eval.num_votes=0",
        )
        require(
            self.num_votes == 0 or self.sampling.temperature > 0,
            "eval.sampling.temperature",
            self.sampling.temperature,
            f"be above 0 with eval.num_votes (={self.num_votes}), since greedy answers are equal",
            "set eval.sampling.temperature=0.7",
        )
        require_range("eval.confidence", self.confidence, 0.5, 0.9999)
        require_range("eval.num_resamples", self.num_resamples, 100)
        require_range("eval.num_samples", self.num_samples, 0, unit="responses")
        if self.max_prompts is not None:
            require_range("eval.max_prompts", self.max_prompts, 2, unit="prompts")

    def _check_shots(self) -> None:
        named = [name for name in FILES if getattr(self, name).shots is not None]
        for name in named:
            require(
                self.num_shots > 0,
                f"eval.{name}.shots",
                getattr(self, name).shots,
                "be null with eval.num_shots=0, which shows no example",
                "set eval.num_shots=5, or leave the train split out",
            )
            require(
                getattr(self, name).path is not None,
                f"eval.{name}.shots",
                getattr(self, name).shots,
                f"come with eval.{name}.path, whose questions the examples stand in front of",
                f"name the file with eval.{name}.path=<file>",
            )


def check_shots(node: PlacedNode) -> None:
    """Raise ConfigError for examples that a benchmark does not take, or that nothing takes."""
    from eval.benchmarks.registry import BENCHMARKS

    number = node.config.num_shots
    if number == 0:
        return
    for name in FILES:
        given, benchmark = getattr(node.config, name).shots, BENCHMARKS[name]
        require(
            given is None or benchmark.example is not None,
            f"eval.{name}.shots",
            given,
            f"be null: {benchmark.no_shots}",
            "leave it out",
        )
    takers = [n for n, one in BENCHMARKS.items() if one.example is not None and n in node.inputs]
    others = "; ".join(
        f"{n}: {one.no_shots}"
        for n, one in BENCHMARKS.items()
        if one.example is None and n in node.inputs
    )
    require(
        any(f"{name}{SHOTS}" in node.inputs for name in takers),
        "eval.num_shots",
        f"{number} examples",
        f"be 0 where node {node.name} has no train split to draw them from"
        + (f" ({others})" if others else ""),
        "name one, such as eval.multiple_choice.shots=<file>, or set eval.num_shots=0",
    )


def _lacks_gold(node: PlacedNode) -> tuple[str, str] | None:
    if {"reference", "prompts"} <= set(node.inputs):
        return None
    return (
        "have inputs prompts and reference, for gold and KL",
        "give it the policy that the baseline evaluates as reference",
    )


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError for a KL of greedy answers, and knowledge to be retrieved from no index."""
    from eval.benchmarks.harness.lm_eval_tasks import check_installed

    check_installed(node.config)
    check_shots(node)
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
    recompute="eval.recompute:evaluation",
)
"""Of whose slots and `needs_one_of`, `plumbrule/pipeline/stages.py` makes the benchmarks a part."""
