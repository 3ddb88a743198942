"""Digests of parts that are written once are those of the whole."""

from __future__ import annotations

import pytest

from plumbrule.pipeline.planning.shared_digests import Hashed, digest_of_texts, hashed_text
from plumbrule.store.fingerprint import digest


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["ppo", {"b.py": "1", "a.py": "0"}, {"kl": {"coef": -0.0, "z": [1, 1.0, True]}}, {}],
        ["data", {}, {"path": 'ä "quoted" \\ \n', "none": None}, {"slot": "0" * 16}],
    ],
)
def test_texts_give_the_digest_of_the_list(values: list) -> None:
    assert digest_of_texts(map(hashed_text, values)) == digest(values)
    parts = [Hashed.of(v).text if isinstance(v, dict) else hashed_text(v) for v in values]
    assert digest_of_texts(parts) == digest(values)
