"""Settings of the reward that PPO, and any other policy method, maximises. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plumbrule.atlas.config import GoldConfig
from plumbrule.config import (
    CONTENT_IF_LOCAL,
    NOT_HASHED,
    require,
    require_choice,
    require_range,
    require_source,
)
from plumbrule.errors import ConfigError
from plumbrule.lm.endpoints.addresses import require_url
from plumbrule.stage_kind import POLICIES, Slot, StageKind
from rlhf.rewards.functions import FUNCTIONS, TERMS, source_digest
from rlhf.rewards.judge_config import (
    JUDGED_TERMS,
    JudgeModelConfig,
    JudgeTermConfig,
    RubricConfig,
)
from rlhf.rewards.searching import text_terms

OURS = (text_terms,)
"""Modules that register functions: importing them here is what makes their names known."""
ENSEMBLE_RULES = ("mean", "worst", "uncertainty", "weights")


@dataclass
class RewardTermConfig:
    """One term of a reward, and what becomes of it before the sum."""

    name: str = "rm"
    """rm (the node's `rm` inputs), gold, constant (always 1), classifier, http, judge, rubric, or \
a function of text: length, repetition, unfinished, supported, citation, neutral; of answers, \
searches and citations: exact_match, search_format, information_gain, search_redundancy, \
citation_precision, citation_recall, cited_support; or a term or function of a plug-in."""
    weight: float = 1.0
    normalise: str = "none"
    """batch: less the mean of the update's responses, by their standard deviation. A reward model \
is normalised already, on answers of the policy that PPO starts from."""
    clip: float | None = None
    """Then cut to [-clip, clip]; None: not at all."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of a plug-in's term that has settings; checked, and filled up with their defaults."""
    source: str = ""
    """Digest of the plug-in's file, or of our function's code; filled in, whatever is given."""

    def __post_init__(self) -> None:
        known, otherwise = {*TERMS, *FUNCTIONS}, "load the file that registers it: --plugin <file>"
        require_choice("reward.terms.name", self.name, known, otherwise)
        require(
            not (self.name in TERMS and self.name in FUNCTIONS),
            "reward.terms.name",
            self.name,
            "be registered once; it is a term and a function",
            "rename one of them",
        )
        own = self.own_settings()
        require(
            own is not None or not self.settings,
            f"reward.terms.{self.name}.settings",
            self.settings,
            "be left out: this term has none",
            "ours have theirs in reward.<term>",
        )
        if own is not None:
            self.settings = asdict(own)
        require_range(f"reward.terms.{self.name}.weight", self.weight, -1e6, 1e6)
        require_choice(f"reward.terms.{self.name}.normalise", self.normalise, ("none", "batch"))
        if self.clip is not None:
            require_range(f"reward.terms.{self.name}.clip", self.clip, 1e-9)
        self.source = source_digest(self.name)

    def own_settings(self) -> Any:
        """Return the settings as an instance of the class that the term registered, or None.

        Raises: ConfigError: one that the class has not, of another type, or that it refuses.
        """
        kind = TERMS.option(self.name).settings if self.name in TERMS else None
        if kind is None:
            return None
        try:
            return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), self.settings))
        except OmegaConfBaseException as error:
            known = ", ".join(f.name for f in fields(kind))
            raise ConfigError(
                f"reward.terms.{self.name}.settings (={self.settings}) must be of {known}: "
                f"{str(error).splitlines()[0]}; correct it."
            ) from None


@dataclass
class EnsembleConfig:
    """How the scores of several reward models become one."""

    rule: str = "mean"
    """mean; worst: the lowest; uncertainty: mean less penalty times their variance; weights: one \
model whose weights are the mean of theirs."""
    penalty: float = 1.0
    """Of rule uncertainty, per unit of variance."""

    def __post_init__(self) -> None:
        require_choice("reward.ensemble.rule", self.rule, ENSEMBLE_RULES)
        require_range("reward.ensemble.penalty", self.penalty, 0.0, 1e6)


@dataclass
class ClassifierConfig:
    """A ready-made sequence classifier as a term: its raw score for a dialogue."""

    name_or_path: str | None = field(default=None, metadata=CONTENT_IF_LOCAL)
    """Folder or hub name; needed where a term is named classifier."""
    revision: str | None = None
    """40-hex commit of a hub model; None for a folder."""
    label: int = 0
    """Which of the classifier's outputs is the score."""

    def __post_init__(self) -> None:
        require_range("reward.classifier.label", self.label, 0)
        if self.name_or_path is not None:
            name = "reward.classifier.name_or_path"
            require_source(name, self.name_or_path, "reward.classifier.revision", self.revision)


