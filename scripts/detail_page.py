"""Write the table of `rlhf/ppo/README.md`: what each detail of PPO is here, and what holds it.

    python scripts/detail_page.py            write the page and conf/sweep/ppo_details.yaml
    python scripts/detail_page.py --check    exit with 1 if it is stale, or a detail unheld

The prose of that page is written by hand, in the page itself; this program replaces what stands
between its two comments `details begin` and `details end`, and between `effects begin` and `effects
end`. The tables are made of four things:

* `rlhf/ppo/details.toml`: number, name, what we do, settings;
* the tests, whose `@pytest.mark.detail(n)` are found by parsing them: nothing is imported, so a
  page can be checked in a second and without torch;
* `rlhf/ppo/detail_effects.json`: what switching on each option alone changed, which
  `scripts/ppo_details.py` gathers from the runs of `sweep=ppo_details`;
* `rlhf/ppo/mutations.json`: what `scripts/mutate.py` found when it broke each detail on purpose.

A second table holds what PPO chooses by name (`rlhf/ppo/options.py`): each entry of a registry has
a line in details.toml and a reference test that is marked `@pytest.mark.option(setting, name)`.

A claim on the page that no test holds is what this is to prevent: a number that is neither marked
by a test nor left out with a reason is an error, and so is a setting that does not exist.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("rlhf") / "ppo" / "README.md"
DETAILS = Path("rlhf") / "ppo" / "details.toml"
SWEEP = Path("conf") / "sweep" / "ppo_details.yaml"
MUTATIONS = Path("rlhf") / "ppo" / "mutations.json"
BEGIN = "<!-- details begin: written by scripts/detail_page.py, do not edit -->"
END = "<!-- details end -->"
EFFECTS = Path("rlhf") / "ppo" / "detail_effects.json"
EFFECTS_BEGIN = "<!-- effects begin: written by scripts/detail_page.py, do not edit -->"
EFFECTS_END = "<!-- effects end -->"
NUM_DETAILS = 65
STATUSES = ("default", "option", "left out")
COMMAND = "python scripts/detail_page.py"


@dataclass(frozen=True)
class Detail:
    """One row of details.toml."""

    number: int
    name: str
    status: str
    here: str
    settings: Sequence[str] = ()
    reason: str = ""
    change: Sequence[str] = ()
    """Of an option: its name in the sweep and the settings that switch it on."""
    unchanged: str = ""
    """Why it can't be switched on alone."""

    @property
    def is_left_out(self) -> bool:
        """Whether there is nothing to test."""
        return self.status == "left out"


@dataclass(frozen=True)
class OptionLine:
    """One entry of a registry in details.toml."""

    setting: str
    name: str
    here: str


def read_details(path: Path) -> list[Detail]:
    """Return the details in a file, in its order.

    Raises: TypeError: a row lacks a field, or has one that is not known.
    """
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["detail"]
    return [Detail(**row) for row in rows]


def read_options(path: Path) -> list[OptionLine]:
    """Return the lines on options in a file, in its order."""
    rows = tomllib.loads(path.read_text(encoding="utf-8")).get("option", [])
    return [OptionLine(**row) for row in rows]


def read_mutations(path: Path, part: str = "mutants") -> list[dict[str, Any]]:
    """Return what mutate.py found, one row per mutant: detail, name, killed_by; none: no file.

    Args: part: `mutants` of PPO's details, or `others`, whose `detail` is an area.
    """
    if not path.is_file():
        return []
    return json.loads(path.read_text(encoding="utf-8")).get(part, [])


