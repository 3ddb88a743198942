"""Break each detail of PPO on purpose and see that a test of that detail fails; and what is around.

    python scripts/mutate.py                 all mutants; writes mutations.json and the page
    python scripts/mutate.py --only 27 rag   those of some details or areas, others are kept
    python scripts/mutate.py --dry           writes nothing

A mutant is a patch of a few words: a wrong PPO that somebody has published, or nearly did. It is
applied to a copy of the working tree, and only the tests that are marked with its detail run there,
until one fails. They must all pass on the copy before, or a failure would mean nothing. A mutant
that survives means a test that is missing or can't fail; a patch whose old text is gone, or stands
there twice, means that the code has moved on: both are errors, and the exit status is 1.

The patches of PPO's details are in `scripts/ppo_mutants.py`. Outside them,
`scripts/other_mutants.py` breaks the sampler, retrieval, evaluation, rewards, data and artifacts,
and `scripts/statistics_mutants.py` intervals, comparisons and reports; there each mutant names the
few tests of which one must fail.

This is not a mutation tester: it does not search. One patch per detail, chosen by hand, answers
the question "would we notice?" for the mistakes that are really made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from detail_page import (
    DETAILS,
    MUTATIONS,
    ROOT,
    marked_tests,
    read_details,
    read_mutations,
    write_page,
)
from other_mutants import MUTANTS as OTHER
from other_mutants import OtherMutant
from ppo_mutants import MUTANTS, Mutant
from statistics_mutants import MUTANTS as STATISTICS

OTHERS = [*OTHER, *STATISTICS]
PACKAGES = ("plumbrule", "rlhf", "sft", "rag", "eval")
SOURCES = (*PACKAGES, "tests", "conf", "docs", "scripts", "pyproject.toml", "setup.py")
LIBRARIES = (
    *(
        "torch",
        "transformers.models.llama.modeling_llama",
        "transformers.models.gpt2.modeling_gpt2",
    ),
    *("transformers.generation", "safetensors.torch", "pyarrow.parquet", "peft", "hydra"),
    *("scipy.stats", "sklearn.feature_extraction.text", "bm25s", "hypothesis"),
)
"""Imported once, before a process is forked for each mutant."""
LONGEST_SECONDS = 600
"""For the tests of one mutant; one that only hangs has survived."""


def as_mutant(other: OtherMutant) -> Mutant:
    """Return a mutant outside PPO's details, its area in the detail's place."""
    return Mutant(other.area, other.name, other.file, other.old, other.new, other.tests)


def patched(mutant: Mutant, root: Path = ROOT) -> str:
    """Return the text of the mutant's file with its patch.

    Raises: ValueError: the old text does not stand there exactly once.
    """
    text = (root / mutant.file).read_text(encoding="utf-8")
    number = text.count(mutant.old)
    if number != 1:
        raise ValueError(
            f"the patch of {mutant.detail} ({mutant.name}) must match {mutant.file} once, "
            f"not {number} times; write it anew in scripts/*_mutants.py:\n{mutant.old}"
        )
    return text.replace(mutant.old, mutant.new)


def unbroken(details: Iterable[int]) -> list[int]:
    """Return which of the details have no mutant."""
    held = {mutant.detail for mutant in MUTANTS}
    return sorted(number for number in details if number not in held)


def copy_sources(folder: Path) -> None:
    """Copy the working tree's source into `folder`."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)


def failing_test(folder: Path, tests: Sequence[str], keep_bytecode: bool = False) -> str | None:
    """Run tests of the copy in `folder` until one fails; return it, None if all pass.

    Raises: SystemExit: pytest did not run the tests; that is no failure of theirs.
    """
    # Those that start processes take longest, and come last.
    named = [f"tests/{test}" for test in sorted(tests, key=lambda t: ("processes" in t, t))]
    with tempfile.TemporaryFile("w+") as written:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            run_tests(folder, named, written.fileno(), keep_bytecode)
        code = wait_for(child)
        written.seek(0)
        said = written.read()
    if code in (0, None):
        return None
    hit = re.search(r"^(?:FAILED|ERROR) tests/(\S+::\w+)", said, re.MULTILINE)
    if code != 1 or hit is None:
        raise SystemExit(f"pytest could not run {tests}:\n{said[-3000:]}")
    return hit[1]


