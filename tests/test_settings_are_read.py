"""Every setting is read somewhere: one that no code reads is a promise that nobody keeps."""

from __future__ import annotations

import dataclasses

from setting_reads import project_reads, reads_in, schemas_under, unread

from plumbrule.atlas.gold import TERMS
from plumbrule.lm.cost_metrics import COSTS
from plumbrule.pipeline.experiment import GROUPS, RunConfig
from rlhf.dpo.config import DPOConfig
from sft.data.config import DataConfig

SCHEMAS = schemas_under(RunConfig) | schemas_under(DataConfig)
READ_BY_COMPUTED_NAME = {
    *(f"RunConfig.{group}" for group in GROUPS),  # cfg[section] in pipeline/experiment.py
    *(f"GoldConfig.{term}" for term in TERMS),  # getattr in atlas/gold.py
    "RewardConfig.gold",  # getattr of a term's section in rlhf/rewards/options.py
    "RewardConfig.classifier",
    "RewardConfig.judge",
    "RewardConfig.rubric",
    *(f"BudgetConfig.{cost}" for cost in COSTS),  # getattr in eval/comparisons/trials.py
}
ONLY_HASHED = {
    "ChunkerConfig.source",
    "DatasetConfig.source",
    "IndexConfig.source",
    "RefineConfig.source",
    "ItemFormat.source",
    "PPOConfig.source",
    "RewardTermConfig.source",
}
"""Digests of code that is chosen by name: they are filled in for the fingerprint."""


def test_every_setting_is_read_by_code_that_has_its_class() -> None:
    assert unread(SCHEMAS, project_reads()) <= READ_BY_COMPUTED_NAME | ONLY_HASHED


def test_settings_that_nothing_reads_are_named_though_other_classes_have_their_names() -> None:
    """Such as `cliprange`, which PPO reads: DPO's would be dead."""
    fields = [(name, float, 0.0) for name in ("cliprange", "text", "dual_clip")]
    planted = dataclasses.make_dataclass("DPOConfig", fields, bases=(DPOConfig,))
    planted.__module__ = DPOConfig.__module__
    assert unread([planted], project_reads()) == {
        "DPOConfig.cliprange",
        "DPOConfig.text",
        "DPOConfig.dual_clip",
    }


SCHEMAS_OF_EXAMPLES = """
from dataclasses import dataclass

@dataclass
class Inner:
    one: int = 1

@dataclass
class Outer:
    inner: Inner
    one: int = 1

"""
EXAMPLES = {
    "def f(config: Outer): return config.inner.one": {"Outer.inner", "Inner.one"},
    "def f(o: Outer):\n    config = o.inner\n    return config.one": {"Outer.inner", "Inner.one"},
    "def f(config: Inner | None): return config and config.one": {"Inner.one"},
    "def f(configs: list[Inner]): return [c.one for c in configs]": {"Inner.one"},
    "def f(config: Outer | Inner): return config.one": {"Outer.one", "Inner.one"},
    "def f(config: Inner): return getattr(config, 'one')": {"Inner.one"},
    "def g() -> Inner: ...\ndef f(): return g().one": {"Inner.one"},
    "class C:\n    def __init__(self, config: Inner): self.config = config\n"
    "    def f(self): return self.config.one": {"C.config", "Inner.one"},
    "def f(config: Inner): config.one = 2": set(),
    "def f(config): return config.one": set(),
    "def f(config: Inner): return Outer(config, one=1), 'one'": set(),
    "@dataclass\nclass D:\n    x: int\n    def __post_init__(self): print(self.x)": set(),
}


def test_a_read_is_known_by_the_class_of_what_it_is_taken_from() -> None:
    sources = {
        f"example{number}": (f"example{number}.py", f"{SCHEMAS_OF_EXAMPLES}{code}\n")
        for number, code in enumerate(EXAMPLES)
    }
    reads = reads_in(sources)
    for number, (code, expected) in enumerate(EXAMPLES.items()):
        found = {name.split(".", 1)[1] for name in reads if name.startswith(f"example{number}.")}
        assert found == expected, code
