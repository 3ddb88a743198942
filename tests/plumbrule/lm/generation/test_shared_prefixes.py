"""Log-odds behind beginnings that are read once, against one pass per prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import tiny_families, tiny_models
from worlds.tiny_models import policy

from plumbrule.errors import ConfigError
from plumbrule.lm.generation import shared_prefixes
from plumbrule.lm.generation.shared_prefixes import (
    batches,
    can_share,
    common_length,
    find_runs,
    log_odds,
    visible,
)
from plumbrule.lm.judges import answer_likelihood
from plumbrule.lm.loading import make_policy
from plumbrule.lm.unpadded.attention import is_unpadded

INSTRUCTION = [1, 44, 50, 51, 52, 53, 54, 55]
PROMPTS = [
    [*INSTRUCTION, *rest]
    for rest in (
        [60, 61, 62, 63, 70, 71],  # two sides of one item
        [60, 61, 62, 63, 80],
        [90, 91, 92, 93, 94, 95, 96, 97],  # an item of one side
        [61, 62, 30, 31],
        [61, 62, 32],
        [61, 62, 32],  # the same again: it keeps a token of its own
    )
]
VERDICTS = [([20], [35]), ([20, 33], [20, 35])]
UNPADDED = [name for name in tiny_families.FAMILIES if name in ("Llama", "OPT", "Qwen3", "Phi3")]


def alone(asked, yes, no):
    return answer_likelihood.log_odds(asked, PROMPTS, yes, no, max_rows=1, advance=lambda n: None)


@pytest.mark.parametrize(("yes", "no"), [*VERDICTS, ([20, 33], [35])])
@pytest.mark.parametrize("pass_tokens", [1, 14, 512])
def test_they_are_those_of_one_pass_per_prompt(yes, no, pass_tokens):
    asked, advanced = policy(), []
    found = log_odds(
        asked, PROMPTS, yes, no, max_rows=2, advance=advanced.append, pass_tokens=pass_tokens
    )
    np.testing.assert_allclose(found, alone(asked, yes, no), atol=2e-5)
    assert sum(advanced) == len(PROMPTS)
    assert np.abs(found).max() > 0.1  # the model tells the prompts apart
    assert len(set(found.round(3))) >= 5


@pytest.mark.parametrize("family", UNPADDED)
def test_they_are_those_of_one_pass_per_prompt_in_other_families(family):
    asked = make_policy(tiny_families.model(family), tiny_models.tokenizer())
    assert can_share(asked, [20], [35])
    found = log_odds(asked, PROMPTS, [20], [35], max_rows=2, advance=lambda n: None)
    np.testing.assert_allclose(found, alone(asked, [20], [35]), atol=2e-5)


def test_a_model_with_sliding_windows_is_scored_prompt_by_prompt():
    asked = make_policy(tiny_models.model("mistral"), tiny_models.tokenizer())
    assert not is_unpadded(asked.model)
    assert not can_share(asked, [20], [35])
    found = log_odds(asked, PROMPTS, [20], [35], max_rows=2, advance=lambda n: None)
    np.testing.assert_allclose(found, alone(asked, [20], [35]), atol=2e-5)


def test_prompts_without_a_common_beginning():
    asked, prompts = policy(), [[5, 9, 31], [7], [12, 40, 41], [12, 40, 8]]
    found = log_odds(asked, prompts, [20], [35], max_rows=2, advance=lambda n: None)
    wanted = answer_likelihood.log_odds(
        asked, prompts, [20], [35], max_rows=1, advance=lambda n: None
    )
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_what_is_shared_is_computed_once():
    rows = PROMPTS
    assert common_length(rows) == len(INSTRUCTION)
    runs = find_runs(rows, len(INSTRUCTION))
    assert [run.places for run in runs] == [(0, 1), (2,), (3, 4, 5)]
    assert [run.shared for run in runs] == [(60, 61, 62, 63), (), (61, 62)]
    assert runs[0].rest == ((70, 71), (80,))
    # 4 + 2 + 1, 8 and 2 + 2 + 1 + 1 tokens in place of 6 + 5 + 8 + 4 + 3 + 3, and the 8 of the
    # instruction once in place of six times.
    assert [run.num_tokens for run in runs] == [7, 8, 6]
    assert [len(batch) for batch in batches(runs, 14)] == [1, 2]
    assert [len(batch) for batch in batches(runs, 15)] == [2, 1]
    assert [len(batch) for batch in batches(runs, 1)] == [1, 1, 1]


def test_each_prompt_keeps_a_token_of_its_own():
    assert common_length([[1, 2, 3], [1, 2, 3]]) == 2
    assert common_length([[1, 2], [1, 2, 3]]) == 1
    (run,) = find_runs([[1, 2, 3], [1, 2, 3]], 0)
    assert run.rest == ((3,), (3,))


def test_who_sees_whom_by_hand():
    # Two runs behind one cached token: of the first, a shared token and two branches of one each.
    seen = visible(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 1]), 1)
    assert seen.int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 0, 0, 1],
    ]


def test_a_pass_that_does_not_fit_memory_is_done_in_halves(monkeypatch):
    asked, sizes = policy(), []
    read_runs = shared_prefixes.read_runs

    def short_of_memory(policy, cache, common, batch):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read_runs(policy, cache, common, batch)

    monkeypatch.setattr(shared_prefixes, "read_runs", short_of_memory)
    found = log_odds(asked, PROMPTS, [20], [35], max_rows=2, advance=lambda n: None)
    np.testing.assert_allclose(found, alone(asked, [20], [35]), atol=2e-5)
    assert sizes == [3, 1, 2, 1, 1]


def test_a_run_that_does_not_fit_memory_is_an_error(monkeypatch):
    def never(policy, cache, common, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(shared_prefixes, "read_runs", never)
    with pytest.raises(torch.OutOfMemoryError):
        log_odds(policy(), PROMPTS, [20], [35], max_rows=2, advance=lambda n: None)


def test_words_that_begin_each_other_are_refused():
    with pytest.raises(ConfigError, match="must differ"):
        log_odds(policy(), PROMPTS, [3], [3, 4], max_rows=1, advance=print)
