"""A name of a class stands for one thing: no public class has it twice in the packages."""

from __future__ import annotations

import re
from collections import defaultdict

from places import ROOT


def test_no_two_packages_define_a_class_of_one_name() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for package in ("plumbrule", "rlhf", "sft", "rag", "eval"):
        for path in (ROOT / package).rglob("*.py"):
            for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(encoding="utf-8"), re.M):
                found[name].add(str(path.relative_to(ROOT)))
    twice = {name: sorted(where) for name, where in found.items() if len(where) > 1}
    assert twice == {}
