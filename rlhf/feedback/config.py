"""Settings of stage feedback. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.atlas.config import GoldConfig
from plumbrule.config import (
    CONTENT,
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    PRECISIONS,
    require,
    require_choice,
    require_named,
    require_range,
)
from plumbrule.lm.config import RetrievalConfig, SamplingConfig, SearchConfig
from plumbrule.lm.judges.questions import PASSAGES, require_fields
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import POLICIES, PlacedNode, Slot, StageKind
from rlhf.rewards.config import RewardConfig
from rlhf.rewards.graph_checks import check_reward

LABELLERS = ("gold", "rm", "judge", "person", "file")
PEOPLE = ("person", "file")
GOLD_NOISE = 0.1
JUDGE_QUESTION = """\
Here are a question and two answers to it.
{passages}
Question: {prompt}
Answer A: {first}
Answer B: {second}
Which answer is better? Say A or B."""


@dataclass
class JudgeConfig:
    """The language model of labeller=judge, and what it is asked of two answers."""

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a causal language model; None: the node's `judge` input."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    pad_token: str | None = None
    """Pad token to use where the tokenizer names none; None: refuse such a tokenizer."""
    precision: str = "float32"
    """Of the judge's weights: float32, bfloat16, or auto: what is native."""
    question: str = JUDGE_QUESTION
    """The user turn that it is shown; holds {prompt}, {first} and {second}, and may hold \
{passages}, whose line falls away where none were shown."""
    words: list[str] = field(default_factory=lambda: ["A", "B"])
    """What it says for the first answer and for the second, without the space before."""
    batch_size: int = field(default=16, metadata=NOT_HASHED)
    """Questions read together; changes numbers by rounding only."""

    def __post_init__(self) -> None:
        name = "feedback.judge"
        require_named(name, self.name_or_path, self.revision, self.pad_token)
        require_choice(f"{name}.precision", self.precision, PRECISIONS)
        require_fields(
            f"{name}.question", self.question, ("prompt", "first", "second"), (PASSAGES,)
        )
        words = [word.strip() for word in self.words]
        require(
            len(words) == 2 and all(words) and words[0] != words[1],
            f"{name}.words",
            self.words,
            "be two different words",
            "use [A,B]",
        )
        require_range(f"{name}.batch_size", self.batch_size, 1, unit="questions")


