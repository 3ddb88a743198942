"""`plumbrule paper`: a paper's sweeps, whether its claims hold, and the page of all of them."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plumbrule.cli.composition import CONF
from plumbrule.cli.messages import say
from plumbrule.cli.verbs import add_store, store_of
from plumbrule.config import require, require_choice
from plumbrule.errors import ConfigError, TrainingError, listed
from plumbrule.papers.outcomes import FAILS, check_scale
from plumbrule.papers.paper import SCALES, Paper, PaperScale
from plumbrule.papers.paper_files import paper_names, read_paper
from plumbrule.papers.results_files import as_result, read_results, write_result
from plumbrule.papers.sweep_words import (
    arm_values,
    require_free,
    require_seeds,
    sweep_words,
)
from plumbrule.papers.wording import check_lines, page
from plumbrule.results.cells import key_of
from plumbrule.results.formats import aligned

PAPERS = CONF / "paper"
RUN, CHECK = "run", "check"
ACTIONS = ("list", RUN, CHECK, "docs")
SCALE = "scale="
ONE_ARM = "arm="
EVERY = "all"
"""In place of a paper's name: each of them."""
DRY = "run.dry=true"
RESULTS = Path("docs") / "papers"
PAGE = Path("docs") / "papers.md"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what may stand behind the verb."""
    parser.add_argument("action", help=f"one of {', '.join(ACTIONS)}")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="name",
        help="a paper of conf/paper, or all; then scale=full, and of run: arm=<one of its arms>, "
        "seed=0, run.dry=true, executor=local and others that change no result",
    )
    parser.add_argument("--record", help="of check: a folder for the results, as docs/papers")
    parser.add_argument("--json", action="store_true", help="of check: print the results as JSON")
    add_store(parser)


def run(options: argparse.Namespace) -> None:
    """Do one of `ACTIONS`.

    Raises: ConfigError: an unknown action, paper or word. TrainingError: a claim fails, or a sweep
    did not end well.
    """
    require_choice("paper", options.action, ACTIONS)
    _require_fitting(options)
    if options.action == "list":
        print("\n".join(list_lines()))
        return
    if options.action == "docs":
        text = docs_page(RESULTS)
        PAGE.write_text(text, encoding="utf-8")
        print(PAGE)
        return
    papers, scale, more = _asked(options.words)
    if options.action == RUN:
        if options.store is not None:
            more = [*more, f"run.store={options.store}"]
        start(papers, scale, more)
        return
    if more:
        raise ConfigError(
            f"paper check (={listed(more)}) must be given papers and a scale alone; leave it out."
        )
    _check(papers, scale, options)


def _require_fitting(options: argparse.Namespace) -> None:
    """Raise ConfigError for an option or words that the action does not read."""
    given = {"--record": options.record, "--json": options.json}
    unread = [name for name, value in given.items() if value and options.action != CHECK]
    if unread:
        raise ConfigError(
            f"{unread[0]} must stand behind paper {CHECK} (=paper {options.action}); leave it out."
        )
    if options.words and options.action not in (RUN, CHECK):
        raise ConfigError(
            f"paper {options.action} (={listed(options.words)}) must be given nothing; leave it "
            f"out, or name papers behind paper {RUN} or paper {CHECK}."
        )


def list_lines() -> list[str]:
    """Return a line for each paper."""
    rows = [["name", "claims", "paper"]]
    for name in paper_names(PAPERS):
        paper = read_paper(PAPERS, name)
        counts = [f"{len(s.claims)} {s.name}" for s in paper.scales.values() if s.claims]
        rows.append([name, ", ".join(counts), f"{paper.title} ({paper.citation})"])
    return aligned(rows)


def docs_page(results: Path) -> str:
    """Return docs/papers.md as conf/paper and a folder of results make it.

    Raises: ConfigError: there is no such folder.
    """
    require(
        results.is_dir(),
        "paper docs",
        results,
        "be a folder of the working directory",
        "run it at the root of the project, behind paper check <name> --record docs/papers",
    )
    names = paper_names(PAPERS)
    return page([read_paper(PAPERS, name) for name in names], read_results(results, names))


def start(papers: Sequence[Paper], scale: str, more: Sequence[str]) -> None:
    """Run the sweeps of papers, one after the other; with `run.dry=true` print the plan of all.

    Raises: ConfigError: a word that may not be added, or data that is not given. TrainingError: a
    sweep did not end well; those behind it were run.
    """
    chosen = [(paper, paper.scales[scale]) for paper in papers]
    there = [(paper, own) for paper, own in chosen if not own.unavailable]
    for paper, own in chosen:
        if own.unavailable:
            say(f"{paper.name}: no scale {scale}: {own.unavailable}")
    arms = [word.removeprefix(ONE_ARM) for word in more if word.startswith(ONE_ARM)]
    more = [word for word in more if not word.startswith(ONE_ARM)]
    for paper, own in there:
        require_free(own, more)
        for arm in arms:
            require_choice(f"arm of {paper.name}", arm, own.arms)
        require_seeds(paper, own, more)
    there = [(paper, with_arms(own, arms)) for paper, own in there]
    if DRY in more:
        _print_plan(there, [word for word in more if word != DRY])
        return
    broken = []
    for paper, own in there:
        for arm in own.arms:
            words = ["-m", *sweep_words(paper, own, arm, more)]
            say(f"{paper.name}, {arm}: plumbrule {shlex.join(words)}")
            code = subprocess.run(
                [sys.executable, "-m", "plumbrule", *words], check=False
            ).returncode
            if code < 0 or code >= 128:
                raise KeyboardInterrupt
            if code:
                broken.append(f"{paper.name} {arm}")
    if broken:
        raise TrainingError(
            f"{len(broken)} sweep(s) did not end well: {listed(broken)}; see the errors above, "
            "and give the same command again: what is done is not built again."
        )


def with_arms(scale: PaperScale, names: Sequence[str]) -> PaperScale:
    """Return a scale with some of its arms; none named: all."""
    arms = {arm: words for arm, words in scale.arms.items() if not names or arm in names}
    return replace(scale, arms=arms)


def _asked(words: Sequence[str]) -> tuple[list[Paper], str, list[str]]:
    """Return the papers, the scale and further words that were given."""
    names = [word for word in words if "=" not in word]
    if not names:
        raise ConfigError(f"paper must be named; there are {listed(paper_names(PAPERS), 30)}.")
    scales = [word.removeprefix(SCALE) for word in words if word.startswith(SCALE)]
    scale = scales[-1] if scales else SCALES[0]
    require_choice("scale", scale, SCALES)
    known = paper_names(PAPERS) if names == [EVERY] else names
    more = [word for word in words if "=" in word and not word.startswith(SCALE)]
    return [read_paper(PAPERS, name) for name in known], scale, more


def _check(papers: Sequence[Paper], scale: str, options: argparse.Namespace) -> None:
    """Print each paper's claims, keep the results where asked to, and fail where a claim fails."""
    store, failed, results = store_of(options), [], {}
    for paper in papers:
        checked = check_scale(paper, scale, store)
        result = as_result(checked)
        results[paper.name] = {scale: result}
        if not options.json:
            print("\n".join(check_lines(paper, checked.scale, result)) + "\n")
        if options.record and not checked.scale.unavailable:
            say(f"results: {write_result(Path(options.record), checked)}")
        failed += [f"{paper.name}: {outcome.claim.text}" for outcome in checked.failed]
    if options.json:
        print(json.dumps(results, indent=1, ensure_ascii=False))
    if failed:
        raise TrainingError(f"{len(failed)} claim(s) of verdict {FAILS!r}: {'; '.join(failed)}")


