"""A role's records depend on the sizes that the config says it reads, and on no others."""

from __future__ import annotations

import dataclasses

import pytest

from plumbrule.atlas.config import ATLAS_SIZES, AtlasConfig
from plumbrule.atlas.datasets import ROLES, records

SMALL = AtlasConfig(
    num_known=24,
    num_after=16,
    num_corpus=60,
    num_demonstrations=40,
    num_preferences=20,
    num_prompts=40,
    num_questions=24,
    num_halueval=8,
    num_bold=8,
)
SIZES = sorted({name for names in ATLAS_SIZES.values() for name in names})


@pytest.mark.parametrize("role", ROLES)
def test_other_sizes_change_nothing(role: str) -> None:
    before = records(role, SMALL)
    others = [name for name in SIZES if name not in ATLAS_SIZES.get(role, ())]
    for name in others:
        value = 0.5 if isinstance(getattr(SMALL, name), float) else getattr(SMALL, name) + 4
        changed = dataclasses.replace(SMALL, **{name: value})
        assert records(role, changed) == before, f"{role} reads atlas.{name}"


@pytest.mark.parametrize("role", sorted(ATLAS_SIZES))
def test_its_own_size_counts(role: str) -> None:
    name = ATLAS_SIZES[role][0]
    more = dataclasses.replace(SMALL, **{name: getattr(SMALL, name) + 4})
    split, larger = records(role, SMALL), records(role, more)
    before = len(split.train) + len(split.validation)
    assert len(larger.train) + len(larger.validation) > before