@dataclass
class HTTPConfig:
    """A scorer behind a URL as a term; `rlhf/rewards/http_scorer.py` says what it is asked."""

    url: str | None = None
    """http or https; needed where a term is named http."""
    version: str | None = None
    """What the scorer must say that it is: it stands for code that no fingerprint can see."""
    token_env: str | None = None
    """Environment variable whose value is sent as a bearer token; None: none is."""
    batch_size: int = field(default=64, metadata=NOT_HASHED)
    """Responses per request."""
    timeout_seconds: float = field(default=30.0, metadata=NOT_HASHED)
    """Of one request, from connecting to the reply's last byte."""
    patience_seconds: float = field(default=180.0, metadata=NOT_HASHED)
    """How long a request is tried again before the run stops."""

    def __post_init__(self) -> None:
        require_range("reward.http.batch_size", self.batch_size, 1, unit="responses")
        require_range("reward.http.timeout_seconds", self.timeout_seconds, 0.001, 86_400.0)
        require_range("reward.http.patience_seconds", self.patience_seconds, 0.0, 1e7)
        if self.url is not None:
            require_url("reward.http.url", self.url, "reward.http.token_env")
            require(
                bool(self.version),
                "reward.http.version",
                self.version,
                "name what the scorer answers as its version",
                "without it two runs of one config could mean different rewards",
            )


@dataclass
class RewardConfig:
    """What a policy method maximises: a weighted sum of named terms.

    A list, since a mapping that is overridden keeps its old entries beside the new ones.
    """

    terms: list[RewardTermConfig] = field(default_factory=lambda: [RewardTermConfig()])
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    gold: GoldConfig = field(default_factory=GoldConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    http: HTTPConfig = field(default_factory=HTTPConfig)
    judge_model: JudgeModelConfig = field(default_factory=JudgeModelConfig)
    """Whom the terms judge and rubric ask."""
    judge: JudgeTermConfig = field(default_factory=JudgeTermConfig)
    rubric: RubricConfig = field(default_factory=RubricConfig)

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        require(bool(names), "reward.terms", names, "name at least one term", "add one")
        require(
            len(set(names)) == len(names),
            "reward.terms",
            names,
            "name each term once",
            "add up the weights",
        )
        for name, setting, value in (
            ("classifier", "reward.classifier.name_or_path", self.classifier.name_or_path),
            ("http", "reward.http.url", self.http.url),
        ):
            require(
                value is not None or name not in names,
                setting,
                value,
                f"be given where a term is named {name}",
                "give it, or leave the term out",
            )
        require(
            bool(self.rubric.criteria) or "rubric" not in names,
            "reward.rubric.criteria",
            [],
            "hold at least one where a term is named rubric",
            "add one, such as {name: brief, text: It is one sentence.}",
        )

    def settings_of(self, name: str) -> Any:
        """Return the settings of a term: its own, else the section of its name, else None."""
        term = next(term for term in self.terms if term.name == name)
        return term.own_settings() or getattr(self, name, None)

    def notes(self) -> list[str]:
        """Return what a reader of the report must know of terms that are behind a URL."""
        behind = []
        if "http" in self.weights:
            behind.append(f"{self.http.url} (version {self.http.version})")
        if self.asks_judge and self.judge_model.url is not None:
            behind.append(f"{self.judge_model.url} (model {self.judge_model.model})")
        if not behind:
            return []
        return [
            f"The reward came from {' and '.join(behind)}: this run is not reproducible from its "
            "config. The replies are kept in the artifact."
        ]

    @property
    def asks_judge(self) -> bool:
        """Whether a term asks a language model."""
        return any(name in self.weights for name in JUDGED_TERMS)

    @property
    def weights(self) -> dict[str, float]:
        """Term name -> weight."""
        return {term.name: term.weight for term in self.terms}


@dataclass
class RequireConfig:
    """What the report card of every reward model must show before PPO trains against it."""

    accuracy: float | None = None
    """Least share of held-out pairs; None: any."""
    every_kind: float | None = None
    """Least accuracy, without label noise, on pairs of each kind of difference; None: any."""
    ece: float | None = None
    """Highest expected calibration error, less what chance explains of it; None: any."""
    beats_rules: bool = False
    """Whether the accuracy's interval must lie above the best rule of one feature."""

    def __post_init__(self) -> None:
        for name in ("accuracy", "every_kind", "ece"):
            if getattr(self, name) is not None:
                require_range(f"ppo.require_rm.{name}", getattr(self, name), 0.0, 1.0)


def _precision_of_judge(config: RewardConfig) -> tuple[str, str] | None:
    local = config.asks_judge and config.judge_model.url is None
    return ("judge_model.precision", config.judge_model.precision) if local else None


STAGE = StageKind(
    "reward",
    RewardConfig,
    "rlhf.rewards.stage:run",
    {
        "rm": Slot(
            ("rm",), required=False, many=True, read_if=lambda config: "rm" in config.weights
        ),
        "judge": Slot(POLICIES, required=False, read_if=lambda config: config.asks_judge),
    },
    links={"gold": "${gold}"},
    opener="rlhf.rewards.stage:open_configured",
    reward=lambda config: config,
    check="rlhf.rewards.graph_checks:check",
    precision=_precision_of_judge,
)
