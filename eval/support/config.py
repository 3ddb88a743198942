"""Settings of stage eval_support. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import CONTENT, require_range
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode, StageKind


@dataclass
class SupportEvalConfig:
    """Stage `eval_support`: the lexical support measure against people's labels."""

    faithdial: str | None = field(default=None, metadata=CONTENT)
    """CSV of FaithDial's audit, or their folder; None: it is not measured."""
    ragtruth: str | None = field(default=None, metadata=CONTENT)
    """Folder of RAGTruth's response.jsonl and source_info.jsonl; None: it is not measured."""
    threshold: float = 0.5
    """Share of a sentence's content words below which it is called unsupported."""
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_range("eval_support.threshold", self.threshold, 0.0, 1.0)
        require_range("eval_support.confidence", self.confidence, 0.5, 0.9999)


def check_files(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError where no labelled responses are named."""
    if node.config.faithdial is None and node.config.ragtruth is None:
        raise ConfigError(
            "eval_support.faithdial and eval_support.ragtruth (=None) must name labelled responses;"
            " pass one of them."
        )


STAGE = StageKind(
    "eval_support",
    SupportEvalConfig,
    "eval.support.stage:run",
    measured=True,
    headline=("eval_support/*",),
    check="eval.support.config:check_files",
    recompute="eval.recompute:support_evaluation",
)
