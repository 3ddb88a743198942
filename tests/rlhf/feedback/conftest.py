"""What the labellers' tests share."""

from __future__ import annotations

import pytest
from worlds.rankings import prompts_of

from plumbrule.store.artifacts import Artifact


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A policy, and prompts of which 10 train and 4 are held out."""
    return prompts_of(tmp_path_factory.mktemp("feedback-inputs"))
