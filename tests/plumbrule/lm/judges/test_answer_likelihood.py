"""Log-odds of two words against the model's own softmax, one token at a time."""

import numpy as np
import pytest
import torch
from worlds.tiny_models import policy

from plumbrule.errors import ConfigError
from plumbrule.lm.judges.answer_likelihood import log_odds, word_logprobs


@pytest.mark.parametrize(
    ("yes", "no"),
    [([20], [35]), ([20, 33], [20, 35]), ([20, 33], [35]), ([20, 33, 7], [20, 35])],
)
def test_log_odds_equals_the_difference_of_log_probs(yes, no):
    # One token each, a shared first token (both one forward pass), and verdicts of other lengths.
    asked = policy()
    asked.model.double()
    prompts = [[5, 9, 31], [7], [12, 40, 41, 42, 43, 8], [5, 9]]
    advanced = []
    ours = log_odds(asked, prompts, yes, no, max_rows=3, advance=advanced.append)
    expected = [log_prob(asked, prompt, yes) - log_prob(asked, prompt, no) for prompt in prompts]
    np.testing.assert_allclose(ours, expected, atol=1e-6)  # float32 log-probs
    assert sum(advanced) == 4
    turned = log_odds(asked, prompts, no, yes, max_rows=1, advance=advanced.append)
    np.testing.assert_allclose(turned, -ours, atol=1e-6)


@pytest.mark.parametrize("words", [[[20], [35], [7]], [[20, 33], [35], [7, 5, 2]]])
def test_log_probs_of_words_are_the_models_own(words):
    asked = policy()
    asked.model.double()
    prompts = [[5, 9, 31], [7], [12, 40, 41, 42, 43, 8], [5, 9]]
    ours = word_logprobs(asked, prompts, words, max_rows=3)
    expected = [[log_prob(asked, prompt, word) for word in words] for prompt in prompts]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    alone = [word_logprobs(asked, [prompt], words, max_rows=1)[0] for prompt in prompts]
    np.testing.assert_allclose(ours, alone, atol=1e-6)


def test_words_of_which_one_begins_another_are_refused():
    with pytest.raises(ConfigError, match=r"neither may begin the other"):
        word_logprobs(policy(), [[5]], [[20], [35], [20, 7]], max_rows=1)


def log_prob(policy, prompt, verdict):
    """Log p(verdict | prompt), one token at a time from the model's own logits."""
    total, tokens = 0.0, list(prompt)
    for token in verdict:
        with torch.no_grad():
            p = torch.softmax(policy.model(torch.tensor([tokens])).logits[0, -1], -1)
        total += p[token].log().item()
        tokens.append(token)
    return total


@pytest.mark.parametrize(("yes", "no"), [([3], [3]), ([3], [3, 4]), ([3, 4], [3])])
def test_words_that_are_the_same_or_begin_each_other_are_refused(yes, no):
    with pytest.raises(ConfigError, match="must differ"):
        log_odds(policy(), [[5]], yes, no, max_rows=1, advance=print)
