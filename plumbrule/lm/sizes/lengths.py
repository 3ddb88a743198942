"""How long rows are, said before training: what is left out is known then, not an hour later."""

from __future__ import annotations

from collections.abc import Sequence

QUANTILES = (("shortest", 0.0), ("median", 0.5), ("95 %", 0.95), ("longest", 1.0))


def describe_lengths(
    what: str, lengths: Sequence[int], limit: int, left_out: int, left_out_what: str = ""
) -> str:
    """Return a line on the lengths of rows, in tokens, and on how many of them do not fit.

    Nothing is cut short anywhere: what does not fit is left out whole.

    Args: what: the rows, in the plural. lengths: of all, those that do not fit too. limit: most
    tokens. left_out: how many are; left_out_what: of what, if not of these rows.
    """
    if not lengths:
        return f"no {what}"
    ordered = sorted(lengths)
    found = [ordered[round(share * (len(ordered) - 1))] for _, share in QUANTILES]
    names = ", ".join(name for name, _ in QUANTILES)
    shown = " / ".join(f"{number:,}" for number in found)
    rest = f"{left_out:,} {left_out_what}".strip()
    gone = f"{rest} left out, longer than" if left_out else "none longer than"
    return f"{len(ordered):,} {what} of {shown} tokens ({names}); {gone} {limit:,}"
