"""Settings of reward terms that a language model judges: `judge` and `rubric`. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_named,
    require_range,
)
from plumbrule.lm.endpoints.settings import require_endpoint
from plumbrule.lm.judges.questions import PASSAGES, require_fields

JUDGED_TERMS = ("judge", "rubric")
"""Terms that ask the model of `reward.judge_model`."""
PARTS = ("score", "failed", "word_mass", "prompt_tokens", "reply_tokens")
"""What these terms return beside criteria, whose names they can't be."""
JUDGE_QUESTION = """\
Here are a question and an answer to it.
{passages}
Question: {prompt}
Answer: {response}
How good is the answer, from {lowest} (useless) to {highest} (excellent)? Say the number only."""
RUBRIC_QUESTION = """\
Here are a question and an answer to it.
{passages}
Question: {prompt}
Answer: {response}
Does this hold of the answer: {criterion} Say yes or no."""


@dataclass
class JudgeModelConfig:
    """The language model that the terms judge and rubric ask: a policy here, or an endpoint."""

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name of a causal language model; None: the node's `judge` input, or `url`."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    pad_token: str | None = None
    """Pad token to use where the tokenizer names none; None: refuse such a tokenizer."""
    precision: str = "float32"
    """Of a local judge's weights: float32 or bfloat16."""
    batch_size: int = field(default=16, metadata=NOT_HASHED)
    """Questions that a local judge reads together; changes numbers by rounding only."""
    url: str | None = None
    """Of an OpenAI-compatible endpoint, such as http://localhost:8000/v1; /chat/completions is \
added. None: no endpoint."""
    model: str | None = None
    """What the endpoint calls the model; needed with `url`."""
    token_env: str | None = None
    """Environment variable whose value is sent as a bearer token; None: none is."""
    max_reply_tokens: int = 16
    """That the endpoint may say to a question; a model that reasons first needs many more."""
    num_requests: int = field(default=8, metadata=NOT_HASHED)
    """Requests to the endpoint at once; each asks one question."""
    timeout_seconds: float = field(default=60.0, metadata=NOT_HASHED)
    """Of one request, from connecting to the reply's last byte."""
    patience_seconds: float = field(default=180.0, metadata=NOT_HASHED)
    """How long a request is tried again before the run stops."""

    def __post_init__(self) -> None:
        name = "reward.judge_model"
        require_named(name, self.name_or_path, self.revision, self.pad_token)
        require_choice(f"{name}.precision", self.precision, ("float32", "bfloat16"))
        require_range(f"{name}.batch_size", self.batch_size, 1, unit="questions")
        require(
            self.name_or_path is None or self.url is None,
            f"{name}.url",
            self.url,
            f"be null with {name}.name_or_path (={self.name_or_path})",
            "take one of the two out",
        )
        require_endpoint(name, self)


@dataclass
class JudgeTermConfig:
    """The term `judge`: a grade of the whole answer."""

    question: str = JUDGE_QUESTION
    """The user turn that the judge is shown; holds {prompt} and {response}, and may hold \
{passages}, whose line falls away where none were shown, {lowest} and {highest}."""
    lowest: int = 1
    """Worst grade."""
    highest: int = 5
    """Best grade; grades are the whole numbers between the two, of one digit each."""
    failed_score: float | None = None
    """Score of an answer that gets no grade; None: the lowest."""

    def __post_init__(self) -> None:
        name = "reward.judge"
        optional = (PASSAGES, "lowest", "highest")
        require_fields(f"{name}.question", self.question, ("prompt", "response"), optional)
        require_range(f"{name}.lowest", self.lowest, 0, 8)
        require_range(f"{name}.highest", self.highest, self.lowest + 1, 9)
        require_range(f"{name}.failed_score", self.failed, self.lowest, self.highest)

    @property
    def failed(self) -> float:
        """`failed_score`, or the lowest grade."""
        return float(self.lowest) if self.failed_score is None else self.failed_score


@dataclass
class CriterionConfig:
    """One line of a rubric."""

    name: str = ""
    """Of the metric: `reward/rubric/<name>_raw`."""
    text: str = ""
    """What must hold of an answer, as a sentence."""
    weight: float = 1.0
    """Share of the score, over the sum of all weights."""

    def __post_init__(self) -> None:
        name = "reward.rubric.criteria"
        require(
            self.name.isidentifier() and self.name not in PARTS,
            f"{name}.name",
            repr(self.name),
            f"be a name of letters, digits and _ that is none of {', '.join(PARTS)}",
            "choose another",
        )
        require(
            bool(self.text.strip()),
            f"{name}.{self.name}.text",
            repr(self.text),
            "say what must hold of an answer",
            "write a sentence",
        )
        require_range(f"{name}.{self.name}.weight", self.weight, 1e-6, 1e6)


@dataclass
class RubricConfig:
    """The term `rubric`: criteria, each of which holds of an answer or not."""

    criteria: list[CriterionConfig] = field(default_factory=list)
    """At least one where a term is named rubric."""
    question: str = RUBRIC_QUESTION
    """The user turn that the judge is shown of each criterion; holds {prompt}, {response} and \
{criterion}, and may hold {passages}, whose line falls away where none were shown."""
    words: list[str] = field(default_factory=lambda: ["yes", "no"])
    """What the judge says where a criterion holds and where it does not."""
    failed_score: float = 0.0
    """What a criterion counts, from 0 to 1, that gets neither word."""

    def __post_init__(self) -> None:
        name = "reward.rubric"
        needed = ("prompt", "response", "criterion")
        require_fields(f"{name}.question", self.question, needed, (PASSAGES,))
        words = [word.strip().casefold() for word in self.words]
        require(
            len(words) == 2 and all(word.isalnum() for word in words) and words[0] != words[1],
            f"{name}.words",
            self.words,
            "be two different words",
            "use [yes,no]",
        )
        require_range(f"{name}.failed_score", self.failed_score, 0.0, 1.0)
        names = [criterion.name for criterion in self.criteria]
        require(
            len(set(names)) == len(names),
            f"{name}.criteria",
            names,
            "have a name of its own each",
            "rename one",
        )
