"""Rollouts as they may be found: of an earlier version, a hundred thousand, with texts of any kind.

What a page shows of them in a browser is in `test_browser.py`; here is what it is made of.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import made_rollouts
import numpy as np
import pyarrow as pa
import pytest

from plumbrule.report.rollouts.page import render_rollouts
from plumbrule.store.artifacts import Store

HOSTILE = {
    "markup": "<script>alert(1)</script><img src=x onerror=alert(2)> &amp; </script><!-- ]]>",
    "right_to_left": "שלום עולם and مرحبا",
    "override": "safe\u202eexe.txt\u2066 hidden\u2069",
    "control": "a\x00b\x1b[31mred\x07\u0085\u2028end\ufeff",
    "half_pair": "emoji \U0001f600 and a combining e\u0301",
}


def packed(html: str, name: str) -> Any:
    """Return the JSON of a packed part of a page."""
    inside = html.split(f'id="{name}">')[1].split("<")[0]
    return json.loads(zlib.decompress(base64.b64decode(inside)))


def test_files_of_the_first_version_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    files = {}
    for update in (1, 2, 3):
        columns = made_rollouts.columns_of([" One.", " Two."], ["a", "b"], update)
        files[update] = {k: v for k, v in columns.items() if k not in made_rollouts.FIRST_VERSION}
    artifact = made_rollouts.publish(Store(tmp_path), files)
    (artifact.path / "rollouts/update-00002.parquet").unlink()
    found = render_rollouts(artifact, "old")
    assert (found.held, found.total) == (4, 4)
    said = re.sub(r"\s+", " ", found.html)
    assert "The rollouts of update 2 were removed" in said
    assert "those of updates 1, 3, lack penalties, raw_scores, step_mask" in said


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_text_of_any_kind_stands_in_the_page_as_data_alone(tmp_path: Path, text: str) -> None:
    columns = made_rollouts.columns_of([text, " Plain."], [text, "b"], 1, [[text], []])
    artifact = made_rollouts.publish(Store(tmp_path), {1: columns})
    html = render_rollouts(artifact, text).html
    plain = render_rollouts(artifact, "a run").html
    assert text not in plain
    assert not set(plain) & set("\x00\x1b\x07\u202e\u2066\u2028\ufeff")
    assert html.count("<script") == plain.count("<script")  # the title is escaped, too
    assert text in packed(html, "facts")["texts"]


def test_of_a_hundred_thousand_rollouts_a_page_holds_whole_prompts(tmp_path: Path) -> None:
    num_updates, num_prompts = 10, 10_000
    rng = np.random.default_rng(0)
    numbers = pa.array([[0.5, -0.5]] * num_prompts, pa.list_(pa.float32()))
    files = {
        update: {
            "prompt_id": [f"prompt-{i}" for i in range(num_prompts)],
            "text": [f"answer {i} of {update}" for i in range(num_prompts)],
            "response": pa.array([[5, 6]] * num_prompts, pa.list_(pa.int64())),
            "kl": numbers,
            "scores": rng.normal(size=num_prompts),
        }
        for update in range(1, num_updates + 1)
    }
    artifact = made_rollouts.publish(Store(tmp_path), files)
    found = render_rollouts(artifact, "large")
    assert (found.held, found.total) == (10_000, 100_000)
    assert "10,000 of 100,000 rollouts: all responses to 1,000 of 10,000 prompts" in found.html
    assert len(found.html) < 20_000_000
