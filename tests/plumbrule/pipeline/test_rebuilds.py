"""Which stages an edit rebuilds: what computes their numbers, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from plumbrule.pipeline.plan import entry_modules
from plumbrule.pipeline.stages import STAGES
from plumbrule.store import fingerprint

REWARDS = ["best_of_n", "feedback", "ppo", "reject", "reward"]
"""Those that open a configured reward. The stage `reward` is one itself."""
PUBLISH = [
    *("best_of_n", "compare", "dpo", "encoder", "eval", "eval_ibem", "eval_rm", "eval_support"),
    *("knowledge", "methods", "overoptimisation", "rm", "summary", "vote", "win_rate"),
]
"""Those that publish an interval: rm and dpo have a report card, best_of_n a curve."""
READ = ["data", "eval_rm"]
"""Those that read files of any format."""
TRAIN = ["dpo", "feedback", "ppo", "rm", "sft"]
"""Those that publish what they cost."""


@pytest.fixture
def rebuilt(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], list[str]]:
    """Edit a file in memory and return the kinds whose own code is no longer the same."""
    read_text = Path.read_text

    def code() -> dict[str, dict[str, str]]:
        fingerprint.forget()
        return {kind: fingerprint.code_hashes(entry_modules(kind, {})) for kind in STAGES}

    def edit(file: str, old: str = "", new: str = "\nADDED = 1\n") -> list[str]:
        source = fingerprint.ROOT / file
        text = read_text(source, encoding="utf-8")
        assert text.count(old) == 1 or not old
        text = text.replace(old, new) if old else text + new
        before = code()
        monkeypatch.setattr(
            Path, "read_text", lambda self, **k: text if self == source else read_text(self, **k)
        )
        after = code()
        monkeypatch.setattr(Path, "read_text", read_text)
        fingerprint.forget()
        return sorted(kind for kind in before if before[kind] != after[kind])

    return edit


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("plumbrule/data/readers/jsonl.py", READ),
        ("plumbrule/data/readers/registry.py", READ),
        ("plumbrule/data/columns.py", READ),
        ("plumbrule/data/annotators.py", [*READ, "feedback"]),
        ("eval/benchmarks/perplexity.py", ["eval"]),
        ("eval/reward_models/formulas.py", ["eval_rm"]),
        ("rlhf/rewards/functions.py", REWARDS),
        ("rlhf/ppo/losses.py", ["ppo"]),
        ("rlhf/ppo/rollout/trajectory.py", ["ppo"]),
        ("plumbrule/statistics/means.py", PUBLISH),
        ("eval/comparisons/costs.py", ["knowledge", "methods"]),
        # a stage's costs are among its metrics, so it uses this code; knowledge and methods read
        # their names
        ("plumbrule/lm/cost_metrics.py", sorted([*TRAIN, "knowledge", "methods"])),
    ],
)
def test_code_rebuilds_those_who_compute_with_it(
    rebuilt: Callable, file: str, kinds: list[str]
) -> None:
    assert rebuilt(file) == kinds


@pytest.mark.parametrize(
    ("file", "kinds"),
    [
        ("sft/data/config.py", ["data"]),
        ("sft/base/config.py", ["base"]),
        ("sft/fine_tune/config.py", ["sft"]),
        ("rag/config.py", ["index"]),
        ("rlhf/feedback/config.py", ["feedback"]),
        ("rlhf/reward_model/config.py", ["rm"]),
        ("rlhf/rewards/config.py", REWARDS),
        ("rlhf/ppo/config.py", ["ppo"]),
        ("rlhf/dpo/config.py", ["dpo"]),
        ("rlhf/best_of_n/config.py", ["best_of_n", "reject"]),
        ("rlhf/studies/config.py", ["overoptimisation"]),
        ("eval/config.py", ["eval"]),
        # knowledge pairs rows and adds up costs as compare and methods do
        (
            "eval/comparisons/config.py",
            ["compare", "knowledge", "methods", "summary", "win_rate"],
        ),
        ("eval/knowledge/config.py", ["knowledge"]),
        ("sft/learn_fact/config.py", ["learn_fact"]),
        ("rag/add_fact/config.py", ["add_fact"]),
    ],
)
def test_a_constant_of_a_config_rebuilds_its_own_stage(
    rebuilt: Callable, file: str, kinds: list[str]
) -> None:
    assert rebuilt(file) == kinds


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("plumbrule/tracking/stage_tracker.py", "", "\nADDED = 1\n"),
        ("plumbrule/tracking/progress.py", "", "\nADDED = 1\n"),
        ("plumbrule/tracking/wandb_run.py", "", "\nADDED = 1\n"),
        ("plumbrule/tracking/config.py", "", "\nADDED = 1\n"),
        ("plumbrule/pipeline/stages.py", "", "\nADDED = 1\n"),
        ("plumbrule/report/metric_wording.py", "", "\nADDED = 1\n"),
        ("rlhf/ppo/metrics.toml", "", "\n"),
        # where a stage stands in the graph
        ("plumbrule/stage_kind.py", "", "\nADDED = 1\n"),
        ("rlhf/dpo/config.py", '{"policy": Slot(POLICIES), ', '{"policy": Slot(("sft",)), '),
        ("rlhf/ppo/config.py", "config.ptx.coef > 0", "config.ptx.coef > 1"),
        # what a stage may ask of its tracker; the tracker itself is the pipeline's
        ("plumbrule/protocols.py", "def say(self, text: str)", "def tell(self, text: str)"),
        # a check stops a stage or does nothing, so no number depends on it
        ("plumbrule/config.py", "if not holds:", "if not holds and name:"),
        # how a stage is computed, with the same numbers up to rounding
        ("plumbrule/runtime_config.py", "micro_batch_size: int = 32", "micro_batch_size: int = 64"),
    ],
)
def test_what_computes_no_number_rebuilds_nothing(
    rebuilt: Callable, file: str, old: str, new: str
) -> None:
    assert rebuilt(file, old, new) == []
