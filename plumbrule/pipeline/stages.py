"""The table of stage kinds. Part of the roof: it names the rooms.

Each kind stands here with its torch-free config class, the `module:function` strings of its `run`
and of what opens its artifact, which are imported only when a stage is built, and its input slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eval.benchmarks.registry import BENCHMARKS
from eval.config import CompareConfig, EvalConfig, MethodsConfig, SummaryConfig
from rag.config import IndexConfig
from rlhf.dpo.config import BestOfNConfig, DPOConfig, RejectConfig
from rlhf.feedback.config import FeedbackConfig, RMConfig
from rlhf.ppo.config import PPOConfig
from rlhf.rewards.config import RewardConfig
from rlhf.studies.config import OveroptimisationConfig
from sft.config import BaseConfig, DataConfig, SFTConfig


@dataclass(frozen=True)
class Slot:
    """An input of a stage: which kinds may fill it.

    many: `rm` also takes `rm_1`, `rm_2`, ...
    gathers: many, and all variations of each (`plumbrule/pipeline/variations.py`). Of a stage, all
    inputs gather or none does.
    """

    kinds: tuple[str, ...]
    required: bool = True
    many: bool = False
    gathers: bool = False
    read_if: Callable[[Any], bool] = lambda config: True
    """Whether a stage with this config reads it; an input that is not read is not built."""


@dataclass(frozen=True)
class StageKind:
    """What the pipeline knows of a kind of stage."""

    config: type
    run: str
    slots: Mapping[str, Slot] = field(default_factory=dict)
    opener: str | None = None
    """`module:function` that opens its artifact for other rooms."""
    parallel: bool = False
    """Whether it can be split over processes."""
    preview: str | None = None
    """`module:function` that counts what it will make, while planning; imports no torch."""
    precision: Callable[[Any], tuple[str, str] | None] = lambda config: None
    """Of a config: the setting that says in which precision the stage computes, and its value;
    None: it has none, or does not use it."""


class WithBenchmarks(Mapping[str, Slot]):
    """Slots of eval: its own, and the records of each benchmark, which plug-ins may add to."""

    def __init__(self, own: Mapping[str, Slot]):
        self.own, self.records = own, Slot(("data",), required=False)

    def __getitem__(self, name: str) -> Slot:
        """Return the slot of a name."""
        return self.records if name in BENCHMARKS else self.own[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        yield from (*self.own, *BENCHMARKS)

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.own) + len(BENCHMARKS)


def _retrieves(config: Any) -> bool:
    return config.retrieval.share > 0


def _uses_rm(config: Any) -> bool:
    return "rm" in config.reward.weights or config.value_init == "rm"


def _precision(config: Any) -> tuple[str, str]:
    return "precision", config.precision


def _precision_from_scratch(config: Any) -> tuple[str, str] | None:
    return _precision(config) if config.model.name_or_path is None else None


def _precision_of_judge(config: Any) -> tuple[str, str] | None:
    return ("judge.precision", config.judge.precision) if config.labeller == "judge" else None


def _labels_by_rm(config: Any) -> bool:
    return config.labeller == "rm" and "rm" in config.reward.weights


POLICY = ("base", "sft", "ppo", "dpo")
STAGES: dict[str, StageKind] = {
    "data": StageKind(DataConfig, "sft.data.stage:run", preview="sft.data.preview:preview"),
    "base": StageKind(
        BaseConfig,
        "sft.base.stage:run",
        {"corpus": Slot(("data",), read_if=lambda config: config.model.name_or_path is None)},
        precision=_precision_from_scratch,
    ),
    "sft": StageKind(
        SFTConfig,
        "sft.fine_tune.stage:run",
        {"base": Slot(POLICY, required=False), "demonstrations": Slot(("data", "reject"))},
        precision=_precision,
    ),
    "feedback": StageKind(
        FeedbackConfig,
        "rlhf.feedback.stage:run",
        {
            "policy": Slot(POLICY),
            "prompts": Slot(("data",)),
            "index": Slot(("index",), required=False, read_if=_retrieves),
            "rm": Slot(("rm",), required=False, many=True, read_if=_labels_by_rm),
            "judge": Slot(
                POLICY, required=False, read_if=lambda config: config.labeller == "judge"
            ),
        },
        precision=_precision_of_judge,
    ),
    "rm": StageKind(
        RMConfig,
        "rlhf.reward_model.stage:run",
        {
            "policy": Slot(POLICY),
            "preferences": Slot(("data", "feedback"), many=True),
            "ood": Slot(("data", "feedback"), required=False, many=True),
        },
        opener="rlhf.reward_model.model:open_reward",
        precision=_precision,
    ),
    "index": StageKind(
        IndexConfig,
        "rag.stage:run",
        {"documents": Slot(("data",))},
        opener="rag.retriever:open_index",
    ),
    "ppo": StageKind(
        PPOConfig,
        "rlhf.ppo.stage:run",
        {
            "policy": Slot(POLICY),
            "continues": Slot(("ppo",), required=False),
            "rm": Slot(("rm",), required=False, many=True, read_if=_uses_rm),
            "prompts": Slot(("data",)),
            "index": Slot(("index",), required=False, read_if=_retrieves),
            "demonstrations": Slot(
                ("data",), required=False, read_if=lambda config: config.ptx.coef > 0
            ),
            "overoptimisation": Slot(
                ("overoptimisation",),
                required=False,
                read_if=lambda config: config.stop_at is not None,
            ),
        },
        parallel=True,
        precision=_precision,
    ),
    "dpo": StageKind(
        DPOConfig,
        "rlhf.dpo.stage:run",
        {"policy": Slot(POLICY), "preferences": Slot(("data", "feedback"), many=True)},
        precision=_precision,
    ),
    "best_of_n": StageKind(
        BestOfNConfig,
        "rlhf.best_of_n.stage:run",
        {"samples": Slot(("feedback",)), "rm": Slot(("rm",), required=False, many=True)},
    ),
    "reject": StageKind(
        RejectConfig,
        "rlhf.best_of_n.reject_stage:run",
        {"samples": Slot(("feedback",)), "rm": Slot(("rm",), required=False, many=True)},
    ),
    "overoptimisation": StageKind(
        OveroptimisationConfig,
        "rlhf.studies.overoptimisation:run",
        {
            "ppo": Slot(("ppo",), required=False, gathers=True),
            "best_of_n": Slot(("best_of_n",), required=False, gathers=True),
        },
    ),
    "eval": StageKind(
        EvalConfig,
        "eval.stage:run",
        WithBenchmarks(
            {
                "policy": Slot(POLICY),
                "index": Slot(("index",), required=False),
                "rm": Slot(("rm",), required=False),
                "reward": Slot(("reward",), required=False),
                "reference": Slot(POLICY, required=False),
            }
        ),
    ),
    "reward": StageKind(
        RewardConfig,
        "rlhf.rewards.stage:run",
        {
            "rm": Slot(
                ("rm",), required=False, many=True, read_if=lambda config: "rm" in config.weights
            )
        },
        opener="rlhf.rewards.stage:open_configured",
    ),
    "compare": StageKind(
        CompareConfig,
        "eval.comparisons.compare:run",
        {"baseline": Slot(("eval",)), "policy": Slot(("eval",))},
    ),
}
STAGES["methods"] = StageKind(
    MethodsConfig,
    "eval.comparisons.methods:run",
    {
        "policy": Slot(("eval",), gathers=True),
        "baseline": Slot(("eval",), gathers=True),
        "best_of_n": Slot(("best_of_n",), required=False, gathers=True),
    },
)
MEASURED = ("sft", "feedback", "rm", "ppo", "dpo", "best_of_n", "eval", "compare")
STAGES["summary"] = StageKind(
    SummaryConfig, "eval.comparisons.summary:run", {"run": Slot(MEASURED, gathers=True)}
)
SECTION = {"index": "rag"}
"""Stage kind -> its section of the config, where the names differ."""


def slot_of(kind: str, name: str) -> Slot | None:
    """Return the slot of a stage kind that an input's name fills, or None."""
    slots = STAGES[kind].slots
    if name in slots:
        return slots[name]
    family = slots.get(name.rpartition("_")[0])
    if family is not None and (family.many or family.gathers):
        return family
    return next((s for n, s in slots.items() if s.gathers and name.startswith(f"{n}_")), None)
