"""`plumbrule check`: is an archive whole, and are its tables those of its items?"""

from __future__ import annotations

import argparse
from pathlib import Path

from plumbrule.bundles.archive import Limits
from plumbrule.bundles.verify import Check, check_archive
from plumbrule.config import require
from plumbrule.errors import ArtifactError, listed

MOST, FEW = 12, 3
"""What is wrong that is listed, and that the error names."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("archive", type=Path, help="that plumbrule bundle wrote")
    parser.add_argument(
        "--most-gib", type=float, default=8.0, help="size unpacked, above which it is refused"
    )
    parser.add_argument("--all", action="store_true", help="name every number that no item gives")


def run(options: argparse.Namespace) -> None:
    """Print what was verified, what was computed again and what could not be.

    Raises: ArtifactError: the archive can't be read, or something in it is wrong.
    """
    require(options.most_gib > 0, "--most-gib", options.most_gib, "be above 0", "raise it")
    limits = Limits(num_bytes=int(options.most_gib * 2**30))
    found = check_archive(options.archive, limits)
    print("\n".join(lines(found, len(found.every_wrong) if options.all else MOST, options.all)))
    if found.every_wrong:
        raise ArtifactError(
            f"{len(found.every_wrong)} things in {options.archive} are wrong: "
            + "; ".join(found.every_wrong[:FEW])
        )


def lines(found: Check, most: int, every: bool = False) -> list[str]:
    """Return what is printed of a check. Args: every: whether to name all numbers."""
    left_out = ", ".join(f"{n} of {sort}" for sort, n in found.left_out.items()) or "none"
    said = [
        f"{found.run}: {found.files} files have the digests that the archive lists",
        f"left out by whoever wrote it: {left_out}",
        f"computed again from items: {found.recomputed} numbers",
    ]
    for one in found.nodes:
        if one.recomputed:
            state = f"{len(one.wrong)} differ" if one.wrong else "all agree"
            said.append(f"  {one.artifact}: {one.recomputed} numbers, {state}")
    unknown = [one for one in found.nodes if one.unknown]
    if unknown:
        said.append("not computed again, since no item rows give them:")
        for one in unknown:
            names = listed(one.unknown, len(one.unknown) if every else 4)
            said.append(f"  {one.artifact}: {len(one.unknown)} numbers ({names})")
    if found.reports.same:
        said.append("report.html and report.md, written again: the same to the byte")
    said += found.reports.notes
    said.append(f"wrong: {len(found.every_wrong) or 'nothing'}")
    return said + [f"  {line}" for line in found.every_wrong[:most]]