def run_tests(folder: Path, named: Sequence[str], output: int, keep_bytecode: bool) -> NoReturn:
    """Run pytest in this (forked) process on the copy in `folder`, and end it with pytest's status.

    Libraries are there already, which is most of the time that a narrow selection takes; nothing of
    the project may be.
    """
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(PACKAGES))
    assert not loaded, f"{loaded} were imported before the fork"
    for ours in ("detail_page", "other_mutants", "ppo_mutants", "statistics_mutants"):
        del sys.modules[ours]
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    sys.dont_write_bytecode = not keep_bytecode
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if not keep_bytecode:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    code = 3  # pytest's word for an error of its own
    try:
        code = pytest.main(["-x", "-q", "-rfE", "-m", "not slow", *named])
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def wait_for(child: int) -> int | None:
    """Return a process's exit status; None: it took too long, and was killed with its children."""
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def preload() -> None:
    """Import what most tests import, once for all mutants."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in LIBRARIES:
        importlib.import_module(name)


def run(mutants: Sequence[Mutant]) -> Iterator[str | None]:
    """Yield the test that catches each mutant, None where it survives; print as it goes.

    Raises: SystemExit: a patch does not apply, or a test fails without any.
    """
    marked = marked_tests(ROOT / "tests")
    preload()
    try:
        texts = [patched(mutant) for mutant in mutants]
    except ValueError as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        copy_sources(folder)
        every = sorted({test for mutant in mutants for test in tests_of(mutant, marked)})
        print(f"{len(every)} tests on the source as it is", flush=True)
        failing = failing_test(folder, every, keep_bytecode=True)
        if failing:
            raise SystemExit(f"{failing} fails without any mutant; mend it first.")
        for number, (mutant, text) in enumerate(zip(mutants, texts, strict=True), 1):
            begun = time.monotonic()
            file = folder / mutant.file
            original = file.read_text(encoding="utf-8")
            file.write_text(text, encoding="utf-8")
            found = failing_test(folder, tests_of(mutant, marked))
            file.write_text(original, encoding="utf-8")
            took = f"{time.monotonic() - begun:.0f} s"
            end = f"caught by {found}" if found else "SURVIVES"
            place = f"[{number}/{len(mutants)}] {mutant.detail!s:>2}"
            print(f"{place} {mutant.name}: {end} ({took})", flush=True)
            yield found


def tests_of(mutant: Mutant, marked: Mapping[int, Sequence[str]]) -> Sequence[str]:
    """Return the tests of which one must fail under a mutant."""
    if isinstance(mutant.detail, str):
        return mutant.tests
    return marked.get(mutant.detail, [])


def record(results: Mapping[tuple[int | str, str], str | None]) -> None:
    """Write results into mutations.json, beside those of mutants that were not run, and the page.

    Those of details stand under `mutants`, the others under `others`. A mutant that is no longer in
    the list leaves the file.
    """
    path = ROOT / MUTATIONS
    known: dict[tuple[int | str, str], str | None] = {
        (row["detail"], row["name"]): row["killed_by"]
        for part in ("mutants", "others")
        for row in read_mutations(path, part)
    }
    known |= results

    def rows(mutants: Sequence[Mutant]) -> list[dict[str, int | str | None]]:
        return [
            {"detail": mutant.detail, "name": mutant.name, "killed_by": known[mutant[:2]]}
            for mutant in mutants
            if mutant[:2] in known
        ]

    found = {"mutants": rows(MUTANTS), "others": rows([as_mutant(other) for other in OTHERS])}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page()


def main() -> None:
    """Run mutants, write what was found, and exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="N", help="of these details, areas or names")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    details = [d.number for d in read_details(ROOT / DETAILS) if not d.is_left_out]
    if missing := unbroken(details):
        raise SystemExit(
            f"details {missing} must have a mutant; add one to scripts/ppo_mutants.py."
        )
    every = [*MUTANTS, *map(as_mutant, OTHERS)]
    wanted = set(given.only or [str(m.detail) for m in every])
    mutants = [m for m in every if {str(m.detail), m.name} & wanted]
    if unknown := sorted(wanted - {of for m in every for of in (str(m.detail), m.name)}):
        raise SystemExit(f"--only (={unknown}) must name details, areas or mutants.")

    results: dict[tuple[int | str, str], str | None] = {}
    for mutant, found in zip(mutants, run(mutants), strict=True):
        results[mutant[:2]] = found
        if not given.dry:  # after each: an interrupted run keeps what it found
            record(results)
    survivors = [m for m in mutants if results[m[:2]] is None]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants were caught.")
    if survivors:
        lines = [f"  {m.detail}: {m.name} ({m.file})" for m in survivors]
        raise SystemExit("\n".join(["No test of theirs noticed:", *lines]))


if __name__ == "__main__":
    main()