def marked_tests(folder: Path) -> dict[int, list[str]]:
    """Return detail number -> tests that are marked with it, as `file::test`, sorted.

    Files are named relative to `folder`. Numbers must be literals, as `detail(27)`.
    """
    found: dict[int, set[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in numbers_of(node):
                    test = f"{path.relative_to(folder).as_posix()}::{node.name}"
                    found.setdefault(number, set()).add(test)
    return {number: sorted(tests) for number, tests in found.items()}


def numbers_of(function: ast.FunctionDef) -> list[int]:
    """Return the numbers of all `@pytest.mark.detail(...)` of a test."""
    return [number for arguments in marks_of(function, "detail") for number in arguments]


def marks_of(function: ast.FunctionDef, mark: str) -> list[list[Any]]:
    """Return the arguments of each `@pytest.mark.<mark>(...)` of a test."""
    calls = [d for d in function.decorator_list if isinstance(d, ast.Call)]
    marks = [call for call in calls if ast.unparse(call.func) == f"pytest.mark.{mark}"]
    return [[ast.literal_eval(argument) for argument in call.args] for call in marks]


def option_tests(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Return (setting, name) -> reference tests of that option, as `file::test`."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                for setting, *names in marks_of(node, "option"):
                    for name in names:
                        test = f"{path.relative_to(folder).as_posix()}::{node.name}"
                        found.setdefault((setting, name), []).append(test)
    return found


def option_problems(
    lines: Sequence[OptionLine], tests: Mapping[tuple[str, str], Sequence[str]]
) -> list[str]:
    """Return which options of a registry have no reference test or no line, a sentence each."""
    from rlhf.ppo.options import REGISTRIES

    found = []
    known = {(table.setting, name) for table in REGISTRIES for name in table}
    described = {(line.setting, line.name) for line in lines}
    for setting, name in sorted(known):
        if (setting, name) not in tests:
            found.append(
                f"option {setting}={name} must have a reference test; mark one with "
                f'@pytest.mark.option("{setting}", "{name}").'
            )
        if (setting, name) not in described:
            found.append(f"option {setting}={name} must have a line ([[option]]) in {DETAILS}.")
    for setting, name in sorted((described | set(tests)) - known):
        found.append(f"{setting}={name} is no option; correct {DETAILS} or the test's mark.")
    return found


def problems(details: Sequence[Detail], marked: Mapping[int, Sequence[str]]) -> list[str]:
    """Return what is wrong with the details and their tests, a sentence each."""
    found = []
    numbers = [detail.number for detail in details]
    if numbers != list(range(1, NUM_DETAILS + 1)):
        found.append(f"{DETAILS} must hold each number from 1 to {NUM_DETAILS} once, in order.")
    for detail in details:
        where = f"detail {detail.number} ({detail.name})"
        if detail.status not in STATUSES:
            found.append(f"{where}: status (={detail.status}) must be one of {STATUSES}.")
        if detail.is_left_out:
            if not detail.reason:
                found.append(f"{where} is left out and must have a reason.")
        elif detail.number not in marked:
            found.append(
                f"{where} must be held by a test; mark one with @pytest.mark.detail"
                f"({detail.number}), or leave the detail out and say why."
            )
        if detail.status == "option" and not detail.settings:
            found.append(f"{where} is an option and must name its settings.")
        if detail.status == "option" and (len(detail.change) == 2) == bool(detail.unchanged):
            found.append(
                f"{where} is an option and must have a change (its name in {SWEEP} and the "
                "settings that switch it on), or say in `unchanged` why there is none."
            )
        found += [
            f"{where}: {setting} must be a setting; correct {DETAILS}."
            for setting in detail.settings
            if not is_setting(setting)
        ]
    unknown = sorted(set(marked) - set(numbers))
    if unknown:
        found.append(f"tests are marked with details {unknown}, which {DETAILS} does not hold.")
    return found


def is_setting(name: str) -> bool:
    """Return whether `ppo.kl.coef` and the like is a field of the composed config."""
    from plumbrule.runtime_config import RuntimeConfig
    from rlhf.ppo.config import PPOConfig
    from rlhf.reward_model.config import RMConfig

    stage, *fields = name.split(".")
    kind: Any = {"ppo": PPOConfig, "rm": RMConfig, "runtime": RuntimeConfig}.get(stage)
    for field in fields:
        if not dataclasses.is_dataclass(kind):
            return False
        kind = typing.get_type_hints(kind).get(field)
    return kind is not None


def table(
    details: Sequence[Detail],
    marked: Mapping[int, Sequence[str]],
    mutations: Sequence[Mapping[str, Any]],
) -> str:
    """Return the generated part of the page."""
    caught = sum(bool(row["killed_by"]) for row in mutations)
    lines = [
        f"{len(details)} details, {sum(d.is_left_out for d in details)} of them left out; "
        f"{len(set().union(*marked.values()))} tests; {caught} of {len(mutations)} mutants caught "
        "(`python scripts/mutate.py`).",
        "",
        "| n | what | here | settings | held by | broken on purpose |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for detail in details:
        here = f"**Left out.** {detail.reason} {detail.here}" if detail.is_left_out else detail.here
        settings = [f"`{setting}`" for setting in detail.settings]
        if detail.status == "option":
            settings.append("(off by default)")
        tests = [f"`{test}`" for test in marked.get(detail.number, [])]
        broken = [outcome(row) for row in mutations if row["detail"] == detail.number]
        cells = [str(detail.number), detail.name, here]
        cells += ["<br>".join(each) for each in (settings, tests, broken)]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def sweep(details: Sequence[Detail]) -> str:
    """Return the sweep that switches on each option alone: the text of `SWEEP`."""
    lines = [
        "# @package hydra.sweeper",
        "# Each optional detail of PPO switched on alone, beside none of them (detail=default).",
        "# Command: plumbrule -m sweep=ppo_details",
        f"# Written by {COMMAND} of {DETAILS.as_posix()}; do not edit.",
        "params:",
        "  experiment: ppo_details",
        "  seed: range(0,5)",
        "alone:",
        "  detail:",
    ]
    for detail in details:
        if detail.change:
            name, settings = detail.change
            lines.append(f'    {name}: "{settings}"  # {detail.number}')
    lines.append("first: detail=default  # what all others are compared with")
    return "\n".join(lines) + "\n"


def option_table(
    lines: Sequence[OptionLine], tests: Mapping[tuple[str, str], Sequence[str]]
) -> str:
    """Return the table of what PPO chooses by name."""
    rows = ["| setting | name | what it does | held by |", "| --- | --- | --- | --- |"]
    for line in lines:
        held = "<br>".join(f"`{test}`" for test in tests.get((line.setting, line.name), []))
        rows.append(f"| `{line.setting}` | `{line.name}` | {line.here} | {held} |")
    return "\n".join(rows)


def outcome(row: Mapping[str, Any]) -> str:
    """Return what became of a mutant."""
    if not row["killed_by"]:
        return f"{row['name']}: **survives**"
    return f"{row['name']}: caught by `{row['killed_by'].split('::')[1]}`"


def render(page: str, generated: str, begin: str = BEGIN, end: str = END) -> str:
    """Return the page with a generated part replaced.

    Raises: SystemExit: a comment that bounds this part is missing, or stands there twice.
    """
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"{PAGE} must hold these two lines once each:\n{begin}\n{end}")
    before, rest = page.split(begin)
    after = rest.split(end)[1]
    return f"{before}{begin}\n\n{generated}\n\n{end}{after}"


def effect_table(details: Sequence[Detail], found: Mapping[str, Any]) -> str:
    """Return the table of what each option changed, of the numbers in `EFFECTS`."""
    effects = found["details"]
    base = effects["default"]
    seeds = base["states"].get("done", 0)
    told = [
        f"`{found['command']}`, {found['date']}, commit {', '.join(found['commits'])}, "
        f"{'; '.join(found['hardware'])}. None of them switched on: gold gain "
        f"{base['gold_gain']['mean']:.3g} (SD {_or_dash(base['gold_gain_sd'])}), KL "
        f"{base['kl']['mean']:.3g} nats, over {seeds} seeds. Cells that are done: "
        f"{sum(one['states'].get('done', 0) for one in effects.values())}. p is corrected over the "
        f"{_tested(effects, 'gold_gain')} details that have one for gold gain, and the "
        f"{_tested(effects, 'kl')} for KL, so it rises when more of them have run.",
        "",
        "| n | detail | switched on by | seeds | gold gain | p | KL, nats | p | SD of gold gain | "
        "collapsed | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for detail in details:
        if detail.status != "option":
            continue
        cells = [str(detail.number), detail.name]
        if detail.unchanged:
            told.append(_row([*cells, f"not alone: it {detail.unchanged}", *[""] * 8]))
            continue
        name, settings = detail.change
        cells.append("<br>".join(f"`{word.strip()}`" for word in settings.split(";")))
        one = effects.get(name, {"states": {}})
        states, done = one["states"], one["states"].get("done", 0)
        if not done:
            how = "failed" if states.get("failed") else "not run"
            told.append(_row([*cells, "0", how, *[""] * 6]))
            continue
        for part in ("gold_gain", "kl"):
            cells += [_effect(one[part]), _or_dash(one[part].get("p_holm"))]
        cells.insert(3, str(done))
        cells += [_or_dash(one["gold_gain_sd"]), f"{one['collapsed']} of {done}"]
        told.append(_row([*cells, str(states.get("failed", 0))]))
    return "\n".join(told)


def _tested(effects: Mapping[str, Any], part: str) -> int:
    """Return over how many details the p-values of a column are corrected."""
    return sum(one[part].get("p_holm") is not None for one in effects.values())


def _effect(one: Mapping[str, Any]) -> str:
    """Return a difference with its interval, or why there is none."""
    if one.get("difference") is None:
        return f"{one['mean']:.3g} (no seed in common)"
    if one.get("difference_low") is None:
        why = "too few seeds" if one["pairs"] < 3 else "no spread"
        return f"{one['difference']:+.3g} ({why} for an interval)"
    return f"{one['difference']:+.3g} [{one['difference_low']:.3g}, {one['difference_high']:.3g}]"


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_page(root: Path = ROOT) -> None:
    """Write the page and the sweep as they must be now."""
    (root / PAGE).write_text(expected_page(root), encoding="utf-8")
    (root / SWEEP).write_text(sweep(read_details(root / DETAILS)), encoding="utf-8")


def expected_page(root: Path) -> str:
    """Return the page as it must be now."""
    details, marked = read_details(root / DETAILS), marked_tests(root / "tests")
    generated = table(details, marked, read_mutations(root / MUTATIONS))
    options = option_table(read_options(root / DETAILS), option_tests(root / "tests"))
    generated = f"{generated}\n\nWhat is chosen by name; plug-ins add to it:\n\n{options}"
    page = render((root / PAGE).read_text(encoding="utf-8"), generated)
    effects = json.loads((root / EFFECTS).read_text(encoding="utf-8"))
    return render(page, effect_table(details, effects), EFFECTS_BEGIN, EFFECTS_END)


def check(root: Path = ROOT) -> list[str]:
    """Return what is wrong with the page and what it rests on; [] if nothing is."""
    found = problems(read_details(root / DETAILS), marked_tests(root / "tests"))
    if (root / PAGE).read_text(encoding="utf-8") != expected_page(root):
        found.append(f"{PAGE} is stale; run {COMMAND}.")
    if (root / SWEEP).read_text(encoding="utf-8") != sweep(read_details(root / DETAILS)):
        found.append(f"{SWEEP} is stale; run {COMMAND}.")
    return found


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if wrong")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if not given.check:
        write_page()
    found = check() + option_problems(read_options(ROOT / DETAILS), option_tests(ROOT / "tests"))
    if found:
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
