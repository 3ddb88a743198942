"""What is said of lengths before training."""

from __future__ import annotations

from plumbrule.lm.sizes.lengths import describe_lengths


def test_lengths_are_told_by_four_quantiles_and_what_does_not_fit() -> None:
    # 21 rows of 10, 20, ..., 210 tokens: the 11th is 110, and place .95 x 20 = 19 holds 200
    rows = [10 * n for n in range(21, 0, -1)]
    said = describe_lengths("prompts", rows, 190, 2)
    assert said == (
        "21 prompts of 10 / 110 / 200 / 210 tokens (shortest, median, 95 %, longest); "
        "2 left out, longer than 190"
    )
    assert describe_lengths("prompts", rows, 1000, 0).endswith("; none longer than 1,000")
    assert describe_lengths("answers", rows, 190, 3, "pairs").endswith(
        "; 3 pairs left out, longer than 190"
    )
    assert describe_lengths("prompts", [], 10, 0) == "no prompts"
