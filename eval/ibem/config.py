"""Settings of stage eval_ibem. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from plumbrule.config import CONTENT, require_choice, require_range
from plumbrule.errors import ConfigError
from plumbrule.runtime_config import RuntimeConfig
from plumbrule.stage_kind import PlacedNode, StageKind

MATCHES = ("box", "number")


@dataclass
class IbemEvalConfig:
    """Stage `eval_ibem`: mathematical expressions of pages against their ground truth."""

    path: str | None = field(default=None, metadata=CONTENT)
    """`IBEM.json`, or a file of the same shape."""
    predictions: str | None = field(default=None, metadata=CONTENT)
    """File of the same shape with what a system found; None: retrieval alone is measured."""
    match: str = "box"
    """Which prediction is held to an expression: box, the one that lies where it does; number, \
the one of its page, type and number, for a system that was told where to look."""
    iou: float = 0.7
    """Area that two boxes share, as a share of what they cover together, from which they match."""
    max_queries: int | None = 2000
    """Expressions whose page is looked for, spread evenly; None: all."""
    confidence: float = 0.95
    """Of every interval."""

    def __post_init__(self) -> None:
        require_choice("eval_ibem.match", self.match, MATCHES)
        require_range("eval_ibem.iou", self.iou, 0.01, 1.0)
        if self.max_queries is not None:
            require_range("eval_ibem.max_queries", self.max_queries, 1, unit="expressions")
        require_range("eval_ibem.confidence", self.confidence, 0.5, 0.9999)


def check_files(node: PlacedNode, runtime: RuntimeConfig) -> None:
    """Raise ConfigError where no ground truth is named."""
    if node.config.path is None:
        raise ConfigError("eval_ibem.path (=None) must name IBEM.json; pass eval_ibem.path=<file>.")


STAGE = StageKind(
    "eval_ibem",
    IbemEvalConfig,
    "eval.ibem.stage:run",
    measured=True,
    headline=("eval_ibem/*",),
    check="eval.ibem.config:check_files",
    recompute="eval.recompute:ibem_evaluation",
)