@dataclass
class FeedbackConfig:
    """Stage `feedback`: K answers per prompt from the policy, ranked by a labeller."""

    seed: int = 0
    labeller: str = "gold"
    """Who ranks: gold, the known utility; rm, the reward below; judge, a language model; person, \
whoever is asked on the page of `plumbrule label`; file, judgements made elsewhere."""
    gold: GoldConfig = field(default_factory=GoldConfig)
    """Also what the labels of rm and judge are measured by, where a prompt names its answer."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What labeller=rm ranks by; it does not follow the reward of policy methods."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The model of labeller=judge."""
    num_prompts: int | None = None
    """First prompts used; None: all."""
    num_held_out: int | None = None
    """First held-out prompts used; None: as large a share as of the others."""
    num_responses: int = 4
    """Answers sampled per prompt (K); equal ones are ranked once."""
    noise: float | None = None
    """Standard deviation of normal noise added to the labeller's scores before ranking; None: 0.1 \
with labeller=gold, else 0."""
    length_taste: float = 0.0
    """Planted bias: score added per ten words."""
    tie_width: float = 0.0
    """Answers closer than this in noisy score are ties."""
    flipped: float = 0.0
    """Share of rankings, in [0, 0.5], that are reversed at last; not of people's."""
    annotators: int = 1
    """People who must judge every question, with labeller=person or file; more are welcome. Their \
rankings are merged."""
    repeats: float = 0.1
    """Share of questions that people are asked twice, with the answers in another order, to see \
how far each agrees with themselves."""
    labels: str | None = field(default=None, metadata=CONTENT)
    """JSON Lines file of judgements for labeller=file (docs/labelling.md); None with the others."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    """Search calls of the policy, as in PPO. An answer's last turn is judged, with all that it \
was shown: by labellers gold and rm only, and nothing may learn from the rankings, since each \
answer has passages of its own."""

    def __post_init__(self) -> None:
        require_choice("feedback.labeller", self.labeller, LABELLERS)
        require_range("feedback.num_responses", self.num_responses, 2, 64, "answers")
        require_range("feedback.noise", self.noise_deviation, 0.0)
        require_range("feedback.tie_width", self.tie_width, 0.0)
        require_range("feedback.length_taste", self.length_taste, -1e3, 1e3)
        require_range("feedback.flipped", self.flipped, 0.0, 0.5)
        require(
            not self.flipped or self.labeller not in PEOPLE,
            "feedback.flipped",
            self.flipped,
            f"be 0 with feedback.labeller={self.labeller}: what people said is kept as it is",
            "set it to 0 or use another labeller",
        )
        require_range("feedback.annotators", self.annotators, 1, unit="people")
        require_range("feedback.repeats", self.repeats, 0.0, 1.0)
        require(
            (self.labels is not None) == (self.labeller == "file"),
            "feedback.labels",
            self.labels,
            f"name a file if and only if feedback.labeller (={self.labeller}) is file",
            "set both or neither",
        )
        require(
            self.sampling.temperature > 0,
            "feedback.sampling.temperature",
            self.sampling.temperature,
            "be above 0",
            "greedy answers to one prompt are all equal and can't be ranked",
        )
        require(
            not self.search.is_on or self.labeller in ("gold", "rm"),
            "feedback.labeller",
            self.labeller,
            f"be gold or rm with feedback.search.max_turns (={self.search.max_turns} turns): "
            "others compare two answers beside one set of passages, and each has its own",
            "set it so, or feedback.search.max_turns=1",
        )
        if self.num_prompts is not None:
            require_range("feedback.num_prompts", self.num_prompts, 4, unit="prompts")
        if self.num_held_out is not None:
            require_range("feedback.num_held_out", self.num_held_out, 1, unit="prompts")

    @property
    def most_response_tokens(self) -> int:
        """Tokens of an answer and of what its search calls found, at most."""
        return self.sampling.max_new_tokens + self.search.most_result_tokens

    @property
    def noise_deviation(self) -> float:
        """`noise`, or its default for the labeller."""
        if self.noise is not None:
            return self.noise
        return GOLD_NOISE if self.labeller == "gold" else 0.0


def _precision_of_judge(config: FeedbackConfig) -> tuple[str, str] | None:
    return ("judge.precision", config.judge.precision) if config.labeller == "judge" else None


def check_inputs(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError unless whoever ranks has what that takes."""
    config: FeedbackConfig = node.config
    require(
        not config.search.is_on or "index" in node.inputs,
        "feedback.search.max_turns",
        f"{config.search.max_turns} turns",
        f"be 1 where node {node.name} has no index",
        f"set it to 1, or give the node one: +nodes.{node.name}.inputs.index=index",
    )
    if config.labeller == "rm":
        check_reward(node, config.reward, "feedback.reward")
    if config.labeller == "judge":
        named, given = config.judge.name_or_path, node.inputs.get("judge")
        source = None if given is None else given.name
        require(
            (named is None) != (given is None),
            "feedback.judge.name_or_path",
            named,
            f"name a model if and only if node {node.name} has no judge input (={source})",
            f"name one, or point the node at a policy: nodes.{node.name}.inputs.judge=sft"
            if named is None
            else f"take one of the two out: nodes.{node.name}.inputs.judge=null",
        )


STAGE = StageKind(
    "feedback",
    FeedbackConfig,
    "rlhf.feedback.stage:run",
    {
        "policy": Slot(POLICIES),
        "prompts": Slot(("data",)),
        "index": Slot(
            ("index",),
            required=False,
            read_if=lambda config: config.retrieval.share > 0 or config.search.is_on,
        ),
        "rm": Slot(
            ("rm",),
            required=False,
            many=True,
            read_if=lambda config: config.labeller == "rm" and "rm" in config.reward.weights,
        ),
        "judge": Slot(
            POLICIES,
            required=False,
            read_if=lambda config: (
                config.labeller == "judge" or (config.labeller == "rm" and config.reward.asks_judge)
            ),
        ),
    },
    links={"seed": "${seed}", "gold": "${gold}", "reward.gold": "${gold}"},
    measured=True,
    result_tokens=lambda config: config.search.most_result_tokens,
    held_out_like="prompts",
    check="rlhf.feedback.config:check_inputs",
    reward=lambda config: config.reward if config.labeller == "rm" else None,
    precision=_precision_of_judge,
)