def _print_plan(chosen: Sequence[tuple[Paper, PaperScale]], more: Sequence[str]) -> None:
    """Print one plan of the cells of all arms, in which a stage that several share stands once."""
    from plumbrule.cli.composition import composed_config
    from plumbrule.cli.runs import Run
    from plumbrule.cli.sweeps.sweep_plan import print_sweep_plan
    from plumbrule.pipeline.compose import compose_run
    from plumbrule.pipeline.plan import Lookups
    from plumbrule.results.sweep_axes import cells_of_sweep
    from plumbrule.store.artifacts import Store
    from plumbrule.store.layout import store_root

    lookups, planned = Lookups(), []
    for paper, own in chosen:
        for arm, arm_words in own.arms.items():
            several = [key for key, values in arm_values(arm_words).items() if len(values) > 1]
            for overrides in cells_of_sweep(
                {"overrides": {"task": sweep_words(paper, own, arm, [*more, DRY])}}
            ):
                composed = compose_run(composed_config(overrides))
                store = Store(store_root(composed.config.run.store))
                told = [word for word in overrides if key_of(word) in (*several, "seed")]
                cell = Run(composed, list(overrides), store, None, lookups)
                planned.append((f"{paper.name} {arm} {' '.join(told)}", cell))
    print_sweep_plan(planned)
